#!/usr/bin/env bash
# The story of kdcache, on a laptop's worth of text: one teacher, one cache, two students, one table.
#
#   bash launch/quickstart.sh
#
# About 12 minutes on 2 CPU cores, installation included. Stop it anywhere and run it again: what is done stays done.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
install bench
here=runs/quickstart
mkdir -p $here

echo "== 1. A teacher: SmolLM2-135M-Instruct, fetched once and digest-checked"
ln -sfn "$(python launch/fetch_smollm2.py)" $here/teacher

echo "== 2. Text: docstrings of the standard library, training and held-out from different modules"
[ -e $here/corpus/heldout.jsonl ] || python launch/make_corpus.py $here/corpus

echo "== 3. The teacher runs once; its logits become a cache"
kdcache dump-logits configs/quickstart/dump.yaml
kdcache dump-logits configs/quickstart/dump.yaml \
    -o output=$here/heldout -o corpus.paths=$here/corpus/heldout.jsonl -o record.kind=top_k -o record.k=256
kdcache verify $here/cache
kdcache inspect $here/cache

echo "== 4. Two students from the one cache; the teacher is not needed any more"
[ -e $here/cut-start ] || kdcache cut $here/teacher --layers 0,1,2,29 --out $here/cut-start
kdcache train configs/quickstart/train-random.yaml --nproc 2
kdcache train configs/quickstart/train-cut.yaml --nproc 2

echo "== 5. What they learned, on text neither has seen"
kdcache eval $here/random/student $here/cut/student --cache $here/heldout --untrained | tee $here/table.txt
python launch/compare_table.py $here/table.txt README.md
