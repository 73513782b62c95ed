"""Invariants of the design, over sites in this process."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic import make_data, make_task

from adamss_fl.errors import InputError
from adamss_fl.evaluation.compare import centralized, pool
from adamss_fl.federation.checkpoint import Checkpoints
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Collected, Instruction, Reply, SiteFailure, Weights
from adamss_fl.federation.rounds import QuorumLost
from adamss_fl.federation.run import final_weights, initial_weights, run_federation
from adamss_fl.federation.settings import FederationSettings, PluginSettings
from adamss_fl.federation.site import Site, SiteData
from adamss_fl.federation.task import Task
from adamss_fl.model import AdaMSS, parameter_groups


def site(name: str, data: SiteData, task: Task, folder: Path) -> Site:
    return Site(name, lambda: data, task, folder / "sites" / name)


def train(task: Task, data: dict[str, SiteData], out: Path) -> Weights:
    sites = LocalSites([site(name, own, task, out) for name, own in data.items()])
    run_federation(task, sites, out)
    return final_weights(out)[0]


def assert_equal_bits(first: Weights, second: Weights) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not np.array_equal(first[name], second[name])] == []


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


class Killed(Exception):
    """Stands for a process that dies."""


class Dying:
    """A site that dies in the middle of training a given round, once, after its weights have changed."""

    def __init__(self, inner: Site, round: int) -> None:
        self.name = inner.name
        self.inner = inner
        self.round = round

    def handle(self, instruction: Instruction) -> Reply:
        if instruction.kind == "train" and instruction.round == self.round:
            self.inner._on_step = lambda what: die  # type: ignore[method-assign]
        return self.inner.handle(instruction)


def die(done: int, total: int) -> None:
    raise Killed


@pytest.mark.parametrize("round_", [1, 3, 4])
def test_killed_while_training_and_resumed_equals_uninterrupted(round_: int, tmp_path: Path) -> None:
    """Invariant 3 in one process: the site dies between two steps; the run is started again on the same folder."""
    task = make_task((2, 2), validate_every=1)
    data = {name: make_data(name, seed=seed, validation=3) for seed, name in enumerate(("a", "b"))}
    whole = train(task, data, tmp_path / "whole")
    out = tmp_path / "killed"
    sites: list[Any] = [site(name, own, task, out) for name, own in data.items()]
    with pytest.raises(Killed):
        run_federation(task, LocalSites([sites[0], Dying(sites[1], round_)]), out)
    assert Checkpoints(out / "checkpoints").rounds()[-1] == round_ - 1
    assert_equal_bits(train(task, data, out), whole)


@pytest.mark.parametrize("moment", ["aggregate", "save"])
def test_server_killed_and_resumed_equals_uninterrupted(
    moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server dies after the sites have trained: their later state must not leak into the repeated round."""
    task = make_task((2, 2), federation=FederationSettings(aggregator=PluginSettings("momentum", {"momentum": 0.5})))
    data = {name: make_data(name, seed=seed) for seed, name in enumerate(("a", "b"))}
    whole = train(task, data, tmp_path / "whole")
    place = {
        "aggregate": "adamss_fl.federation.rounds.GroupedAggregation.aggregate",
        "save": "adamss_fl.federation.checkpoint.Path.rename",
    }[moment]
    with monkeypatch.context() as patch:
        calls = 0
        module, _, name = place.rpartition(".")
        owner, _, attribute = module.rpartition(".")
        target = getattr(__import__(owner, fromlist=[attribute]), attribute)
        original = getattr(target, name)

        def dying(*arguments: Any, **keywords: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise Killed
            return original(*arguments, **keywords)

        patch.setattr(target, name, dying)
        with pytest.raises(Killed):
            train(task, data, tmp_path / "killed")
    assert_equal_bits(train(task, data, tmp_path / "killed"), whole)


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


class Broken:
    """A site whose training replies are spoilt in one way."""

    def __init__(self, inner: Site, fault: str) -> None:
        self.name = inner.name
        self.inner = inner
        self.fault = fault

    def handle(self, instruction: Instruction) -> Reply:
        reply = self.inner.handle(instruction)
        if instruction.kind != "train" or reply.weights is None:
            return reply
        weights = dict(reply.weights)
        name = "encoder.gates.level1.contrast.weight_a"
        assert name in weights
        if self.fault == "crash":
            raise SiteFailure("site_error")
        if self.fault == "nan":
            weights[name] = np.full_like(weights[name], np.nan)
        elif self.fault == "shape":
            weights[name] = weights[name][:1]
        elif self.fault == "type":
            weights[name] = weights[name].astype(np.float64)
        elif self.fault == "missing":
            del weights[name]
        elif self.fault == "stale":
            return replace(reply, round=reply.round - 1)
        elif self.fault == "no patients":
            return replace(reply, figures={**reply.figures, "patients": 0})
        return replace(reply, weights=weights)


FAULTS = {
    "nan": ("refused_reply", "encoder.gates.level1.contrast.weight_a"),
    "shape": ("refused_reply", "has shape"),
    "type": ("refused_reply", "float64"),
    "missing": ("refused_reply", "is missing"),
    "no patients": ("refused_reply", "'patients'"),
    "stale": ("stale_reply", "answers round 0"),
    "crash": ("site_error", ""),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoilt_reply_is_an_absence_by_name_and_the_run_goes_on(fault: str, tmp_path: Path) -> None:
    """Invariant 6, quorum held: the others' model results, as if the spoilt site had not been there."""
    task = make_task((1, 0), federation=FederationSettings(min_sites=2))
    names = ("a", "b", "c")
    data = {name: make_data(name, seed=seed, test=0) for seed, name in enumerate(names)}
    edges = (0.0, 150.0, 250.0, 400.0, 2000.0)
    task = replace(task, stages=replace(task.stages, edges_days=edges))
    out = tmp_path / "spoilt"
    sites: list[Any] = [site(name, data[name], task, out) for name in names]
    run_federation(task, LocalSites([sites[0], Broken(sites[1], fault), sites[2]]), out)
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    absences = [event for event in events if event["kind"] == "absence"]
    cause, detail = FAULTS[fault]
    assert [(event["site"], event["cause"]) for event in absences] == [("b", cause)]
    assert detail in absences[0]["detail"]
    others = train(task, {name: data[name] for name in ("a", "c")}, tmp_path / "others")
    assert_equal_bits(final_weights(out)[0], others)


def test_a_lost_quorum_stops_the_run_with_the_last_good_model(tmp_path: Path) -> None:
    """Invariant 6, quorum lost in the second round."""
    task = make_task((2, 1), federation=FederationSettings(min_sites=2))
    data = {name: make_data(name, seed=seed) for seed, name in enumerate(("a", "b"))}
    sites = [site(name, own, task, tmp_path) for name, own in data.items()]

    class FailsLater(Broken):
        def handle(self, instruction: Instruction) -> Reply:
            return self.inner.handle(instruction) if instruction.round < 2 else super().handle(instruction)

    with pytest.raises(QuorumLost, match=r"round 2: 1 of the 2 sites needed .* b \(refused_reply: .*weight_a"):
        run_federation(task, LocalSites([sites[0], FailsLater(sites[1], "nan")]), tmp_path)
    assert not (tmp_path / "metrics.json").exists()
    newest = Checkpoints(tmp_path / "checkpoints").newest()
    assert newest is not None
    assert newest.round == 1
    assert all(np.isfinite(array).all() for array in newest.weights.values())


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


def test_a_site_smaller_than_a_batch_is_refused_in_one_line(tmp_path: Path) -> None:
    task = make_task((1, 1))
    data = {"a": make_data("a"), "tiny": make_data("tiny", train=2)}
    with pytest.raises(InputError, match=r"site tiny: 2 training patients are fewer than a batch; set stages\."):
        train(task, data, tmp_path)


def test_a_folder_of_another_run_is_refused_and_a_finished_one_returned(tmp_path: Path) -> None:
    task, data = make_task((1, 1)), {"a": make_data("a")}
    sites = LocalSites([site("a", data["a"], task, tmp_path)])
    first = run_federation(task, sites, tmp_path)
    assert run_federation(task, sites, tmp_path) == first
    with pytest.raises(InputError, match="other settings"):
        run_federation(replace(task, seed=9), sites, tmp_path)


def test_a_torn_checkpoint_is_passed_over(tmp_path: Path) -> None:
    """The run goes on from the newest whole one, and ends with the same bits."""
    task, data = make_task((2, 1)), {"a": make_data("a")}
    whole = train(task, data, tmp_path)
    (tmp_path / "metrics.json").unlink()
    model = tmp_path / "checkpoints" / "round-0003" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    assert_equal_bits(train(task, data, tmp_path), whole)


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
