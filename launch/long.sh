#!/usr/bin/env bash
# The long profile, an hour or more: many kills, full disks, fuzzed inputs. launch/test.sh runs a short form of each.
#
#   bash launch/long.sh                     everything
#   bash launch/long.sh tests/train         pytest's arguments are passed on
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
install dev,bench,examples

KDCACHE_SMOLLM2=$(python launch/fetch_smollm2.py)
export KDCACHE_SMOLLM2
python -m pytest --long -m long "$@"
