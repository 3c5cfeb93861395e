#!/usr/bin/env bash
# Makes a virtual environment with what fits this machine: scripts/setup_env.sh [FOLDER]   (default .venv)
#
# With an NVIDIA GPU or on macOS: torch as PyPI has it. Elsewhere the CPU build, which is a tenth of the size: from PyTorch's own index
# if that answers, else whatever this machine's pip configuration offers.
# PYTHON names the interpreter to use; 3.11 or newer. Without it, one from 3.11 to 3.13 is preferred over a newer python3, for which
# packages may not be built yet.
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:-.venv}
torch=torch==2.13.0
cpu_index=https://download.pytorch.org/whl/cpu

suits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
usual() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }

find_python() {
    local name
    if [ -n "${PYTHON:-}" ] && suits "$PYTHON"; then
        echo "$PYTHON"
        return
    fi
    for name in python3 python3.13 python3.12 python3.11; do
        if usual "$name"; then
            echo "$name"
            return
        fi
    done
    if suits python3; then
        echo python3
        return
    fi
    echo "setup: no Python 3.11 or newer found (tried ${PYTHON:-python3} and python3.11 to python3.13); name one with PYTHON=…" >&2
    exit 2
}

answers() { "$venv/bin/python" - "$1" <<'PY'
import sys, urllib.request
try:
    urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=5).close()
except OSError:
    sys.exit(1)
PY
}

if [ ! -x "$venv/bin/python" ] || ! suits "$venv/bin/python"; then
    "$(find_python)" -m venv --clear "$venv"
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check install --quiet --quiet)

if [ "$(uname)" != Darwin ] && ! nvidia-smi >/dev/null 2>&1; then
    if answers "$cpu_index"; then
        echo "setup: the CPU build of $torch"
        "${pip[@]}" --index-url "$cpu_index" "$torch"
    else
        echo "setup: $torch (PyTorch's own index does not answer)"
        "${pip[@]}" "$torch"
    fi
else
    echo "setup: torch for $(uname) with a GPU"
fi
echo "setup: the rest"
"${pip[@]}" --editable '.[dev]'
