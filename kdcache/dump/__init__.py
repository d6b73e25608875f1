"""Dump: run the teacher over the corpus once and commit one shard per work unit.

settings      DumpConfig: teacher, tokenizer, compute
pins          what a dump fixes before it starts: the header of the cache
prepare       what has to be known of teacher and corpus first: classes, widths
tokenizers    whose tokens the cache holds and the teacher reads
material      what a dump knows before its first shard, as a check does too
teacher_files the files it is loaded from: digests, and whether they are still the same
hardware      what of a machine decides the bits of a logit
engines       what runs a teacher: transformers, vLLM, one of your own
placements    how a copy of a teacher lies on devices: one, several, or those of several ranks
teacher       load the teacher, logits in blocks of positions
classifier    a teacher that classifies: a row of logits for each position
resume        what of a begun cache still stands
unit_size     cuts a corpus into units whose shards have a good size
units         a unit's rows to its examples, bad rows left out
trial         how the teacher is fed, so that no record depends on the neighbours
lazy_teacher  the teacher, loaded when it is first needed
calibrate     the basis of calibrated records, from the first positions of the corpus
batches       which examples share a forward pass, limited by tokens
compressing   blocks of a teacher's logits to records, in threads beside a GPU
records       a unit's examples to the arrays of its shard
handing       who gives a process its units: its rank's share, or a scheduler
schedulers    Ray: units handed out one by one to workers anywhere
background    work behind the main loop: shards are written
stages        the four stages of a dump: their times, and the profile of them
check         every row looked at before a teacher is loaded
begin         a cache begun, or gone on with: its header and its builder
make          one shard after the other, written while the teacher works on
finish        what is finished already, and the manifest when nothing is missing
run           one process of a dump: skip what is committed, make the rest, finalize
rerun         the teacher of a finished cache, run again on some of its examples
remake        lost files of a finished cache made again, byte for byte

Only this package loads a teacher.
"""
