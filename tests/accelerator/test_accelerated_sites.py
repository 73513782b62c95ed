"""Sites that train on an accelerator, in this process: a whole run over ``LocalSites`` equals the run on the CPU."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from stand_in import count_waits
from synthetic import make_data, make_task

from adamss_fl.errors import InputError
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Weights
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.settings import BlockSettings, PluginSettings
from adamss_fl.federation.site import Site
from adamss_fl.federation.task import Task
from adamss_fl.training import RuntimeSettings
from adamss_fl.training.tensors import device_of


def task_on(device: str, *blocks: BlockSettings) -> Task:
    """Batches of two, augmented; the optimiser's state is kept from round to round."""
    plain = make_task(batch_size=2)
    runtime = RuntimeSettings(device=device, precision="fp32", channels_last=False, threads=1)  # type: ignore[arg-type]
    stages = replace(plain.stages, joint=plain.stages.segmentation)
    augmentation = (PluginSettings("affine"), PluginSettings("flip"))
    model = replace(plain.model, width=2)
    plan = RoundPlan(tuple(blocks))
    return replace(plain, runtime=runtime, stages=stages, augmentation=augmentation, model=model, plan=plan)


def trained(task: Task, out: Path) -> tuple[Weights, list[str]]:
    data = {name: make_data(name, 4, seed, side=32, test=2) for seed, name in enumerate(("north", "south"))}
    sites = [Site(name, lambda own=own: own, task, out / name) for name, own in data.items()]  # type: ignore[misc]
    with count_waits() as waits:
        run_federation(task, LocalSites(sites), out)
    return final_weights(out)[0], waits.reasons


@pytest.mark.slow
@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize(
    "blocks",
    [
        [BlockSettings(("segmentation",), 1, None, 2), BlockSettings(("survival",), 3, None, 2)],
        [BlockSettings(("joint",), 3, None, 2)],
    ],
    ids=["stages", "joint"],
)
def test_a_federation_on_an_accelerator_equals_the_one_on_the_cpu(tmp_path: Path, blocks: list[BlockSettings]) -> None:
    expected, no_waits = trained(task_on("cpu", *blocks), tmp_path / "cpu")
    found, waits = trained(task_on("auto", *blocks), tmp_path / "accelerator")
    assert no_waits == []
    assert "copy to the host" in waits  # weights leave on the CPU
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_auto_is_the_accelerator_that_pytorch_finds(accelerator: torch.device) -> None:
    assert device_of(RuntimeSettings(device="auto")) == accelerator
    assert device_of(RuntimeSettings(device="cpu")) == torch.device("cpu")


def test_auto_is_the_cpu_where_pytorch_finds_none_or_one_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert device_of(RuntimeSettings(device="auto")) == torch.device("cpu")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("mps"))
    assert device_of(RuntimeSettings(device="auto")) == torch.device("cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_asked_for_and_not_there_is_one_line() -> None:
    with pytest.raises(InputError, match=r"^runtime\.device is cuda, and .*set it to auto or cpu") as error:
        device_of(RuntimeSettings(device="cuda"))
    assert "\n" not in str(error.value)
