"""A site that cannot be used is an absence by name and cause, and too many of them stop the run."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import assert_equal_bits, site, train
from synthetic import make_data, make_task

from adamss_fl.deployment.submissions import outcome_of
from adamss_fl.errors import InputError
from adamss_fl.federation.checkpoint import Checkpoints
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Instruction, Reply, SiteFailure
from adamss_fl.federation.rounds import QuorumLost
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.settings import FederationSettings
from adamss_fl.federation.site import Site


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


@pytest.mark.parametrize(("then", "final"), [("pause", False), ("stop", True)])
def test_what_a_lost_quorum_means_is_the_runs_own_choice(then: Any, final: bool, tmp_path: Path) -> None:
    task = make_task((1, 0), federation=FederationSettings(min_sites=2, then=then))
    sites = [site(name, make_data(name, seed=seed), task, tmp_path) for seed, name in enumerate(("a", "b"))]
    with pytest.raises(QuorumLost) as lost:
        run_federation(task, LocalSites([sites[0], Broken(sites[1], "crash")]), tmp_path)
    assert lost.value.final is final
    assert outcome_of(lost.value).state == ("failed" if final else "paused")


def test_a_run_that_is_to_continue_goes_on_with_those_who_answered(tmp_path: Path) -> None:
    settings = FederationSettings(min_sites=2, then="continue")
    edges = (0.0, 150.0, 250.0, 400.0, 2000.0)
    task = make_task((1, 0), federation=settings)
    task = replace(task, stages=replace(task.stages, edges_days=edges))
    data = {name: make_data(name, seed=seed, test=0) for seed, name in enumerate(("a", "b"))}
    sites: list[Any] = [site(name, own, task, tmp_path / "both") for name, own in data.items()]
    run_federation(task, LocalSites([sites[0], Broken(sites[1], "nan")]), tmp_path / "both")
    events = [json.loads(line) for line in (tmp_path / "both/events.jsonl").read_text().splitlines()]
    assert [event["sites"] for event in events if event["kind"] == "short_of_quorum"] == [["a"]]
    alone = train(replace(task, federation=FederationSettings()), {"a": data["a"]}, tmp_path / "alone")
    assert_equal_bits(final_weights(tmp_path / "both")[0], alone)
    nobody: list[Any] = [Broken(each, "nan") for each in sites]
    with pytest.raises(QuorumLost, match="0 of the 2"):
        run_federation(task, LocalSites(nobody), tmp_path / "nobody")


def test_a_site_smaller_than_a_batch_is_refused_in_one_line(tmp_path: Path) -> None:
    task = make_task((1, 1))
    data = {"a": make_data("a"), "tiny": make_data("tiny", train=2)}
    with pytest.raises(InputError, match=r"site tiny: 2 training patients are fewer than a batch; set stages\."):
        train(task, data, tmp_path)
