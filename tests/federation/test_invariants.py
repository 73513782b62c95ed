"""Invariants of the design, over sites in this process."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_process import assert_equal_bits, site, train
from synthetic import make_data, make_task

from adamss_fl.evaluation.compare import centralized, pool
from adamss_fl.federation.checkpoint import Checkpoints
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Collected, Instruction, Reply, Weights
from adamss_fl.federation.run import initial_weights, run_federation
from adamss_fl.federation.settings import FederationSettings, PluginSettings
from adamss_fl.federation.site import Site
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.model import AdaMSS, parameter_groups


@pytest.mark.parametrize("pooled", ["raw", "whitened"])
@pytest.mark.parametrize("preset", ["sequential", "per-round"])
def test_one_site_federation_equals_centralized(preset: str, pooled: Any, tmp_path: Path) -> None:
    """Invariant 1: the same weights, bit for bit, whatever else the federation's settings say."""
    federation = FederationSettings(groups={"fusion_gates": PluginSettings("average")}, attempts=2)
    task = make_task(preset=preset, federation=federation)
    task = replace(task, model=replace(task.model, pooled=pooled))
    data = {"alone": make_data("alone")}
    assert_equal_bits(train(task, data, tmp_path / "a"), train(centralized(task), data, tmp_path / "b"))


@pytest.mark.parametrize("stages", [(1, 0), (0, 1)])
def test_one_full_batch_step_at_each_site_equals_one_pooled_step(stages: tuple[int, int], tmp_path: Path) -> None:
    """Invariant 2: without batch statistics and dropout, K sites of unequal size make the pooled gradient step."""
    sizes = {"a": 2, "b": 3}
    data = {name: make_data(name, size, seed=size, side=32, test=0) for name, size in sizes.items()}
    task = make_task(stages, norm="group", dropout=0.0, steps=1, epochs=None)
    task = replace(task, stages=replace(task.stages, edges_days=(0.0, 150.0, 250.0, 400.0, 2000.0)))

    def stepping(batch: int) -> Task:
        stage = replace(task.stages.survival, optimizer="sgd", schedule="constant", learning_rate=0.1, batch_size=batch)
        return replace(task, stages=replace(task.stages, segmentation=stage, survival=stage))

    # A site's full batch is its own size: each is given a task of its own that differs in nothing else.
    out = tmp_path / "federated"
    sites = [Site(name, lambda own=data[name]: own, stepping(size), out / name) for name, size in sizes.items()]
    run_federation(stepping(2), LocalSites(sites), out, evaluate_test=False)
    federated = final_weights(out)[0]
    pooled = train_pooled(stepping(5), pool(data), tmp_path / "pooled")
    start = initial_weights(task)
    assert max(float(np.abs(pooled[name] - start[name]).max()) for name in start) > 1e-4
    for name, array in pooled.items():
        np.testing.assert_allclose(federated[name], array, rtol=0, atol=1e-6, err_msg=name)


def train_pooled(task: Task, data: SiteData, out: Path) -> Weights:
    run_federation(task, LocalSites([site("pooled", data, task, out)]), out, evaluate_test=False)
    return final_weights(out)[0]


class Shuffled(LocalSites):
    """Replies in another order than the sites' names."""

    def broadcast(self, instruction: Instruction, deadline_seconds: float | None = None) -> Collected:
        collected = super().broadcast(instruction, deadline_seconds)
        return Collected(collected.replies[::-1], collected.absences[::-1])


def test_order_of_arrival_does_not_matter(tmp_path: Path) -> None:
    """Invariant 4."""
    task = make_task((1, 1))
    data = {name: make_data(name, 4 + seed, seed) for seed, name in enumerate(("a", "b", "c"))}
    found = []
    for kind in (LocalSites, Shuffled):
        out = tmp_path / kind.__name__
        run_federation(task, kind([site(name, own, task, out) for name, own in data.items()]), out)
        found.append(final_weights(out)[0])
    assert_equal_bits(*found)


def test_stage_two_starts_with_every_stage_one_tensor(tmp_path: Path) -> None:
    """The released code left 3.54 M decoder parameters random here."""
    seen: dict[int, Weights] = {}

    class Watching(Site):
        def handle(self, instruction: Instruction) -> Reply:
            if instruction.kind == "train":
                assert instruction.weights is not None
                seen[instruction.round] = {name: array.copy() for name, array in instruction.weights.items()}
            return super().handle(instruction)

    task = make_task((2, 1))
    data = make_data("a")
    run_federation(task, LocalSites([Watching("a", lambda: data, task, tmp_path / "sites")]), tmp_path)
    segmentation = Checkpoints(tmp_path / "checkpoints").load(2).weights
    assert_equal_bits(seen[3], segmentation)
    start = initial_weights(task)
    with torch.device("meta"):
        groups = parameter_groups(AdaMSS(task.model))
    for group in ("pet_encoder", "ct_encoder", "fusion_encoder", "fusion_gates", "decoder"):
        assert any(not np.array_equal(seen[3][name], start[name]) for name in groups[group]), group


def test_a_local_group_never_leaves_its_site(tmp_path: Path) -> None:
    """FedBN: norm statistics stay, differ between sites, and lie over the global model in the site's own evaluation."""
    federation = FederationSettings(groups={"norm_statistics": PluginSettings("local")})
    task = make_task((1, 1), federation=federation)
    data = {name: make_data(name, seed=seed) for seed, name in enumerate(("a", "b"))}
    sent: list[Reply] = []

    class Watching(Site):
        def handle(self, instruction: Instruction) -> Reply:
            reply = super().handle(instruction)
            sent.append(reply)
            return reply

    sites = [Watching(name, lambda own=own: own, task, tmp_path / name) for name, own in data.items()]
    run_federation(task, LocalSites(sites), tmp_path)
    with torch.device("meta"):
        private = parameter_groups(AdaMSS(task.model))["norm_statistics"]
    assert all(name not in reply.weights for reply in sent if reply.weights for name in private)
    weights, _, state = final_weights(tmp_path)
    own = [each.personal_weights(weights, state["run"]) for each in sites]
    mean = next(name for name in private if name.endswith("running_mean"))
    assert not np.array_equal(own[0][mean], own[1][mean])
    assert np.array_equal(weights[mean], initial_weights(task)[mean])


def test_same_seed_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    task, data = make_task((1, 1)), {"a": make_data("a")}
    first, again = train(task, data, tmp_path / "1"), train(task, data, tmp_path / "2")
    other = train(replace(task, seed=4), data, tmp_path / "3")
    assert_equal_bits(first, again)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


def test_nothing_about_one_patient_is_in_any_reply(tmp_path: Path) -> None:
    """Invariant 5 at the seam: identifiers, times and risks of patients are in no reply; risks.csv stays."""
    task = make_task((1, 1), validate_every=1)
    data = make_data("a", validation=3)
    replies: list[Reply] = []

    class Watching(Site):
        def handle(self, instruction: Instruction) -> Reply:
            replies.append(super().handle(instruction))
            return replies[-1]

    watched = Watching("a", lambda: data, task, tmp_path / "private")
    run_federation(task, LocalSites([watched]), tmp_path)
    text = json.dumps([dict(reply.figures) for reply in replies])
    everyone = (*data.train, *data.validation, *data.test)
    risks = (tmp_path / "private" / "risks.csv").read_text().splitlines()[1:]
    assert len(risks) == len(data.test)
    for sample in everyone:
        assert sample.patient_id not in text
        assert f" {sample.time_days}," not in text
    for line in risks:
        assert line.split(",")[1] not in text
    assert str(tmp_path) not in text
    assert {reply.kind for reply in replies} == {"describe", "statistics", "train", "evaluate"}
