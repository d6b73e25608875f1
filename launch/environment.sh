# Sourced by the other scripts: makes .venv, installs kdcache with pinned packages, leaves it activated.
#
#   KDCACHE_TORCH   what to install as torch; default torch==2.13.0, which is a CPU build where no other is offered.
#                   With GPUs: KDCACHE_TORCH="torch==2.13.0 --index-url <your CUDA index>" bash launch/quickstart.sh
#   KDCACHE_HOME    where fetched models stay between clones; default ~/.cache/kdcache
#
# Torch goes in before anything that depends on it: an open range would pull gigabytes of CUDA packages.

install() {  # EXTRAS
    local stamp=.venv/installed-$1
    if [ ! -e "$stamp" ] || [ pyproject.toml -nt "$stamp" ] || [ launch/constraints.txt -nt "$stamp" ]; then
        echo "== installing into .venv (about two minutes the first time)"
        [ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
        # shellcheck disable=SC2086  # KDCACHE_TORCH may hold options
        .venv/bin/python -c 'import torch' 2>/dev/null ||
            .venv/bin/python -m pip install --quiet --disable-pip-version-check ${KDCACHE_TORCH:-torch==2.13.0}
        .venv/bin/python -m pip install --quiet --disable-pip-version-check \
            --constraint launch/constraints.txt --editable ".[$1]"
        touch "$stamp"
    fi
    export PATH="$PWD/.venv/bin:$PATH"
}

install_engines() {
    local stamp=.venv-engines/installed
    if [ ! -e "$stamp" ] || [ launch/engines.txt -nt "$stamp" ] || [ pyproject.toml -nt "$stamp" ]; then
        echo "== installing into .venv-engines (about five minutes the first time)"
        [ -x .venv-engines/bin/python ] || "${PYTHON:-python3}" -m venv .venv-engines
        local pip=(.venv-engines/bin/python -m pip install --quiet --disable-pip-version-check)
        .venv-engines/bin/python -c 'import torch' 2>/dev/null || "${pip[@]}" torch==2.13.0
        "${pip[@]}" --no-deps --requirement launch/engines.txt
        "${pip[@]}" --no-deps --editable .
        touch "$stamp"
    fi
    export PATH="$PWD/.venv-engines/bin:$PATH"
}

# Nothing here needs a model hub, and a machine without a GPU should not be asked for one at every start.
export HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
