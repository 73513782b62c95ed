"""Everything that a site does on its GPU, run on this machine's, with one verdict at the end.

    benchmarks/gpu.sh                       # on a machine with torch and numpy, and perhaps pytest and safetensors
    python3 benchmarks/gpu.py --device cpu --quick

CPU and device do the same work and are compared: losses, gradients and ten steps in fp32 (no TF32) over all that
training can be set to, and one gradient in the precision that ``auto`` comes to. Three sites then train together on the
device, and a run that is killed is resumed. The published step is timed, with its memory, and a step that is too large
has to end with one line that says what to change. Exit codes: 0 PASS, 1 FAIL, 2 no such device here.

With ``--device cpu`` the reference is contiguous and the other side channels_last: other kernels, the same tolerances.
"""

import argparse
import ast
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from gpu_compare import compare_devices, compare_precisions
from gpu_federation import federate, provoke, resume
from gpu_report import Report, describe, is_installed

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

TESTS = ("model", "training", "segmentation", "survival")
ONE_LINE_NAMES = ("batch_size", "imaging.grid", "runtime.checkpointing", "model.width")


def absent_libraries(path: Path) -> list[str]:
    """Third-party modules that a test file imports and that are not installed here."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    places = [str(ROOT), str(ROOT / "tests"), str(path.parent)]
    own = {entry.stem for place in places for entry in Path(place).iterdir()}
    return sorted(name for name in names - own if not is_installed(name))


def run_tests(report: Report, quick: bool) -> None:
    """tests/{model,training,segmentation,survival} with this build of PyTorch, as far as their libraries are here."""
    if not is_installed("pytest"):
        report.leave_out("the tests", "pytest is not installed")
        return
    files = []
    for path in sorted(path for room in TESTS for path in (ROOT / "tests" / room).glob("test_*.py")):
        absent = absent_libraries(path)
        if absent:
            report.leave_out(str(path.relative_to(ROOT)), f"{', '.join(absent)} not installed")
        else:
            files.append(str(path))
    if quick:
        files = [path for path in files if path.endswith(("test_counts.py", "test_hardware.py"))]
    with tempfile.TemporaryDirectory() as folder:
        # The project's own pytest options need plugins that a bare machine lacks.
        options = Path(folder) / "pytest.ini"
        options.write_text(
            f"[pytest]\npythonpath = {ROOT} {ROOT / 'tests'}\nmarkers =\n    slow: long\n    network: real\n"
        )
        command = [sys.executable, "-m", "pytest", "-c", str(options), "--rootdir", str(ROOT), "-q", "--noconftest"]
        done = subprocess.run([*command, "-p", "no:cacheprovider", *files], capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["no output"]
    failed = [line.split(" - ")[0] for line in lines if line.startswith(("FAILED", "ERROR"))]
    report.check(f"{len(files)} test files", done.returncode == 0, "; ".join([*failed[:5], lines[-1]]))


def published_step(report: Report, device: str, quick: bool) -> None:
    """``benchmarks/step.py`` at the published size: 112^3, batch 2."""
    size = ["--size", "16", "--width", "1", "--steps", "1"] if quick else ["--size", "112", "--steps", "10"]
    command = [sys.executable, str(ROOT / "benchmarks/step.py"), "--batch", "2", "--device", device, *size]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        print(f"  | {line}", flush=True)
    reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    report.check("the published step", done.returncode == 0, "" if done.returncode == 0 else reason)


def short_of_memory(report: Report, device: str) -> None:
    """A step that does not fit ends with one line that names what to change; a smaller one then works."""
    command = [sys.executable, str(Path(__file__).resolve()), "--device", device, "--provoke"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    report.check("it ends with exit code 2", done.returncode == 2, str(done.returncode))
    line = lines[0] if lines else (done.stderr.strip().splitlines() or ["no output"])[-1]
    named = len(lines) == 2 and all(name in line for name in ONE_LINE_NAMES)
    report.check("one line names what to change", named, line[:300])
    report.check("the next step works in the same process", lines[1:] == ["a smaller step works"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run all parts and print the verdict."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes and few settings, for tests of this script")
    parser.add_argument("--provoke", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    device, quick = arguments.device, arguments.quick
    if device == "cuda" and not torch.cuda.is_available():
        build = "this build of PyTorch has no CUDA" if torch.version.cuda is None else "PyTorch finds none"
        print(f"no GPU here: {build}; give --device cpu to run the same checks on the CPU")
        return 2
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if arguments.provoke:
        return provoke(device)
    report = Report()
    print(f"{describe(device)}, torch {torch.__version__}, numpy {np.__version__}", flush=True)
    other = "CPU" if device == "cuda" else "contiguous"
    report.part("tests", lambda: run_tests(report, quick))
    report.part(f"{device} against {other}, fp32", lambda: compare_devices(report, device, quick))
    report.part("precision", lambda: compare_precisions(report, device, quick))
    report.part("three sites on one device", lambda: federate(report, device, quick))
    report.part("resumed over three rounds", lambda: resume(report, device, quick))
    report.part("time and memory", lambda: published_step(report, device, quick))
    report.part("too little memory", lambda: short_of_memory(report, device))
    left = f"; left out: {', '.join(report.left_out)}" if report.left_out else ""
    if report.failures:
        print(
            f"FAIL on {describe(device)}: {len(report.failures)} of {report.passed + len(report.failures)} checks: "
            f"{'; '.join(report.failures)}{left}"
        )
        return 1
    print(f"PASS on {describe(device)}: {report.passed} checks{left}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
