"""What of stage I enters stage II: exactly the tensors that the setting names, once, and the same after a kill."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import make_data, make_task

from adamss_fl.federation.checkpoint import Checkpoints
from adamss_fl.federation.events import read_events
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Instruction, Reply, Weights
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.run import initial_weights, run_federation
from adamss_fl.federation.settings import BlockSettings, FederationSettings, PluginSettings
from adamss_fl.federation.site import Site
from adamss_fl.federation.task import Task
from adamss_fl.federation.transfer import reset_groups
from adamss_fl.model import AdaMSS, parameter_groups

DATA = {name: make_data(name, 3, seed=seed, test=0) for seed, name in enumerate(("a", "b"))}
STAGE_TWO = 3  # the first survival round of the plan (2, 2)


class Killed(Exception):
    """Stands for a process that dies."""


class Recorder:
    """A site that keeps the weights it is sent to train from, and dies once before training round ``die_at``."""

    def __init__(self, inner: Site, die_at: int = 0) -> None:
        self.name = inner.name
        self.inner = inner
        self.die_at = die_at
        self.received: dict[int, Weights] = {}

    def handle(self, instruction: Instruction) -> Reply:
        if instruction.kind == "train":
            if instruction.round == self.die_at:
                raise Killed
            self.received[instruction.round] = {n: np.array(a) for n, a in (instruction.weights or {}).items()}
        return self.inner.handle(instruction)


def task_with(transfer: str, plan: tuple[int, int] = (2, 2)) -> Task:
    momentum = FederationSettings(aggregator=PluginSettings("momentum", {"momentum": 0.5}))
    task = make_task(plan, federation=momentum)
    return replace(task, stages=replace(task.stages, transfer=transfer))  # type: ignore[arg-type]


def run(task: Task, out: Path, die_at: int = 0) -> dict[int, Weights]:
    sites = [Recorder(Site(name, lambda own=own: own, task, out / name), die_at) for name, own in DATA.items()]
    run_federation(task, LocalSites(sites), out, evaluate_test=False)
    return sites[0].received


def differing(first: Weights, second: Weights) -> set[str]:
    return {name for name in first if not np.array_equal(first[name], second[name])}


@pytest.mark.parametrize(
    ("transfer", "reset"), [("full", ()), ("encoder", ("decoder.",)), ("none", ("encoder.", "decoder."))]
)
def test_stage_two_starts_with_exactly_the_expected_tensors(
    transfer: str, reset: tuple[str, ...], tmp_path: Path
) -> None:
    task = task_with(transfer)
    received = run(task, tmp_path)
    initial, stage_one = initial_weights(task), Checkpoints(tmp_path / "checkpoints").load(STAGE_TWO - 1).weights
    trained = differing(initial, stage_one)
    assert {"decoder.level1.block.convs.0.norm.running_mean", "segmentation_head.conv.weight"} <= trained
    assert differing(received[STAGE_TWO], stage_one) == {name for name in trained if name.startswith(reset or ("-",))}
    assert {name for name in differing(received[STAGE_TWO], initial) if name.startswith(reset or ("-",))} == set()
    # Once: the next round starts from what the sites made of it.
    assert differing(received[STAGE_TWO + 1], received[STAGE_TWO]) > {"decoder.level1.block.convs.0.conv.weight"}
    kinds = [event["kind"] for event in read_events(tmp_path / "events.jsonl")]
    assert kinds.count("transfer") == (transfer != "full")


def test_stage_one_and_a_full_transfer_are_as_ever(tmp_path: Path) -> None:
    plain = run(task_with("full"), tmp_path / "plain")
    lossy = run(task_with("encoder"), tmp_path / "lossy")
    assert all(not differing(plain[round_], lossy[round_]) for round_ in (1, 2))


@pytest.mark.parametrize("die_at", [STAGE_TWO, STAGE_TWO + 1])
def test_killed_round_the_transfer_and_resumed_equals_uninterrupted(die_at: int, tmp_path: Path) -> None:
    task = task_with("encoder")
    run(task, tmp_path / "whole")
    with pytest.raises(Killed):
        run(task, tmp_path / "killed", die_at)
    assert Checkpoints(tmp_path / "killed" / "checkpoints").rounds()[-1] == die_at - 1
    run(task, tmp_path / "killed")
    assert differing(final_weights(tmp_path / "whole")[0], final_weights(tmp_path / "killed")[0]) == set()


def test_the_aggregator_does_not_push_a_decoder_that_begins_anew(tmp_path: Path) -> None:
    """With one site and momentum 0.5, stage II after a reset is the site's own weights plus no old velocity."""
    task = task_with("none", (2, 1))
    data = make_data("a", 3, test=0)
    replies: dict[int, Weights] = {}

    class Watching(Recorder):
        def handle(self, instruction: Instruction) -> Reply:
            reply = super().handle(instruction)
            if instruction.kind == "train":
                replies[instruction.round] = dict(reply.weights or {})
            return reply

    run_federation(task, LocalSites([Watching(Site("a", lambda: data, task, tmp_path))]), tmp_path, evaluate_test=False)
    final = final_weights(tmp_path)[0]
    for name in ("encoder.pet.level1.convs.0.conv.weight", "decoder.level1.block.convs.0.conv.weight"):
        np.testing.assert_allclose(final[name], replies[3][name], rtol=0, atol=1e-7)


def test_the_groups_that_are_reset_hold_the_tensors_that_are_reset() -> None:
    groups = parameter_groups(AdaMSS(make_task().model))
    for transfer, prefixes in (("encoder", ("decoder.",)), ("none", ("encoder.", "decoder."))):
        named = {group for group, names in groups.items() if any(name.startswith(prefixes) for name in names)}
        assert set(reset_groups(transfer)) == named
    assert reset_groups("full") == ()


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        ((("segmentation",), ("survival",)), 2),
        ((("segmentation",), ("segmentation", "survival")), 0),
        ((("segmentation", "survival"),), 0),
        ((("survival",), ("segmentation",), ("survival",)), 0),
        ((("joint",), ("survival",)), 2),
        ((("joint",),), 0),
    ],
)
def test_the_round_in_which_stage_two_begins(blocks: tuple[tuple[str, ...], ...], expected: int) -> None:
    plan = RoundPlan(tuple(BlockSettings(stages, 1, epochs=1) for stages in blocks))  # type: ignore[arg-type]
    assert plan.first_survival_round() == expected
