#!/usr/bin/env bash
# Real inference engines, in an environment of their own: vLLM's build for CPUs wants an older transformers than ours.
#
#   bash launch/test_engines.sh             everything: eight minutes, and five more the first time, for the installation
#   bash launch/test_engines.sh -k killed   pytest's arguments are passed on
set -euo pipefail
cd "$(dirname "$0")/.."
. launch/environment.sh
install_engines

KDCACHE_SMOLLM2=$(python launch/fetch_smollm2.py)
export KDCACHE_SMOLLM2
# One GB for vLLM's caches, and no thread of it bound to a core that something else may use.
export VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
python -m pytest --engines tests/engines "$@"
