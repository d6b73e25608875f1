#!/usr/bin/env bash
# Four classification tasks: a teacher each, one cache each, and what students learn from it by each method.
#
#   bash launch/tasks.sh                 all four; about an hour and a half on 2 CPU cores
#   bash launch/tasks.sh spam ner-zh     some of: spam sentiment-en sentiment-zh ner-zh
#   SEEDS="0" bash launch/tasks.sh spam  one seed in place of three
#
# Stop it anywhere and run it again: what is done stays done. The last lines are one table for each task.
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
install bench
tasks=(${@:-spam sentiment-en sentiment-zh ner-zh})
seeds=${SEEDS:-0 1 2}

# The methods: hard labels alone, the source article's three on the teacher's cache, and its own temperature schedule, whose
# T = 2 sharpens as the usual 1/2 does (kdcache/losses/ARTICLE.md).
kd="{name: divergence, temperature: 2.0, weight: 0.9}"
labels="{name: cross_entropy, weight: 0.1}"
article="temperature: 2.0, temperature_schedule: article, reduction: class_mean"
declare -A terms=(
    [hard]="[{name: cross_entropy}]"
    [temperature]="[$kd, $labels]"
    [entropy]="[{name: divergence, temperature: 2.0, weighting: entropy, weight: 0.9}, {name: entropy, weight: 0.1}, $labels]"
    [bottleneck]="[$kd, $labels, {name: bottleneck, width: 32, weight: 0.3}]"
    [article]="[{name: divergence, $article, weight: 0.9}, {name: cross_entropy, $article, weight: 0.1}]"
)

echo "== 1. Data and an English encoder, fetched once and digest-checked"
mkdir -p runs/tasks
python launch/fetch_tasks.py runs/tasks/data
[ -e runs/tasks/encoder ] || kdcache cut "$(python launch/fetch_minilm.py)" --layers 0,2,4 --out runs/tasks/encoder

for task in "${tasks[@]}"; do
    here=runs/tasks/$task
    data=runs/tasks/data/$task
    config=configs/tasks/$task
    suffix=jsonl; tokenizer=runs/tasks/encoder
    [ "$task" = ner-zh ] && suffix=conll
    [[ $task = *-zh ]] && tokenizer=characters

    [ ! -d $here/teacher-away ] || mv $here/teacher-away $here/teacher # after a kill in the middle of 4

    echo "== 2. $task: a teacher, made by the same two commands from labels alone"
    [ -e $here/teacher/student ] || {
        kdcache dump-logits $config/dump.yaml -o output=$here/labels -o teacher=none -o tokenizer=$tokenizer
        kdcache train $config/teacher.yaml
    }

    echo "== 3. $task: the teacher runs once over the training rows, once more over rows without labels, and the test rows"
    kdcache dump-logits $config/dump.yaml
    kdcache dump-logits $config/dump.yaml -o output=$here/more -o "corpus.paths=[$data/train.$suffix, $data/unlabelled.$suffix]"
    kdcache dump-logits $config/dump.yaml -o output=$here/test -o corpus.paths=$data/test.$suffix
    kdcache verify $here/cache

    echo "== 4. $task: students; the teacher's files are moved away while they train"
    mv $here/teacher $here/teacher-away
    trap "mv $here/teacher-away $here/teacher" EXIT
    students=()
    for seed in $seeds; do
        for method in hard temperature entropy bottleneck article; do
            kdcache train $config/student.yaml -o output=$here/$method-$seed -o seed=$seed -o "terms=${terms[$method]}"
            students+=($here/$method-$seed/student)
        done
        kdcache train $config/student.yaml -o output=$here/unlabelled-$seed -o seed=$seed -o cache=$here/more \
            -o "terms=${terms[temperature]}"
        students+=($here/unlabelled-$seed/student)
    done
    mv $here/teacher-away $here/teacher
    trap - EXIT

    echo "== 5. $task: mean and spread over seeds, on rows that nobody has seen"
    kdcache eval "${students[@]}" --cache $here/test --teacher $here/teacher/student --batch-examples 32 --json > $here/scores.json
    python launch/task_table.py $here/scores.json
done
