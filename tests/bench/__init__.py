"""Every comparison that kdcache makes with others and with itself, on the machine at hand: one command, one page.

    python -m tests.bench                    all parts, at most an hour on two cores; then tests/bench/RESULTS.md
    python -m tests.bench loaders dump       some of them
    python -m tests.bench --list             what there is, how long it takes, when it last ran
    python -m tests.bench --quick            all parts, small: to see that they run, not to be quoted
    python -m tests.bench --render           the page again, of the results that are there

A part writes tests/bench/results/PART.json, and the page shows the latest of each with its date and machine. A part
that fails does not stop the others, and the page says so; so does a peer that cannot be installed or run.

part         Part: a name, a function that gives rows, and a renderer; and the list of them
__main__     the command
running      one part in a process of its own, and its result as a file
page         results -> the part of RESULTS.md between two marks; what stands around it is written by hand
machine      processor, memory, versions
peers        other people's packages, pinned, in an environment of the bench's own
timing       sides of a comparison in turn, by CPU time; memory of a step
tables       rows -> Markdown
scene        the teacher, students and texts that several parts use
payload      the same records in everybody's format; readers reads them again

records      bytes, noise and bias of records; with multinomial (RS-KD) and polynomial (DistillKit) to compare with
shares       what students of each record learned, as a table
gpu          a part for one GPU (launch/bench_gpu.sh), with gpu_scene, gpu_sides and cuda_timing

engines      vLLM beside transformers, in the engines' environment
printed      parts that show what an older script prints: records.py, compression.py

How to add a part
-----------------
Write one file with `PART = Part(name=…, title=…, minutes=…, run=run, render=render)`. `run(quick)` gives a dictionary
that JSON can hold, `render(rows)` makes Markdown of it without running anything. Name the file in `part.PARTS`, in the
order of the page. Compare by CPU time, both sides in turn in one process (`timing.interleaved`), and give ratios.
"""
