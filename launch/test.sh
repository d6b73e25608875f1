#!/usr/bin/env bash
# Environment, install, then every check: ruff, mypy, pytest (real DeepSpeed launches and a real teacher included).
#
#   bash launch/test.sh                     everything
#   bash launch/test.sh -m 'not launch'     pytest's arguments are passed on
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
install dev,bench,examples

ruff check .
ruff format --check .
mypy
KDCACHE_SMOLLM2=$(python launch/fetch_smollm2.py)
export KDCACHE_SMOLLM2
python -m pytest "$@"
