"""Stage II in the same round as stage I is normalised alike at every site, and sends the statistics of stage I."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from synthetic import make_data, make_task

from adamss_fl.federation import site as site_module
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Instruction, Reply, Weights
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.site import Site
from adamss_fl.federation.task import Task
from adamss_fl.model import AdaMSS
from adamss_fl.training.shared_norms import Statistics, normalised_by, running_statistics, were_trained

NAMES = ("a", "b")


def task_with(norm_statistics: str) -> Task:
    task = make_task((3, 3), preset="per-round")
    survival = replace(task.stages.survival, norm_statistics=norm_statistics)  # type: ignore[arg-type]
    return replace(task, stages=replace(task.stages, survival=survival))


def watch(
    task: Task, out: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict[tuple[str, int], Weights], dict[tuple[str, int], Weights], list[tuple[str, Statistics]]]:
    """What each site received and sent by (site, round), and the statistics that each stage began with."""
    received: dict[tuple[str, int], Weights] = {}
    sent: dict[tuple[str, int], Weights] = {}
    began: list[tuple[str, Statistics]] = []
    original = site_module.train_stage

    def recording(model: AdaMSS, samples: object, work: site_module.StageWork, *rest: object, **more: object) -> object:
        began.append((work.stage, running_statistics(model)))
        return original(model, samples, work, *rest, **more)  # type: ignore[arg-type]

    class Watching(Site):
        def handle(self, instruction: Instruction) -> Reply:
            reply = super().handle(instruction)
            if instruction.kind == "train":
                received[self.name, instruction.round] = dict(instruction.weights or {})
                sent[self.name, instruction.round] = dict(reply.weights or {})
            return reply

    monkeypatch.setattr(site_module, "train_stage", recording)
    data = {name: make_data(name, seed=seed, test=0) for seed, name in enumerate(NAMES)}
    sites = [Watching(name, lambda own=own: own, task, out / name) for name, own in data.items()]  # type: ignore[misc]
    run_federation(task, LocalSites(sites), out, evaluate_test=False)
    return received, sent, began


def test_stage_two_meets_the_statistics_that_the_round_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    received, sent, began = watch(task_with("frozen"), tmp_path, monkeypatch)
    stages = [stage for stage, _ in began]
    assert stages == ["segmentation", "survival"] * (3 * len(NAMES))
    for place, (_, statistics) in enumerate(began[1::2]):
        round_, name = 1 + place // len(NAMES), NAMES[place % len(NAMES)]
        mean = "decoder.level1.block.convs.0.norm.running_mean"
        given, after = (torch.from_numpy(weights[name, round_][mean]) for weights in (received, sent))
        if round_ == 1:  # nothing has been counted yet: the site's own
            assert torch.equal(statistics[mean], after)
            assert not bool(given.any())
        else:
            assert torch.equal(statistics[mean], given)
            assert not torch.equal(after, given)


def test_without_freezing_stage_two_goes_on_from_stage_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    received, sent, began = watch(task_with("batch"), tmp_path, monkeypatch)
    mean = "decoder.level1.block.convs.0.norm.running_mean"
    last = began[-1][1][mean]
    assert not torch.equal(last, torch.from_numpy(received["b", 3][mean]))
    assert not torch.equal(last, torch.from_numpy(sent["b", 3][mean]))


def test_a_models_own_statistics_come_back_whatever_happens() -> None:
    model = AdaMSS(make_task().model)
    start = running_statistics(model)
    assert start
    assert not were_trained(start)
    others = {name: torch.full_like(value, 3) for name, value in start.items()}
    assert were_trained(others)

    def interrupted() -> None:
        with normalised_by(model, others):
            assert all(torch.equal(value, others[name]) for name, value in running_statistics(model).items())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(torch.equal(value, start[name]) for name, value in running_statistics(model).items())
