"""The record: what a cache keeps of a teacher's distribution at one position, and how to use it.

spec      RecordSpec, the settings
fields    the arrays that stand for records (and examples) on disk, and how they nest
compress  teacher logits -> arrays -> TeacherTargets
codec     TeacherTargets <-> arrays: quantisation
curve     the tail's log-partition and mean at stored temperatures
record    TeacherTargets, the public type

This package knows nothing of files, models or training.
"""
