#!/bin/sh
# All that a site does on its GPU, on a machine with torch and numpy, and perhaps pytest and safetensors: one verdict.
#   benchmarks/gpu.sh                    python3
#   benchmarks/gpu.sh PYTHON [OPTIONS]   another interpreter; options are those of benchmarks/gpu.py
set -eu
cd "$(dirname "$0")/.."
python="${1:-python3}"
[ "$#" -eq 0 ] || shift
exec "$python" benchmarks/gpu.py "$@"
