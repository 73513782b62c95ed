"""Sites that train on one device: a federation, a run that is killed and resumed, and one that lacks memory."""

import io
import json
import math
import os
import sys
import tempfile
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_compare import Case, make_samples, runtime_of
from gpu_report import Report, is_installed, relative

RESUMED = 1e-2
"""Largest relative difference of losses between a resumed and an uninterrupted run on a GPU; on a CPU it is 0."""


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


def make_rules_without_plugins() -> bool:
    """Where plugins cannot be found or checked by name, make the two rules of these runs by class; whether that is so.

    pydantic checks a plugin's settings, and the installed package names its class: the rule itself is the same.
    """
    if is_installed("pydantic") and entry_points(group="adamss_fl.aggregator"):
        return False
    from adamss_fl.federation import aggregation

    rules: dict[str, Any] = {"average": aggregation.Average, "moments": aggregation.PooledMoments}
    aggregation.create = lambda point, name, settings, where: rules[name](**settings)  # type: ignore[assignment]
    return True


def prepare_bare_machine() -> None:
    """Take the place of safetensors and of plugins where they are absent, and say so."""
    if keep_without_safetensors():
        print("  safetensors is not installed: numpy keeps the arrays of these runs", flush=True)
    if make_rules_without_plugins():
        print("  adamss-fl or pydantic is not installed: aggregators are made by class, not by name", flush=True)


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
    prepare_bare_machine()
    from adamss_fl.federation.finished_run import final_weights
    from adamss_fl.federation.merging import merge_evaluations
    from adamss_fl.federation.messages import Instruction
    from adamss_fl.federation.run import run_federation

    side, width = (16, 1) if quick else (32, 2)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        task = make_task(device, (1, 1) if quick else (2, 2), side, width)
        sites = make_sites(task, folder, "abc", side)
        # The comparison of hospitals before training and the figures over all of them need more libraries, and no GPU.
        metrics = run_federation(task, sites, folder / "run", evaluate_test=False)
        trained = {(event["round"], event["site"]) for event in events(folder / "run", "train")}
        wanted = len(task.plan.rounds) * 3
        report.check("every site trains in every round", len(trained) == wanted, f"{len(trained)} of {wanted}")
        report.check("no site is absent", not list(events(folder / "run", "absence")))
        report.check("losses are finite", all(map(math.isfinite, losses(folder / "run"))))
        arrays = final_weights(folder / "run")[0]
        finite = all(bool(np.isfinite(array).all()) for array in arrays.values() if array.dtype.kind == "f")
        report.check("weights come back to the CPU, finite", finite, f"{len(arrays)} arrays")
        settings = {"split": "test", "edges_days": metrics["edges_days"], "tabular": None}
        order = Instruction("evaluate", metrics["run"], len(task.plan.rounds), 1, settings, arrays)
        judged = merge_evaluations({reply.site: reply.figures for reply in sites.broadcast(order).replies})
        report.check("test patients are judged", judged["patients"] == 12, f"C-index {judged['c_index']}")
        kind = "GPU" if device == "cuda" else "CPU"
        said = metrics["machines"]
        report.check("sites say what they used", all(text.startswith(kind) for text in said.values()), said["a"])


class Killed(Exception):
    """Stands for the death of a process."""


def resume(report: Report, device: str, quick: bool) -> None:
    """Three rounds of Adam with its state, killed in the second and in the third, against an uninterrupted run."""
    prepare_bare_machine()
    from adamss_fl.federation.run import run_federation

    side, width = (16, 1) if quick else (32, 2)
    torch.backends.cudnn.deterministic = True
    with tempfile.TemporaryDirectory() as place:
        whole, parts = Path(place) / "whole", Path(place) / "parts"
        task = make_task(device, (3, 0), side, width, schedule="constant")
        run_federation(task, make_sites(task, whole, "a", side), whole / "run", evaluate_test=False)
        for killed in (2, 3):
            sites = make_sites(task, parts, "a", side)
            _kill_in_round(sites, killed)
            try:
                run_federation(task, sites, parts / "run", evaluate_test=False)
            except Killed:
                continue
            report.check(f"a run is killed in round {killed}", False)
        run_federation(task, make_sites(task, parts, "a", side), parts / "run", evaluate_test=False)
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
