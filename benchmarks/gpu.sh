#!/bin/sh
# The model's tests and the step benchmark on a machine that has python3 with torch and numpy, and perhaps pytest.
#   benchmarks/gpu.sh [PYTHON]
set -eu
cd "$(dirname "$0")/.."
python="${1:-python3}"

if "$python" -c "import pytest" 2>/dev/null; then
    # The project's own pytest options need plugins that a bare machine lacks.
    PYTHONPATH=. "$python" -m pytest -c /dev/null --rootdir . -q -p no:cacheprovider tests/model
else
    echo "pytest is not installed: tests/model left out" >&2
fi
for size in 64 112; do
    for stage in segmentation survival; do
        "$python" benchmarks/step.py --size "$size" --stage "$stage" --steps 20
        echo
    done
done
"$python" benchmarks/step.py --size 112 --batch 2 --steps 20
