"""Placements: how one copy of a teacher of transformers lies on devices.

placement        Placement, what each of them answers; PLACEMENTS, by name
whole            replicate and device_map: one rank holds a whole copy
sharded          what tensor_parallel and zero3 have in common: several ranks hold one copy, a replica
tensor_parallel  each rank holds a slice of the layers' matrices, by transformers' plan
zero3            each rank holds a slice of every weight and gathers a layer's before it runs, by DeepSpeed
replica          the ranks of a replica, and what they say to each other
meeting          how they find each other
watch            how they learn that one of them is gone
following        what all ranks of a replica but the first do

The elastic rule. A replica is `teacher.ranks_per_replica` consecutive ranks: with g of them, the ranks r·g to r·g + g −
1. Units of work are shared out between replicas, as they are between ranks otherwise. The first rank of a replica is
the whole dump: it alone reads the corpus, decides which units are left, compresses, writes and commits. The others hold
their part of the teacher and run the forward passes that the first one tells them, in its order, so that nothing has to
be agreed on. A dump may go on with any number of replicas; the ranks of one stay as many, since the bits depend on
them.
"""
