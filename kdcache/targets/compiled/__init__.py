"""Rows of logits to records on the CPU, in loops that numba compiles: the same numbers as rows.py, faster.

rows         CompiledRows: a block of rows, on as many threads as torch has
records      one row after the other: two reads of its classes, then the draw
lanes        sums in an order that is written down: the same bits on every machine
flags        how all of these are compiled
classes      loops over all classes of a row, in vector instructions: maxima, exponentials, sums
order        the largest logits of a row, in order
systematic   the draw

Compiling takes 9 s of CPU the first time and is kept in the user's cache folder; loading it takes 2 s with numba.
"""
