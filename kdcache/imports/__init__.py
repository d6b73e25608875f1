"""Imports: captures that other tools took of a teacher become caches, which say what the captures lack.

capture          Capture, the interface of a format; Captured, one text with the distributions in it
registry         FORMATS, register_import
options          what a user says of a capture that it does not say itself
run              import_capture: units of the input, committed one by one
rows             what a capture says of a text, checked, as the arrays of captured records
alignment        whether distributions stand where they say
corpus_capture   formats whose files the corpus room reads
jsonl            vLLM, OpenAI's API and axolotl: one text a line
json_entries     the entries of one distribution, as JSON has them
distillkit       DistillKit's Parquet files
distillkit_codec how it compresses log-probabilities
megatron         tar shards of Megatron-LM's offline logits
llama_cpp        files of llama-perplexity --kl-divergence-base
binary_files     local files that are read by ranges

How to add a format
-------------------
Write one file with a subclass of `kdcache.imports.capture.Capture`: it opens the files, cuts them into fixed units, and
gives the texts of a unit as `Captured`: tokens, the positions where distributions stand, and their entries. What is
wrong with the input it refuses with a CorpusError that names the place; what is wrong with entries (NaN, classes that
are not there, sums above 1) is found here for all formats. Call `kdcache.register_import("mine", Mine)`, and `kdcache
import mine FILES… --module MODULE` uses it. tests/imports/own_format.py is a whole one. IMPORTS.md says what
is read and what it cannot say.
"""
