"""The machine at the command line: it is introduced, and what it cannot do is one line and exit code 2."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import yaml

from adamss_fl.cli import flower_app
from adamss_fl.cli.main import main
from adamss_fl.cohort import make_phantom
from adamss_fl.errors import InputError
from adamss_fl.training import machine
from adamss_fl.training import stage as stage_module

SETTINGS: dict[str, Any] = {
    "name": "machine",
    "cache": "cache",
    "split": {"test": 0.34},
    "imaging": {"grid": [16, 16, 16], "spacing_mm": [8.0, 8.0, 8.0]},
    "augmentation": [],
    "model": {"width": 1, "bins": 2},
    "plan": {"segmentation_rounds": 1, "survival_rounds": 1},
    "stages": {stage: {"batch_size": 3} for stage in ("segmentation", "survival")},
    "runtime": {"device": "cpu", "precision": "fp32", "channels_last": False, "threads": 1},
    "evaluation": {"bootstrap": 5},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machine")
    make_phantom(folder / "phantom", sites=1, patients=10, size=16, seed=1)
    sites = [{"name": "hospital-1", "path": str(folder / "phantom/hospital-1")}]
    (folder / "config.yaml").write_text(yaml.safe_dump({**SETTINGS, "sites": sites}))
    return folder


def train(place: Path, out: Path, *options: str) -> int:
    return main(["train", str(place / "config.yaml"), "--out", str(out), "--json", *options])


@pytest.mark.parametrize(
    ("raised", "words"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB."), "stages.survival.batch_size 3"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), "checkpointing"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "start again"),
        (RuntimeError("CUDA error: no kernel image is available for execution on the device"), "too old"),
    ],
)
def test_a_training_that_the_machine_breaks_off_ends_with_one_line_and_goes_on_when_it_is_started_again(
    raised: Exception, words: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr(stage_module, "discrete_likelihood", MagicMock(side_effect=raised))  # in round 2
        assert train(place, out) == 2
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert said.err.splitlines()[-1:] == lines
    assert "train of round 2" in lines[0]
    assert words in lines[0]
    assert "Traceback" not in said.err
    assert not (out / "metrics.json").exists()
    assert train(place, out) == 0
    assert json.loads(capsys.readouterr().out)["rounds"] == 2
    rounds = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert [event["round"] for event in rounds if event["kind"] == "train"] == [1, 2]


def test_a_defect_outside_training_is_told_from_short_memory(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for raised, code, start in (
        (MemoryError(), 2, "error: this machine's memory is too small; free memory"),
        (RuntimeError("a shape is wrong"), 1, "failed: RuntimeError: a shape is wrong"),
    ):
        monkeypatch.setattr("adamss_fl.assembly.load_cohort", MagicMock(side_effect=raised))
        assert train(place, tmp_path / "run") == code
        assert capsys.readouterr().err.splitlines()[-1].startswith(start)


def test_no_gpu_where_one_is_asked_for_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for command in ("train", "compare", "simulate"):
        given = [command, str(place / "config.yaml"), "--out", str(tmp_path / "run"), "--set", "runtime.device=cuda"]
        assert main(given) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: runtime.device is cuda, and ")
    assert not (tmp_path / "run").exists()


def test_the_machine_is_introduced_and_emulation_warned_of_with_its_price(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {}, raising=False)
    monkeypatch.setattr(machine, "gain_over_fp32", lambda precision, device: 0.25)
    plan = ("--set", "plan.survival_rounds=0")
    assert train(place, tmp_path / "auto", *plan, "--set", "runtime.precision=auto") == 0
    told = capsys.readouterr().err
    assert "device cpu, precision fp32 (auto)" in told.splitlines()
    assert "emulated" not in told
    kept = yaml.safe_load((tmp_path / "auto/config.yaml").read_text())
    assert kept["runtime"]["precision"] == "auto"
    assert json.loads((tmp_path / "auto/metrics.json").read_text())["machines"] == {"hospital-1": "CPU, fp32"}
    assert train(place, tmp_path / "bf16", *plan, "--set", "runtime.precision=bf16") == 0
    warning = "warning: bf16 is emulated on this CPU: a convolution takes 4.0 times as long as in fp32; set "
    assert warning + "runtime.precision to auto" in capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("kind", ["InputError", "MachineError"])
def test_what_ended_a_simulation_names_its_site_once(kind: str, tmp_path: Path) -> None:
    for said in ("site a, train of round 1: too small", "too small"):
        log = SimpleNamespace(lines=lambda said=said: [f"adamss_fl.errors.{kind}: {said}"])
        with pytest.raises(InputError, match=r"^c\.yaml: site a[,:].*too small$") as caught:
            flower_app._raise_failure(tmp_path / "none", Path("c.yaml"), tmp_path, {"a": log})
        assert str(caught.value).count("site a") == 1


def test_a_simulation_tells_absences_and_uniform_batches_as_they_come(capsys: pytest.CaptureFixture[str]) -> None:
    tell = flower_app._teller()
    counts = {"patients": {"train": 4}, "events": {"train": 4}}
    tell({"kind": "site", "round": 0, "site": "b", "figures": counts})
    for round_ in (1, 2):
        tell({"kind": "round_start", "round": round_, "stages": ["survival"]})
        tell({"kind": "absence", "round": round_, "site": "a", "cause": "too_few_masks"})
        tell({"kind": "train", "round": round_, "site": "b", "figures": {"balanced": False}})
    assert capsys.readouterr().err.splitlines() == [
        "round 1: a is absent: too_few_masks",
        "round 1: stage II at b drew uniform batches: its training patients all had the event",
        "round 2: a is absent: too_few_masks",
    ]
