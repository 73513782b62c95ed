"""A run under ``best_validation``: its model is that of the best validated round, on disk, killed or not."""

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_process import assert_equal_bits, site, train
from synthetic import make_data, make_task

from adamss_fl.evaluation.selection import Choice, choice_of_run, chosen_round
from adamss_fl.federation.aggregation import GroupedAggregation
from adamss_fl.federation.best_round import segmentation_round, survival_rounds
from adamss_fl.federation.checkpoint import Checkpoint, Checkpoints
from adamss_fl.federation.events import read_events
from adamss_fl.federation.finished_run import final_rounds, final_weights
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Instruction, Reply, Weights
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.rounds import Rounds
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.settings import BlockSettings, FederationSettings, PluginSettings
from adamss_fl.federation.stage_one import stage_one_fingerprint
from adamss_fl.federation.task import Task, fingerprint
from adamss_fl.model.encoder import LEVELS

C_INDICES = {2: 0.6, 3: 0.8, 4: 0.7, 5: 0.65, 6: 0.8, 7: 0.5}
"""What the sites are made to say of each validated round: stage II is rounds 2 to 7, and the best is 6 after 3."""


class Killed(Exception):
    """Stands for a process that dies."""


class Telling:
    """A site without a network: what it trains is a step that depends on the round, its validation figures are given.

    ``tested`` : (round, weights) of every evaluation on test patients.
    """

    def __init__(self, name: str, task: Task, folder: Path, c_indices: dict[int, float], pairs: int) -> None:
        self.name = name
        self.inner = site(name, make_data(name, seed=ord(name)), task, folder)
        self.c_indices, self.pairs = c_indices, pairs
        self.tested: list[tuple[int, Weights]] = []

    def handle(self, instruction: Instruction) -> Reply:
        if instruction.kind not in ("train", "evaluate"):
            return self.inner.handle(instruction)
        given = instruction.weights or {}
        figures: dict[str, Any] = {"patients": 100, "gate_opening": [0.5] * LEVELS}
        weights: Weights | None = None
        if instruction.kind == "train":
            figures["steps"] = 1
            step = 1e-3 * ord(self.name) * np.sin(instruction.round)
            names = set(given) - self.inner.local_names
            weights = {
                n: v + step.astype(v.dtype) if v.dtype.kind == "f" else v for n, v in given.items() if n in names
            }
        else:
            if instruction.settings["split"] == "test":
                self.tested.append((instruction.round, given))
            right = round(self.pairs * self.c_indices.get(instruction.round, 0.1))
            counts = {"concordant": right, "discordant": self.pairs - right, "tied_risk": 0, "tied_time": 0}
            figures.update(events=50, masked=100, concordance=counts, overlap=[[1, 1, 1], [instruction.round, 9, 9]])
        head = (instruction.kind, self.name, instruction.run, instruction.round, instruction.attempt)
        return Reply(*head, figures, weights)


def best_task(**changed: Any) -> Task:
    federation = FederationSettings(min_sites=2, aggregator=PluginSettings("momentum", {"momentum": 0.5}))
    return replace(make_task((1, 6), validate_every=1, federation=federation), select="best_validation", **changed)


def run(
    task: Task, out: Path, c_indices: dict[int, float] | None = None, pairs: int = 1000, evaluate_test: bool = False
) -> list[Telling]:
    sites = [Telling(name, task, out, C_INDICES if c_indices is None else c_indices, pairs) for name in "ab"]
    run_federation(task, LocalSites(sites), out, evaluate_test=evaluate_test)
    return sites


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run under ``last``, every checkpoint of which is kept."""
    out = tmp_path_factory.mktemp("plain")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "_prune", lambda self, spare: None)
        run(replace(best_task(), select="last"), out)
    return out


def test_the_model_is_that_of_the_best_validated_round_though_it_is_long_past(plain: Path, tmp_path: Path) -> None:
    c_indices = {**C_INDICES, 6: 0.7}
    run(best_task(), tmp_path, c_indices)
    survival, segmentation, state = final_weights(tmp_path)
    every_round = Checkpoints(plain / "checkpoints")
    assert_equal_bits(survival, every_round.load(3).weights)
    assert_equal_bits(segmentation, every_round.load(1).weights)
    assert any(not np.array_equal(survival[name], final_weights(plain)[0][name]) for name in survival)
    assert state["stages"] == ["survival"]
    assert Checkpoints(tmp_path / "checkpoints").rounds() == [0, 1, 3, 6, 7]
    selected = json.loads((tmp_path / "metrics.json").read_text())["selected"]
    assert selected == {
        "rule": "best_validation",
        "round": 3,
        "reason": "the best of 6 validated rounds: C-index 0.800 on 2,000 comparable pairs",
        "c_index": 0.8,
    }


def test_a_later_equal_round_takes_the_place_of_the_one_kept(tmp_path: Path) -> None:
    run(best_task(), tmp_path)
    assert final_rounds(tmp_path) == (6, 1)
    assert Checkpoints(tmp_path / "checkpoints").rounds() == [0, 1, 6, 7]


@pytest.mark.parametrize("moment", ["aggregate", "save", "validate", "prune"])
@pytest.mark.parametrize("round_", [3, 5])
def test_killed_and_resumed_it_chooses_the_same_round_and_bits(
    moment: str, round_: int, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before the best round is validated, its figures are made up for; killed later, it is still kept."""
    c_indices = {**C_INDICES, 6: 0.7}
    owner, name = {
        "aggregate": (GroupedAggregation, "aggregate"),
        "save": (Checkpoints, "save"),
        "validate": (Rounds, "validate"),
        "prune": (Checkpoints, "_prune"),
    }[moment]
    original, calls = getattr(owner, name), 0

    def dying(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == round_ + (moment in ("save", "prune")):  # round 0 is saved as well
            raise Killed
        return original(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, dying)
        with pytest.raises(Killed):
            run(best_task(), tmp_path, c_indices)
    run(best_task(), tmp_path, c_indices)
    assert final_rounds(tmp_path) == (3, 1)
    assert_equal_bits(final_weights(tmp_path)[0], Checkpoints(plain / "checkpoints").load(3).weights)
    validated = {e["round"] for e in read_events(tmp_path / "events.jsonl") if e["kind"] == "validation"}
    assert validated == set(range(1, 8))


def test_too_few_validation_pairs_give_the_last_round_with_the_reason(plain: Path, tmp_path: Path) -> None:
    run(best_task(), tmp_path, pairs=9)
    assert_equal_bits(final_weights(tmp_path)[0], final_weights(plain)[0])
    assert choice_of_run(tmp_path) == Choice(
        7, "the last round, as the validation patients have 18 comparable pairs and 20 are needed to choose"
    )


def test_without_the_best_rounds_checkpoint_the_best_of_those_on_disk_is_taken(tmp_path: Path) -> None:
    run(best_task(), tmp_path, {**C_INDICES, 6: 0.7})
    (tmp_path / "metrics.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "round-0003")
    run(best_task(), tmp_path, {**C_INDICES, 6: 0.7})
    assert final_rounds(tmp_path) == (6, 1)


def test_a_model_with_parts_at_the_sites_is_that_of_the_last_round(tmp_path: Path) -> None:
    """Sites keep such parts of their last rounds only."""
    task = best_task()
    local = replace(task.federation, groups={"fusion_gates": PluginSettings("local")})
    run(replace(task, federation=local), tmp_path)
    assert choice_of_run(tmp_path) == Choice(7, "the last round, as parts of the model stay at the sites")


def test_test_patients_are_looked_at_once_with_the_model_that_was_chosen(plain: Path, tmp_path: Path) -> None:
    """And once with that of the last round of segmentation, whose DSC is told, as ever."""
    (first, _) = run(best_task(), tmp_path, {**C_INDICES, 6: 0.7}, evaluate_test=True)
    every_round = Checkpoints(plain / "checkpoints")
    assert [round_ for round_, _ in first.tested] == [1, 3]
    for round_, weights in first.tested:
        assert_equal_bits(weights, every_round.load(round_).weights)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["c_index"] == 0.8
    assert metrics["dsc"]["nodes"] == pytest.approx(2 * 1 / 18)
    assert metrics["test"]["dsc_after_survival_stage"]["nodes"] == pytest.approx(2 * 3 / 18)


def test_a_real_site_validates_and_a_real_run_takes_what_its_own_events_say(tmp_path: Path) -> None:
    task = replace(make_task((1, 2), validate_every=1), select="best_validation")
    found = train(task, {"a": make_data("a", validation=12)}, tmp_path)
    events = list(read_events(tmp_path / "events.jsonl"))
    choice = choice_of_run(tmp_path)
    assert choice == chosen_round(events, "best_validation", (2, 3))
    assert choice.c_index is not None
    assert_equal_bits(found, Checkpoints(tmp_path / "checkpoints").load(choice.round).weights)


def test_under_last_nothing_changes(plain: Path) -> None:
    """No key more in the figures, and the hashes of runs that were begun before there was a choice."""
    task = replace(best_task(), select="last")
    assert "selected" not in json.loads((plain / "metrics.json").read_text())
    assert final_rounds(plain) == (7, 1)
    before = {key: value for key, value in asdict(task).items() if key != "select"}
    before["runtime"] |= {"device": "auto", "checkpointing": False}  # either may change while a run stands still
    text = json.dumps({"task": before, "sites": ["a"]}, sort_keys=True, default=str)
    assert fingerprint(task, ("a",)) == hashlib.sha256(text.encode()).hexdigest()
    assert fingerprint(task, ("a",)) != fingerprint(best_task(), ("a",))
    assert stage_one_fingerprint(task, ("a",)) == stage_one_fingerprint(best_task(), ("a",))


@pytest.mark.parametrize(
    ("blocks", "survival", "segmentation"),
    [
        ([("segmentation",), ("survival",)], (3, 4), {3: 2, 4: 2}),
        ([("segmentation", "survival")], (1, 2), {1: 1, 2: 2}),
        ([("joint",), ("survival",)], (1, 2, 3, 4), {1: 1, 2: 2, 3: 2}),
        ([("survival",), ("segmentation",)], (1, 2), {1: 4, 2: 4}),
        ([("survival",)], (1, 2), {1: 0, 2: 0}),
    ],
)
def test_masks_come_from_the_last_round_of_segmentation_up_to_the_one_taken(
    blocks: list[Any], survival: tuple[int, ...], segmentation: dict[int, int]
) -> None:
    plan = RoundPlan(tuple(BlockSettings(stages, 2, epochs=1) for stages in blocks))
    assert survival_rounds(plan) == survival
    assert {taken: segmentation_round(plan, taken) for taken in segmentation} == segmentation


def test_a_spared_checkpoint_stays_as_long_as_it_is_spared(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    weights = {"a": np.zeros(2, dtype=np.float32)}
    for round_ in range(6):
        checkpoints.save(Checkpoint(round_, weights, {}, {}), spare=(1,))
    assert checkpoints.rounds() == [1, 4, 5]
    checkpoints.save(Checkpoint(6, weights, {}, {}))
    assert checkpoints.rounds() == [5, 6]
