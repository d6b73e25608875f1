#!/usr/bin/env bash
# Train on one node, or on the nodes of a hostfile ("node1 slots=8" per line, passwordless ssh between them).
#
#   bash launch/train.sh configs/cluster/train.yaml 8 [-o key=value …]
#   HOSTFILE=hosts bash launch/train.sh configs/cluster/train.yaml 8 [-o key=value …]
#
# The second argument is the number of ranks per node. Run it again to go on from the last checkpoint, with any number
# of ranks that divides stream.lanes.
set -euo pipefail
config=${1:?usage: bash launch/train.sh CONFIG RANKS_PER_NODE [-o key=value …]}
ranks=${2:?usage: bash launch/train.sh CONFIG RANKS_PER_NODE [-o key=value …]}
hosts=()
[ -z "${HOSTFILE:-}" ] || hosts=(--hostfile "$HOSTFILE")
exec deepspeed "${hosts[@]}" --num_gpus "$ranks" --no_local_rank --module kdcache train "$config" "${@:3}"
