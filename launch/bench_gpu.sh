#!/usr/bin/env bash
# What kdcache costs on one GPU: a dump beside the bare forward, a training step beside cross-entropy, the host's time
# between steps, bytes over the bus, time and memory of the loss. At most ten minutes; no model is fetched.
#
#   bash launch/bench_gpu.sh [OUTPUT.md]     prints the page, and writes it to runs/bench_gpu.md
#   bash launch/bench_gpu.sh --tiny          small sizes: to see that it runs, on a CPU too
#
# torch must be a CUDA build: KDCACHE_TORCH="torch --index-url …" names one (launch/environment.sh). KDCACHE_PYTHON
# names a Python that has kdcache already; then nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -z "${KDCACHE_PYTHON:-}" ]; then
    . launch/environment.sh
    install bench
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
"${KDCACHE_PYTHON:-python}" -m tests.bench.gpu "$@"
