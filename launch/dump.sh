#!/usr/bin/env bash
# Dump on one node, one rank per GPU (or per model replica). Run it again after an interruption.
#
#   bash launch/dump.sh configs/cluster/dump.yaml 8 [-o key=value …]
#
# Ranks do not talk to each other: more nodes may work on the same cache at the same time, each with its own range of
# ranks, as launch/dump.slurm does.
set -euo pipefail
config=${1:?usage: bash launch/dump.sh CONFIG RANKS [-o key=value …]}
ranks=${2:?usage: bash launch/dump.sh CONFIG RANKS [-o key=value …]}
exec deepspeed --num_gpus "$ranks" --no_local_rank --module kdcache dump-logits "$config" "${@:3}"
