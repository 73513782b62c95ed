"""The step benchmark runs on torch and numpy alone and prints what it promises."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "step.py"
SMALL = ("--size", "32", "--width", "1", "--steps", "2", "--threads", "1", "--device", "cpu")


def run(*arguments: str) -> str:
    done = subprocess.run([sys.executable, str(SCRIPT), *SMALL, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def test_json_holds_ratio_gradient_agreement_and_memory() -> None:
    figures = json.loads(run("--json", "--stage", "survival"))
    ratio = figures["time"]["wall"]["ratio"]
    assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
    assert figures["gradient"]["finite"]
    assert figures["gradient"]["cosine"] > 0.8
    assert figures["peak_mib"]["baseline"] > 100


def test_table_is_for_people() -> None:
    table = run("--no-memory")
    assert "times faster" in table
    assert "gradient against fp32: finite" in table


def test_imports_nothing_but_torch_and_numpy() -> None:
    """In a fresh interpreter that refuses the libraries a bare GPU machine lacks."""
    code = (
        "import runpy, sys\n"
        "for name in ('pydantic', 'SimpleITK', 'lifelines', 'scipy', 'pandas', 'matplotlib', 'flwr', 'yaml'):\n"
        "    sys.modules[name] = None\n"
        f"sys.argv = ['step.py', '--help']\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--size" in done.stdout


def test_checkpointing_lowers_the_peak() -> None:
    """Measured as resident memory of one step in a process of its own; the libraries alone are some 300 MiB."""
    sizes = ("--size", "48", "--width", "4", "--batch", "2", "--peak-of", "1")
    eager, lean = (float(run(*sizes, *more)) for more in ((), ("--checkpointing",)))
    assert lean < eager - 50


@pytest.mark.parametrize(
    ("wrong", "said"), [(("--width", "0"), "model.width: 0 is too small"), (("--size", "17"), "17")]
)
def test_what_cannot_be_measured_is_one_line(wrong: tuple[str, str], said: str) -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), *SMALL, *wrong], capture_output=True, text=True, check=False)
    (line,) = done.stderr.splitlines()
    assert (done.returncode, line.startswith("error: "), said in line) == (2, True, True)
