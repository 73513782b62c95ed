"""Machines in a run: each site says what it used, one that breaks off loses nothing, and a run goes on as it began."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from in_process import assert_equal_bits, site, train
from synthetic import make_data, make_task

from adamss_fl.errors import InputError, MachineError
from adamss_fl.evaluation.report_methods import machines_used
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.machines import machine_lines, machines_in
from adamss_fl.federation.messages import Absence, Collected, Instruction, Weights, failure_code
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.settings import FederationSettings
from adamss_fl.federation.site import Site
from adamss_fl.federation.task import fingerprint
from adamss_fl.model import hardware
from adamss_fl.model.hardware import MEASURED_VARIABLE, measured_precision
from adamss_fl.segmentation import dice_focal_loss
from adamss_fl.training import stage as stage_module

GPU_MEMORY = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 8 GiB"
)
GPU_BROKEN = getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: an illegal memory access was encountered")


def events_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]


def fails_once(monkeypatch: pytest.MonkeyPatch, error: BaseException, call: int) -> None:
    """The loss of stage I raises ``error`` at its ``call``-th use, after earlier steps have changed the weights."""
    calls = 0

    def loss(*given: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return dice_focal_loss(*given)

    monkeypatch.setattr(stage_module, "dice_focal_loss", loss)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


FAULTS: dict[str, tuple[BaseException, str]] = {
    "GPU too small": (GPU_MEMORY, "out_of_memory"),
    "memory of the machine": (MemoryError(), "out_of_memory"),
    "GPU breaks": (GPU_BROKEN, "device_failed"),
    "GPU too old": (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "no_device"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_machine_that_fails_in_mid_round_loses_nothing(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line and a code; the site's files are those of the round before, and the round repeated has the same bits."""
    error, code = FAULTS[fault]
    task, data = make_task((3, 0)), {"a": make_data("a", test=0)}
    expected = train(task, data, tmp_path / "quiet")
    out = tmp_path / "broken"
    own = site("a", data["a"], task, out)
    fails_once(monkeypatch, error, call=4)  # the second of two steps of round 2
    with pytest.raises(MachineError) as caught:
        run_federation(task, LocalSites([own]), out)
    assert failure_code(caught.value) == code
    text = str(caught.value)
    assert text.startswith("site a, train of round 2 (")
    assert "\n" not in text
    if code == "out_of_memory":
        assert "stages.segmentation.batch_size 3" in text
        assert "runtime.checkpointing" in text
    assert [path.name for path in (out / "sites/a").rglob("round-*")] == ["round-0001.safetensors"]
    for again in (own, site("a", data["a"], task, out)):  # the same process goes on, and so does a new one
        copy = tmp_path / f"copy-{again is own}"
        for name, content in files_of(out).items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(content)
        again.state_dir = copy / "sites" / "a"
        run_federation(task, LocalSites([again]), copy)
        assert_equal_bits(final_weights(copy)[0], expected)


class Answering:
    """Sites that answer exceptions as the Flower client does: a failure's code is an absence."""

    def __init__(self, *sites: Site) -> None:
        self._sites = sites
        self.names = tuple(each.name for each in sites)

    def broadcast(self, instruction: Instruction, deadline_seconds: float | None = None) -> Collected:
        replies, absences = [], []
        for each in self._sites:
            try:
                replies.append(each.handle(instruction))
            except Exception as failure:
                absences.append(Absence(each.name, failure_code(failure)))
        return Collected(tuple(replies), tuple(absences))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_federation_goes_on_without_a_site_whose_machine_fails_and_has_it_back_in_the_next_round(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, code = FAULTS[fault]
    task = make_task((3, 0), federation=FederationSettings(min_sites=1))
    task = replace(task, stages=replace(task.stages, edges_days=(0.0, 150.0, 250.0, 400.0, 2000.0)))
    sites = [site(name, make_data(name, seed=seed, test=0), task, tmp_path) for seed, name in enumerate("ab")]
    fails_once(monkeypatch, error, call=5)  # each site takes two steps a round
    run_federation(task, Answering(*sites), tmp_path, evaluate_test=False)
    absences = [(e["round"], e["site"], e["cause"]) for e in events_of(tmp_path) if e["kind"] == "absence"]
    assert absences == [(2, "a", code)]
    trained = [(e["round"], e["site"]) for e in events_of(tmp_path) if e["kind"] == "train"]
    assert trained == [(1, "a"), (1, "b"), (2, "b"), (3, "a"), (3, "b")]


def flip(monkeypatch: pytest.MonkeyPatch, gains: list[float]) -> Callable[[], None]:
    """A CPU whose measured gain is the next of ``gains`` in every process; call the result to begin a process."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(hardware, "gain_over_fp32", lambda precision, device: gains.pop(0))
    monkeypatch.setenv(MEASURED_VARIABLE, "")
    measured_precision.cache_clear()
    return measured_precision.cache_clear


def test_a_run_that_is_killed_and_resumed_keeps_the_precision_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second process would measure otherwise; without what the first one left the result has other bits."""
    task, data = make_task((2, 1)), {"a": make_data("a", test=0)}
    task = replace(task, runtime=replace(task.runtime, precision="auto"))
    begin = flip(monkeypatch, [1.0])
    expected = train(task, data, tmp_path / "whole")
    begin = flip(monkeypatch, [1.0, 2.0, 2.0])
    fails_once(monkeypatch, MemoryError(), call=3)
    out = tmp_path / "killed"
    with pytest.raises(MachineError):
        train(task, data, out)
    monkeypatch.undo()
    begin = flip(monkeypatch, [2.0, 2.0])
    begin()
    assert_equal_bits(train(task, data, out), expected)
    assert json.loads((out / "metrics.json").read_text())["machines"] == {"a": "CPU, fp32"}
    begin()
    other: Weights = train(task, data, tmp_path / "of another mind")
    assert any((other[name] != expected[name]).any() for name in expected)
    measured_precision.cache_clear()


def test_auto_is_one_task_for_sites_of_every_kind(tmp_path: Path) -> None:
    """Sites that resolve it differently train together, and events and metrics say who used what."""
    task = make_task((1, 1), federation=FederationSettings(min_sites=2))
    task = replace(task, runtime=replace(task.runtime, precision="auto"))
    data = {name: make_data(name, seed=seed) for seed, name in enumerate("ab")}
    sites = [site(name, own, task, tmp_path) for name, own in data.items()]
    known = replace(task.runtime, precision="bf16")
    sites[1]._runtime = lambda run: known  # type: ignore[method-assign]
    run_federation(task, LocalSites(sites), tmp_path)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    first = str(machines_in(events_of(tmp_path))["a"])
    assert metrics["machines"] == {"a": first, "b": "CPU, bf16"}
    described = {e["site"]: e["figures"]["machine"] for e in events_of(tmp_path) if e["kind"] == "site"}
    assert described["b"] == {"device": "cpu", "precision": "bf16"}
    assert fingerprint(task, ["a"]) != fingerprint(replace(task, runtime=known), ["a"])


def test_a_run_goes_on_with_checkpointing_after_memory_was_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names checkpointing as what lets the run go on; a smaller batch would be another run."""
    task, data = make_task((2, 1)), {"a": make_data("a", test=0)}
    fails_once(monkeypatch, MemoryError(), call=3)  # two steps a round
    with pytest.raises(MachineError, match=r"runtime\.checkpointing to true, and the same command goes on"):
        train(task, data, tmp_path)
    monkeypatch.undo()
    train(replace(task, runtime=replace(task.runtime, checkpointing=True, device="auto")), data, tmp_path)
    trained = [e["round"] for e in events_of(tmp_path) if e["kind"] == "train"]
    assert trained == [1, 2, 3]
    smaller = replace(task.stages.survival, batch_size=task.stages.survival.batch_size + 1)
    with pytest.raises(InputError, match="holds a run of other settings"):
        train(replace(task, stages=replace(task.stages, survival=smaller)), data, tmp_path)


def event(kind: str, name: str, device: str, precision: str) -> dict[str, Any]:
    return {"kind": kind, "site": name, "figures": {"machine": {"device": device, "precision": precision}}}


def test_the_report_says_which_site_used_what_where_they_differ() -> None:
    events = [
        event("site", "north", "cuda", "bf16"),
        event("site", "south", "cpu", "fp32"),
        event("site", "west", "cpu", "fp32"),
        event("train", "north", "cuda", "bf16"),
        event("train", "south", "cpu", "fp32"),
        event("train", "north", "cpu", "fp32"),
        {"kind": "train", "site": "east", "figures": {"machine": {"device": "<script>", "precision": "fp32"}}},
    ]
    text = machines_used(events)
    assert text.startswith("north: GPU, bf16; then CPU, fp32; south: CPU, fp32; west: CPU, fp32.")
    assert "script" not in text
    assert machines_used([event("train", name, "cpu", "fp32") for name in "ab"]) == "Every site: CPU, fp32."
    assert machines_used([{"kind": "train", "site": "old", "figures": {}}]) == ""
    assert machine_lines({"a": "CPU, fp32"}) == ["a: CPU, fp32"]
