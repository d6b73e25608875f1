"""The record: what a cache keeps of a teacher's distribution at one position, and how to use it.

To add a record kind of your own, read kind.py: one class in one file, and `kdcache.register_record`.

kind            RecordKind, the base of every kind              registry    RECORDS, the kinds by name
sampled, top_k, factored, dense, features                       one kind each, the first three on top of sparse
records         the kinds of one cache, as a setting            recorder    a teacher's rows -> arrays of all records
teacher_rows    TeacherRows, what a teacher says at some positions
compress        compress, the round trip of one kind            curve_spec, plan    settings of sparse records

record          TeacherTargets, the distributions in memory: the public type, and what a loss may ask of it
sparse_targets, dense_targets, factored_targets                 the ways of answering
curve           the tail's log-partition and mean at any temperature
basis           Basis, what coefficients stand for              whole       the whole distribution of a factored record
output_layer    OutputLayer: the layer that makes logits, and what a model does to them after it
calibration     OutputLayer and hidden states -> Basis and Encoder
noise           what records are worth at a temperature

fields          the arrays that stand for records (and examples) on disk, and how they nest
sparse_rows     rows -> arrays of sparse records                sparse_codec    these arrays <-> numbers in memory
logit_codec, curve_codec                                        their integers
rows            blocks of rows -> records in torch              compiled    the same on the CPU, by numba
moments         the sums over all classes of a row              sample      the certain entries and the draw
constants       numbers that both ways share                    never       classes that a teacher never gives
philox          the draw's random number                        precision   float32 products in float32
product         products of integers and half-precision numbers

This package knows nothing of files, models or training.
"""
