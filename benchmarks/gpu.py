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
import importlib.util
import io
import json
import math
import os
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

LOSS = 2e-4
"""Largest relative difference of a loss in fp32: sums over voxels differ in their order."""
GRADIENT = 2e-2
"""Largest relative error (Euclidean) of the whole gradient in fp32."""
TEN_STEPS = 2e-2
"""Largest relative difference of the mean loss of ten steps in fp32; rounding adds up over them."""
AUGMENTED = 10.0
"""Times that where images are interpolated: voxels at the rim of a mask fall to either side of its cut."""
COSINE, NORM = 0.90, 0.10
"""Least cosine with the fp32 gradient of one in 16 bits, and largest relative difference of their norms."""
RESUMED = 1e-2
"""Largest relative difference of losses between a resumed and an uninterrupted run on a GPU; on a CPU it is 0."""

TESTS = ("model", "training", "segmentation", "survival")
ONE_LINE_NAMES = ("batch_size", "imaging.grid", "runtime.checkpointing", "model.width")


@dataclass
class Report:
    """Checks as they are made, and those that failed."""

    passed: int = 0
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def check(self, name: str, holds: bool, figure: str = "") -> None:
        """Note one check and print it."""
        print(f"  {'ok  ' if holds else 'FAIL'} {name}{': ' + figure if figure else ''}", flush=True)
        if holds:
            self.passed += 1
        else:
            self.failures.append(f"{name}{' (' + figure + ')' if figure else ''}")

    def leave_out(self, what: str, why: str) -> None:
        """Note what this machine cannot run."""
        print(f"  left out: {what}: {why}", flush=True)
        self.left_out.append(what)

    def part(self, name: str, work: Callable[[], None]) -> None:
        """Run a part; an exception in it is a failure of it and ends no other."""
        print(f"{name}:", flush=True)
        try:
            work()
        except Exception as error:
            text = str(error).strip() or "no reason given"
            self.check(name, False, f"{type(error).__name__}: {text.splitlines()[0][:300]}")


def is_installed(name: str) -> bool:
    """Whether a module can be imported here."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def describe(device: str) -> str:
    """The hardware in words."""
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU ({torch.backends.cpu.get_cpu_capability()})"


# --- the tests -------------------------------------------------------------------------------------------------------


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


# --- CPU against device ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One way that training can be set."""

    name: str
    stage: str = "joint"
    model: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    augmented: bool = False


CASES = (
    Case("stage I", "segmentation"),
    Case("stage II", "survival", settings={"l2": 0.01, "balanced": True}),
    Case("joint", "joint"),
    Case("augmented", "segmentation", augmented=True),
    Case("plain descent", "segmentation", settings={"optimizer": "sgd", "learning_rate": 1e-3}),
    Case("weight decay and clipping", "joint", settings={"weight_decay": 0.1, "clip_norm": 1.0}),
    Case("FedProx", "joint", settings={"proximal_mu": 0.1}),
    Case("frozen statistics", "survival", settings={"norm_statistics": "frozen"}),
    Case("whitened", "survival", model={"pooled": "whitened"}),
    Case("standardised", "survival", model={"pooled": "standardised"}),
    Case("group norm", "joint", model={"norm": "group"}),
    Case("instance norm", "segmentation", model={"norm": "instance"}),
    Case("fixed gates", "joint", model={"gates": "half"}),
    Case("tabular", "survival", model={"tabular": 3}),
    Case("checkpointing", "joint", runtime={"checkpointing": True}),
)


def make_samples(count: int, side: int, tabular: int = 0, site: str = "a") -> list[Any]:
    """Balls of uptake in noise; their size decides survival, every third patient is censored."""
    from adamss_fl.imaging import Sample

    rng = np.random.default_rng([count, side, sum(map(ord, site))])
    axis = np.arange(side)
    samples = []
    for index in range(count):
        radius = rng.uniform(2.5, side / 3)
        centre = rng.uniform(side * 0.35, side * 0.65, size=3)
        z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
        ball = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < radius**2
        image = rng.uniform(0.0, 0.3, size=(2, side, side, side)) + 0.5 * ball
        samples.append(
            Sample(
                patient_id=f"{site}-{index}",
                site=site,
                image=image.astype(np.float32),
                mask=np.stack([ball, np.roll(ball, 2, axis=0)]).astype(np.uint8),
                has_mask=True,
                time_days=float(2000.0 / radius),
                event=int(index % 3 != 2),
                tabular=rng.normal(size=tabular).astype(np.float32) if tabular else None,
            )
        )
    return samples


def network(case: Case, width: int) -> Any:
    """The network of a case from the same weights each time, without dropout, whose draws differ between devices."""
    from adamss_fl.model import AdaMSS, ModelSettings

    torch.manual_seed(0)
    return AdaMSS(ModelSettings(**{"width": width, "bins": 4, "dropout": 0.0, **case.model}))


def runtime_of(case: Case, device: str, precision: str = "fp32", channels_last: bool = True) -> Any:
    """Runtime settings of one side of a comparison."""
    from adamss_fl.training import RuntimeSettings

    threads = torch.get_num_threads()
    given = {"device": device, "precision": precision, "channels_last": channels_last, "threads": threads}
    return RuntimeSettings(**{**given, **case.runtime})


def train(case: Case, runtime: Any, width: int, side: int, steps: int) -> tuple[float, dict[str, torch.Tensor], Any]:
    """Mean loss of some steps, the last gradient and the model, all on the CPU."""
    from adamss_fl.imaging.augmentation import RandomAffine, RandomFlip
    from adamss_fl.model import prepare
    from adamss_fl.survival import TimeGrid
    from adamss_fl.training import StageSettings, StageWork, train_stage
    from adamss_fl.training.tensors import device_of

    model = prepare(network(case, width), device_of(runtime), runtime.channels_last)
    settings = StageSettings(**{"batch_size": 2, "learning_rate": 1e-4, "schedule": "constant", **case.settings})
    work = StageWork(case.stage, seed=1, epochs=None, steps=steps)  # type: ignore[arg-type]
    samples = make_samples(6, side, int(case.model.get("tabular", 0)))
    more = (RandomAffine(), RandomFlip()) if case.augmented else ()
    grid = TimeGrid((0.0, 200.0, 400.0, 800.0, 1600.0))
    result = train_stage(model, samples, work, settings, runtime, grid=grid, augmentations=more)
    gradients = {n: p.grad.detach().float().cpu() for n, p in model.named_parameters() if p.grad is not None}
    for array in result.optimizer.values():
        if not isinstance(array, np.ndarray):
            raise TypeError("the optimiser's state did not come back to the CPU")
    return sum(result.losses.values()), gradients, model


def flat(gradients: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """All gradients as one vector, in the order of their names."""
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def relative(found: float, expected: float) -> float:
    """Relative difference of two figures."""
    return abs(found - expected) / max(abs(expected), 1e-12)


def compare_devices(report: Report, device: str, quick: bool) -> None:
    """Loss and gradient of a step, and the losses of ten steps, on the CPU and on the device in fp32."""
    width, side = (1, 32) if quick else (2, 32)
    chosen = [case for case in CASES if not quick or case.name in ("joint", "augmented", "whitened", "FedProx")]
    for case in chosen:
        exact, found = runtime_of(case, "cpu", channels_last=False), runtime_of(case, device)
        loss, gradient, _ = train(case, exact, width, side, 1)
        own_loss, own_gradient, _ = train(case, found, width, side, 1)
        a, b = flat(gradient), flat(own_gradient)
        ten, own_ten = train(case, exact, width, side, 10)[0], train(case, found, width, side, 10)[0]
        for what, apart, allowed in (
            ("loss", relative(own_loss, loss), LOSS),
            ("gradient", float((a - b).norm() / a.norm()), GRADIENT),
            ("ten steps", relative(own_ten, ten), TEN_STEPS),
        ):
            least = allowed * (AUGMENTED if case.augmented else 1.0)
            report.check(f"{case.name}, {what}", apart <= least, f"{apart:.1e} of {least:.0e}")
    apply_model(report, device, width, side)


def apply_model(report: Report, device: str, width: int, side: int) -> None:
    """Evaluation of patients, and of a volume window by window, on the CPU and on the device."""
    from adamss_fl.model import prepare
    from adamss_fl.training import infer, sliding_window

    case = Case("applied")
    exact, found = runtime_of(case, "cpu", channels_last=False), runtime_of(case, device)
    samples = make_samples(5, side)
    models = [prepare(network(case, width), one.device, one.channels_last).eval() for one in (exact, found)]
    logits = [infer(model, samples, one).survival_logits for model, one in zip(models, (exact, found), strict=True)]
    apart = float(np.abs(logits[0] - logits[1]).max())
    report.check("evaluation, survival logits", apart < 1e-4, f"{apart:.1e}")
    image = make_samples(1, side + 8)[0].image
    window = (side, side, side)
    maps = [sliding_window(m, image, window, one) for m, one in zip(models, (exact, found), strict=True)]
    apart = float(np.abs(maps[0] - maps[1]).max())
    report.check("sliding window, probabilities", apart < 1e-4, f"{apart:.1e}")


def compare_precisions(report: Report, device: str, quick: bool) -> None:
    """A gradient in the precision that ``auto`` comes to, against fp32 on the same device; else in bf16."""
    from adamss_fl.model import resolve_precision

    resolved = resolve_precision("auto", device)
    print(f"  auto is {resolved} here", flush=True)
    precision = "bf16" if resolved == "fp32" else resolved
    width, side = (1, 32) if quick else (4, 64)
    for stage in ("segmentation", "survival"):
        case = Case(stage, stage, settings={"optimizer": "sgd", "learning_rate": 1e-3})
        loss, exact, _ = train(case, runtime_of(case, device), width, side, 1)
        low_loss, low, _ = train(case, runtime_of(case, device, precision), width, side, 1)
        a, b = flat(exact), flat(low)
        if precision == "fp16":  # the last gradient is still scaled
            b = b * float(a.norm() / b.norm())
        cosine, ratio = float(a @ b / (a.norm() * b.norm())), float(b.norm() / a.norm())
        report.check(f"{precision} {stage}, loss", relative(low_loss, loss) < 0.02, f"{relative(low_loss, loss):.1e}")
        report.check(
            f"{precision} {stage}, gradient", cosine > COSINE and abs(ratio - 1) < NORM, f"cosine {cosine:.4f}"
        )


# --- a federation ----------------------------------------------------------------------------------------------------


class _Kept(types.ModuleType):
    """A module of this script's own under the name of one that is absent."""


def keep_without_safetensors() -> bool:
    """Where safetensors is not installed, let numpy keep the arrays of a run; returns whether it does.

    Nothing but the format of files in a folder that goes away depends on it: what trains is the same.
    """
    if isinstance(sys.modules.get("safetensors"), _Kept):
        return True
    if is_installed("safetensors"):
        return False

    def save(arrays: Mapping[str, Any]) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, **{name.replace("/", "|"): array for name, array in arrays.items()})
        return buffer.getvalue()

    def load(content: bytes) -> dict[str, Any]:
        with np.load(io.BytesIO(content)) as found:
            return {name.replace("|", "/"): found[name] for name in found.files}

    package, arrays = _Kept("safetensors"), _Kept("safetensors.numpy")
    package.SafetensorError = ValueError  # type: ignore[attr-defined]
    arrays.save, arrays.load = save, load  # type: ignore[attr-defined]
    arrays.load_file = lambda path: load(Path(path).read_bytes())  # type: ignore[attr-defined]
    arrays.save_file = lambda given, path: Path(path).write_bytes(save(given))  # type: ignore[attr-defined]
    package.numpy = arrays  # type: ignore[attr-defined]
    sys.modules.update({"safetensors": package, "safetensors.numpy": arrays})
    return True


def make_task(device: str, rounds: Sequence[int], side: int, width: int, **stage: Any) -> Any:
    """A task of two stages, as ``auto`` resolves it on the device."""
    from adamss_fl.federation.plan import RoundPlan
    from adamss_fl.federation.settings import FederationSettings
    from adamss_fl.federation.task import Task
    from adamss_fl.imaging.settings import ImagingSettings
    from adamss_fl.model import ModelSettings
    from adamss_fl.training import StageSettings, StagesSettings

    settings = StageSettings(**{"batch_size": 2, "learning_rate": 1e-3, **stage})
    return Task(
        name="gpu",
        plan=RoundPlan.sequential(*rounds),
        seed=3,
        imaging=ImagingSettings(grid=(side, side, side)),
        model=ModelSettings(width=width, bins=4),
        stages=StagesSettings(
            settings, replace(settings, balanced=True), edges_days=(0.0, 200.0, 400.0, 800.0, 1600.0)
        ),
        federation=FederationSettings(min_sites=1),
        runtime=runtime_of(Case("federation"), device, "auto"),
        validate_every=0,
    )


def make_sites(task: Any, folder: Path, names: str, side: int) -> Any:
    """Sites of six training and four test patients each, with their state under ``folder``."""
    from adamss_fl.federation.local_sites import LocalSites
    from adamss_fl.federation.site import Site
    from adamss_fl.federation.site_data import SiteData

    def data(name: str) -> Any:
        samples = tuple(make_samples(10, side, site=name))
        return SiteData(samples[:6], (), samples[6:])

    return LocalSites([Site(n, lambda n=n: data(n), task, folder / "sites" / n) for n in names])  # type: ignore[misc]


def events(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """Events of a kind in a run's folder."""
    for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines():
        event: dict[str, Any] = json.loads(line)
        if event["kind"] == kind:
            yield event


def losses(folder: Path) -> list[float]:
    """Losses of all rounds and sites of a run, in order."""
    return [
        value
        for event in events(folder, "train")
        for name, value in sorted(event["figures"].items())
        if name.startswith("loss.")
    ]


def federate(report: Report, device: str, quick: bool) -> None:
    """Three sites on the device: two rounds of each stage, evaluation, and who says what of its machine."""
    if keep_without_safetensors():
        print("  safetensors is not installed: numpy keeps the arrays of these runs", flush=True)
    from adamss_fl.federation.finished_run import final_weights
    from adamss_fl.federation.run import run_federation

    side, width = (16, 1) if quick else (32, 2)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        task = make_task(device, (1, 1) if quick else (2, 2), side, width)
        metrics = run_federation(task, make_sites(task, folder, "abc", side), folder / "run")
        trained = {(event["round"], event["site"]) for event in events(folder / "run", "train")}
        wanted = len(task.plan.rounds) * 3
        report.check("every site trains in every round", len(trained) == wanted, f"{len(trained)} of {wanted}")
        report.check("no site is absent", not list(events(folder / "run", "absence")))
        report.check("losses are finite", all(map(math.isfinite, losses(folder / "run"))))
        arrays = final_weights(folder / "run")[0]
        finite = all(bool(np.isfinite(array).all()) for array in arrays.values() if array.dtype.kind == "f")
        report.check("weights come back to the CPU, finite", finite, f"{len(arrays)} arrays")
        report.check("test patients are judged", metrics["test"]["patients"] == 12, str(metrics["c_index"]))
        kind = "GPU" if device == "cuda" else "CPU"
        said = metrics["machines"]
        report.check("sites say what they used", all(text.startswith(kind) for text in said.values()), said["a"])


class Killed(Exception):
    """Stands for the death of a process."""


def resume(report: Report, device: str, quick: bool) -> None:
    """Three rounds of Adam with its state, killed in the second and in the third, against an uninterrupted run."""
    keep_without_safetensors()
    from adamss_fl.federation.run import run_federation

    side, width = (16, 1) if quick else (32, 2)
    torch.backends.cudnn.deterministic = True
    with tempfile.TemporaryDirectory() as place:
        whole, parts = Path(place) / "whole", Path(place) / "parts"
        task = make_task(device, (3, 0), side, width, schedule="constant")
        run_federation(task, make_sites(task, whole, "a", side), whole / "run")
        for killed in (2, 3):
            sites = make_sites(task, parts, "a", side)
            _kill_in_round(sites, killed)
            try:
                run_federation(task, sites, parts / "run")
            except Killed:
                continue
            report.check(f"a run is killed in round {killed}", False)
        run_federation(task, make_sites(task, parts, "a", side), parts / "run")
        expected, found = losses(whole / "run"), losses(parts / "run")
        apart = max(relative(a, b) for a, b in zip(found, expected, strict=True))
        allowed = RESUMED if device == "cuda" else 0.0
        report.check("a resumed run equals an uninterrupted one", apart <= allowed, f"{apart:.1e}")
    torch.backends.cudnn.deterministic = False


def _kill_in_round(sites: Any, round: int) -> None:
    (site,) = sites._sites

    def die(done: int, total: int) -> None:
        raise Killed

    site._on_step = lambda what: die if what.startswith(f"round {round},") else None


# --- time and memory -------------------------------------------------------------------------------------------------


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


def provoke(device: str) -> int:
    """In a process of its own: train with too little memory, then with enough."""
    keep_without_safetensors()
    from adamss_fl.errors import MachineError
    from adamss_fl.federation.messages import Instruction
    from adamss_fl.federation.run import initial_weights

    task = replace(make_task(device, (1, 0), 16, 1), runtime=runtime_of(Case("memory"), device))
    order = {"stages": ["segmentation"], "epochs": None, "steps": 1, "progress": {"segmentation": [0.0, 1.0]}}
    told = Instruction("train", "r", 1, 1, {**order, "edges_days": [0, 200, 400, 800, 1600]}, initial_weights(task))
    code = 0
    with tempfile.TemporaryDirectory() as place:
        small = make_sites(task, Path(place) / "small", "a", 16)._sites[0]
        large = make_sites(task, Path(place) / "large", "a", 112)._sites[0]
        _ = large.data
        small.handle(told)  # what every step loads is loaded
        with _little_memory(device):
            try:
                large.handle(told)
            except MachineError as error:
                print(str(error))
                code = 2 if error.code == "out_of_memory" else 1
        small.handle(replace(told, attempt=2))
    print("a smaller step works")
    return code


class _little_memory:
    """Memory for small steps only, within a ``with`` block."""

    def __init__(self, device: str) -> None:
        self._device = device

    def __enter__(self) -> None:
        if self._device == "cuda":
            _, total = torch.cuda.mem_get_info()
            torch.cuda.set_per_process_memory_fraction(min(1.0, 2**28 / total))
            return
        import resource

        self._before = resource.getrlimit(resource.RLIMIT_AS)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, self._before[1]))

    def __exit__(self, *_: object) -> None:
        if self._device == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)
            return
        import resource

        resource.setrlimit(resource.RLIMIT_AS, self._before)


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
