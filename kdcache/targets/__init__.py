"""The record: what a cache keeps of a teacher's distribution at one position, and how to use it.

spec          RecordSpec, the settings
record        TeacherTargets, the public type
curve         the tail's log-partition and mean at any temperature
basis         Basis, what a factored tail's coefficients stand for        whole    its whole distribution
output_layer  OutputLayer: the layer that makes logits, and what a model does to them after it
calibration   OutputLayer and hidden states -> Basis and Encoder
fields        the arrays that stand for records (and examples) on disk, and how they nest
compress      teacher logits -> arrays -> TeacherTargets
rows          blocks of rows -> records
moments       the sums over all classes of a row              sample    the certain entries and the draw
philox        the draw's random number
precision     float32 products in float32, whatever is allowed around them
noise         what records are worth at a temperature
codec         records <-> arrays                              logit_codec, curve_codec    their integers

This package knows nothing of files, models or training.
"""
