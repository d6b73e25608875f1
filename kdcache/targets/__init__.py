"""Records: what a cache keeps of a teacher's distribution at one position, and how to use it.

kind              RecordKind, the base of every kind
registry          RECORDS, the kinds by name; register_record
sampled, drawn, top_k, factored, dense, captured, features
                  the kinds: settings, stored arrays, encoding and decoding of each
sparse            what sampled, top_k and factored have in common
records           the kinds of one cache, as a setting
recorder          a teacher's rows -> the arrays of all records
teacher_rows      TeacherRows, what a teacher says at some positions
compress          compress, the round trip of one kind
curve_spec, plan  settings of sparse records

record            TeacherTargets, the distributions in memory: the public type, and what a loss may ask of it
sparse_targets, drawn_targets, dense_targets, factored_targets, captured_targets
                  the ways of answering it
curve             the tail's log-partition, mean and entropy at any temperature
basis             Basis, what the coefficients of factored records stand for
whole             the whole distribution of a factored record
output_layer      OutputLayer: the layer that makes logits, and what a model does to them after it
calibration       OutputLayer and hidden states -> Basis and Encoder
noise             what records are worth at a temperature

fields            the arrays that stand for records (and examples) on disk, and how they nest
sparse_rows       rows -> the arrays of sparse records
sparse_codec      sparse records -> the arrays that stand for them
sparse_decoding   these arrays -> SparseTargets, in torch on any device
coded             Coded, records as they are stored, as tensors on their way to where they are decoded
drawn_codec       drawn records <-> these arrays
logit_codec, curve_codec
                  the integers that stand for logits and for the curve
rows              blocks of rows -> records, in torch
compiled          the same on the CPU, in loops that numba compiles
moments           the sums over all classes of a row
fused_passes      the passes as Triton kernels, on a GPU
host              small arrays between host and GPU without a wait of their own
sample            the certain entries and the draw
philox            the draw's random number
constants         numbers that torch and numba share
never             classes that a teacher never gives (logits of −inf)
precision         float32 products in float32, whatever is allowed around them
product           products of integers and half-precision numbers
decisions         records of several classes as records of yes and no, one for each class
moving            the tensors of a record batch to another device
packing           Packed, a structure of tensors as one run of bytes

This package knows nothing of files, models or training. RECORDS.md says which record to choose.

How to add a record kind
------------------------
Write one file with a subclass of `kdcache.targets.kind.RecordKind`:

1. its settings are its fields, with `kind: Literal["mine"] = "mine"` among them;
2. `fields` names the arrays that it stores, `encode` makes them of a teacher's rows, and `decode` makes of them, as
   tensors on whatever device they are on, a TeacherTargets, which answers what a loss asks (`SparseTargets` serves
   every kind that keeps some entries and knows the mass of the rest). `facts` is for sizes that decode would have to
   ask a GPU for. A kind that is no distribution, as features are, sets `distribution = False`.

Call `kdcache.register_record("mine", Mine)` and name the file's module as `module` in the settings of a dump and of a
run; `record: {kind: mine}` uses it. kind.py says what each method is for; tests/extending/label_only.py is a kind of a
user's own.
"""
