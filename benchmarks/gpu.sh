#!/bin/sh
# All that a site does on its GPU, on a machine with torch and numpy, and perhaps pytest and safetensors: one verdict.
#   benchmarks/gpu.sh                    python3
#   benchmarks/gpu.sh PYTHON [OPTIONS]   another interpreter; options are those of benchmarks/gpu.py
#   benchmarks/gpu.sh OPTIONS            python3 with options
set -eu
cd "$(dirname "$0")/.."
case "${1:--}" in
    -*) python=python3 ;;
    *) python="$1"; shift ;;
esac
if ! "$python" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("torch") and u.find_spec("numpy")))'; then
    echo "$python: is no Python with torch and numpy; give a Python that has both: benchmarks/gpu.sh PYTHON" >&2
    exit 2
fi
exec "$python" benchmarks/gpu.py "$@"
