"""The script for a GPU runs on this machine's CPU, bare of all but torch and numpy; its verdict is its exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.py"
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu  # noqa: E402 - from benchmarks, which is no package
import gpu_compare  # noqa: E402
from gpu_report import Report  # noqa: E402

BARE = """
ABSENT = {"pydantic", "flwr", "ray", "SimpleITK", "safetensors", "scipy", "lifelines", "pandas", "matplotlib", "yaml",
          "rich", "typer", "pytest", "hypothesis", "sksurv", "PIL"}
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *given: None if name.split(".")[0] in ABSENT else find(name, *given)
"""


@pytest.mark.slow
def test_an_interpreter_without_torch_is_one_line() -> None:
    command = [str(ROOT / "benchmarks/gpu.sh"), "/bin/false", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "/bin/false: is no Python with torch and numpy; give a Python that has both: benchmarks/gpu.sh PYTHON"
    ]


def test_a_bare_machine_gets_a_verdict_of_all_parts(tmp_path: Path) -> None:
    """Every process of the script refuses the libraries that a bare machine lacks."""
    (tmp_path / "sitecustomize.py").write_text(BARE)
    command = [str(ROOT / "benchmarks/gpu.sh"), sys.executable, "--device", "cpu", "--quick"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert lines[-1].startswith("PASS on CPU"), done.stdout + done.stderr
    assert done.returncode == 0
    assert lines[-1].endswith("left out: the tests")
    parts = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert len(parts) == 7
    assert "  safetensors is not installed: numpy keeps the arrays of these runs" in lines
    assert "  adamss-fl or pydantic is not installed: aggregators are made by class, not by name" in lines
    assert sum(line.startswith("  ok   ") for line in lines) >= 25
    assert not any(line.startswith("  FAIL") for line in lines)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_ends_with_2() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stdout.splitlines()
    assert line.startswith("no GPU here: ")


def only(monkeypatch: pytest.MonkeyPatch, **parts: object) -> None:
    """Parts of the script, all others doing nothing."""
    for name in (
        "run_tests",
        "compare_devices",
        "compare_precisions",
        "federate",
        "resume",
        "published_step",
        "short_of_memory",
    ):
        monkeypatch.setattr(gpu, name, parts.get(name, lambda *given: None))


def test_one_failed_check_or_broken_part_is_a_fail_that_names_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*given: object) -> None:
        raise RuntimeError("CUDA error: something\nmore lines")

    def one_of_two(report: Report, *given: object) -> None:
        report.check("good", True)
        report.check("bad", False, "1e+9")

    only(monkeypatch, federate=broken, resume=one_of_two)
    assert gpu.main(["--device", "cpu"]) == 1
    verdict = capsys.readouterr().out.splitlines()[-1]
    assert verdict.startswith("FAIL on CPU")
    assert "2 of 3 checks: three sites on one device (RuntimeError: CUDA error: something); bad (1e+9)" in verdict


def test_a_device_that_computes_something_else_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is wrong on one side only is found by loss, gradient and ten steps."""
    monkeypatch.setattr(gpu_compare, "CASES", gpu_compare.CASES[:1])
    right, calls = gpu_compare.train, 0

    def wrong(case: gpu_compare.Case, runtime: object, *given: int) -> object:
        nonlocal calls
        calls += 1
        loss, gradients, model = right(case, runtime, 1, 16, 1)
        if calls % 2 == 1:
            return loss, gradients, model
        return loss * 1.1, {name: -gradient for name, gradient in gradients.items()}, model

    monkeypatch.setattr(gpu_compare, "train", wrong)
    monkeypatch.setattr(gpu_compare, "apply_model", lambda *given: None)
    report = Report()
    gpu_compare.compare_devices(report, "cpu", quick=False)
    assert [failure.split(" (")[0] for failure in report.failures] == [
        "stage I, loss",
        "stage I, gradient",
        "stage I, ten steps",
    ]


def test_a_test_file_is_left_out_for_what_it_imports_and_is_not_here(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text("import os\nimport no_such_library.part\nfrom adamss_fl import model\n")
    assert gpu.absent_libraries(tmp_path / "test_some.py") == ["no_such_library"]
