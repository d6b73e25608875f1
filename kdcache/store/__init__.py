"""The cache on disk: atomic commits, every read checked, bytes that are a function of content.

cache            open_cache and Cache: reading
batch            Batch: some examples in memory
gather           examples of several batches, copied into one
copying          copies of many ranges of memory, in one call
builder          CacheBuilder: begin, resume, commit units, finalize, from any number of processes
output           a cache's folder as an output: marked as ours, and who writes there
writer           CacheWriter: examples one after the other, on top of the builder
checked          what a caller gives as an example -> Example, checked
unit             the examples and records of one shard
manifest         header, commit records and cache.json, as classes
requires         the features of the format that a header names
table            shards.arrow: what cache.json pins of every shard, in columns
shards           the shards of a finished cache: the table, and commit records on first use
record_text      the text of a plain commit record, read by a pattern
commits          the commit records of a cache that is being made, scanned once
parallel         work on some things at the same time, in their order
consistent       what a header and a manifest say twice, compared
schema           which arrays the shards of a task hold
blocks           the parts of a shard that are read at once, and their lines in its commit record
places           where shards and commit records lie
shard            one shard file and its commit record
content          what the arrays of a shard must be
foretold         how large a shard will be, before anything is made
limits           how large the files of a cache may be
pinned           a file whose digest is known
skipped          skipped.jsonl: the bad rows that were left out
taken            which examples of a shard were taken, as a line of text
lineage          of which caches and corpora a cache's examples are
score            what the teacher's own records score on the labels
ensemble         the weighted mean of several teachers, as one cache
alike            whether two caches are of one task, one set of classes and one tokenizer
same_tokenizer   whether two caches hold tokens of one tokenizer
tokenizer_files  pins a tokenizer: what it is, and the digests of its files
basis_file       the basis of calibrated records, one file of the cache
backend          Backend: flat arrays <-> one file, and the registered ones
zip_file         a zip of stored members, whose runs are ranges of the file
zarr_backend     shards as Zarr groups: chunks, codec and level of compression
zarr_members     what a Zarr shard says of itself, before it is decoded
arrow_message    what an Arrow shard says of itself, before it is decoded
arrow_backend    shards as Arrow IPC files: columns, codec and level of compression
parquet_backend  shards as Parquet: row groups of pages
parquet_text     what a Parquet file says of itself: heads of pages, the footer
parquet_levels   which values share a list, as Parquet says it
parquet_values   the values of a page
files            a cache's folder, local or remote
remote_files     the same behind one of fsspec's file systems
hub_files        the same in a repository of the Hugging Face Hub
local_copies     shards of remote caches, kept on the local disk
rewrite          a new cache of finished ones: what convert, merge and filter have in common
convert          from one backend to another
merge            several caches to one
filter           the examples of which an expression is true
where            the expression: its grammar
asked            what it may ask of examples
verify           every digest and count of a cache
finished         the mark of a finished cache, which gives a lost cache.json back
rebuild          a lost commit record, of its shard and the table
repair           what of a damaged cache can be had again without its teacher

This package knows nothing of teachers, corpora or training. FORMAT.md specifies the format,
and READING.md reads it without kdcache.

How to add a backend
--------------------
Write one file with a class that has

- `suffix`, how the names of its files end, and `libraries`, the distributions whose versions decide its bytes;
- `encode(fields, blocks, stamp) -> bytes`, of the arrays of each block; `layout(fields, bytes) -> kdcache.Layout`,
  where the blocks lie; `sizes(fields, block, frame)`, how many elements each level of a block has, as it says of
  itself; and `decode(fields, block, frame, sizes) -> arrays, stamp`, of the bytes of one. The same arrays must give the
  same bytes, and what is read must be what was written. The stamp says what a file is part of, and of a block its
  number too; the `sizes` that `decode` is given are to be compared with what the block says of itself before memory is
  taken. `kdcache.to_arrow` and `from_arrow` give the arrays as one row per example, with the stamp.

Call `kdcache.register_backend("mine", MyBackend())`, name the file's module as `module` in the settings of a dump and
of a run and as `--module` of the other commands, and `backend: mine` uses it. tests/extending/npz.py is a whole
one.
"""
