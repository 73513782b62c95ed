"""A site: its state on disk, its answers, and what it refuses."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import make_data, make_samples, make_task

from adamss_fl import __version__
from adamss_fl.federation.inputs import input_sums
from adamss_fl.federation.messages import Instruction, Reply, SiteFailure, Weights
from adamss_fl.federation.run import initial_weights
from adamss_fl.federation.settings import FederationSettings, PluginSettings
from adamss_fl.federation.site import Site
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.site_state import SiteState
from adamss_fl.federation.task import Task
from adamss_fl.model import architecture_hash
from adamss_fl.survival import concordance_counts

EDGES = [0.0, 150.0, 250.0, 400.0, 2000.0]


def state_of(round_: int) -> Weights:
    return {"optimizer/x": np.array([float(round_)])}


# --- the state file ---------------------------------------------------------------------------------------------------


def test_the_state_before_a_round_is_the_newest_earlier_one(tmp_path: Path) -> None:
    state = SiteState(tmp_path, "run")
    assert state.before(5) == {}
    for round_ in (1, 2, 4):
        state.save(round_, state_of(round_))
    assert state.before(1) == {}
    assert [state.before(round_)["optimizer/x"][0] for round_ in (2, 3, 4, 5, 99)] == [1, 2, 2, 4, 4]


def test_saving_a_round_again_forgets_the_later_ones(tmp_path: Path) -> None:
    """A server that goes back makes the site go back with it."""
    state = SiteState(tmp_path, "run")
    for round_ in (1, 2, 3):
        state.save(round_, state_of(round_))
    state.save(2, state_of(20))
    assert state.before(99)["optimizer/x"][0] == 20
    assert sorted(path.name for path in state.folder.iterdir()) == ["round-0001.safetensors", "round-0002.safetensors"]


def test_runs_do_not_see_each_others_state(tmp_path: Path) -> None:
    SiteState(tmp_path, "one").save(1, state_of(1))
    assert SiteState(tmp_path, "two").before(9) == {}


def kept_rounds(state: SiteState) -> list[int]:
    return sorted(int(path.name[6:10]) for path in state.folder.iterdir())


def test_old_states_are_forgotten_but_for_those_of_block_ends(tmp_path: Path) -> None:
    state = SiteState(tmp_path, "run")
    for round_ in range(1, 9):
        state.save(round_, state_of(round_), [3, 8])
    assert kept_rounds(state) == [3, 6, 7, 8]


def test_where_the_site_missed_a_blocks_last_round_the_one_before_is_kept(tmp_path: Path) -> None:
    state = SiteState(tmp_path, "run")
    for round_ in (1, 2, 4, 5, 6, 7):
        state.save(round_, state_of(round_), [3, 7])
    assert kept_rounds(state) == [2, 5, 6, 7]
    assert state.before(4)["optimizer/x"][0] == 2


@given(rounds=st.lists(st.integers(1, 12), min_size=1, max_size=12))
@settings(max_examples=20)
def test_whatever_is_repeated_the_state_before_the_next_round_is_the_last_one_saved(
    rounds: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = SiteState(tmp_path_factory.mktemp("state"), "run")
    for count, round_ in enumerate(rounds):
        state.save(round_, {"optimizer/x": np.array([float(count)])}, [4, 12])
        assert state.before(round_ + 1)["optimizer/x"][0] == count


# --- the verbs --------------------------------------------------------------------------------------------------------


def site(task: Task, data: SiteData, folder: Path) -> Site:
    return Site("a", lambda: data, task, folder)


def ask(kind: str, round_: int = 1, weights: Weights | None = None, **order: Any) -> Instruction:
    return Instruction(kind, "run", round_, 1, order, weights)  # type: ignore[arg-type]


def training(round_: int, weights: Weights, stage: str = "survival", **more: Any) -> Instruction:
    span = [0.0, 1.0]
    order = {"stages": [stage], "epochs": 1, "steps": None, "progress": {stage: span}, "edges_days": EDGES, **more}
    return ask("train", round_, weights, **order)


def test_describe_counts_patients_and_events_per_split(tmp_path: Path) -> None:
    task, data = make_task(), make_data("a", train=6, validation=3, test=4)
    reply = site(task, data, tmp_path).handle(ask("describe", version=__version__))
    assert reply.figures == {
        "version": __version__,
        "architecture": architecture_hash(task.model),
        "patients": {"train": 6, "validation": 3, "test": 4},
        "events": {
            "train": sum(sample.event for sample in data.train),
            "validation": sum(sample.event for sample in data.validation),
            "test": sum(sample.event for sample in data.test),
        },
        "inputs": input_sums(data.train, task.imaging),
        "machine": {"device": "cpu", "precision": "fp32"},
    }
    assert (reply.kind, reply.site, reply.run, reply.round, reply.attempt) == ("describe", "a", "run", 1, 1)
    assert reply.weights is None


@pytest.mark.parametrize("order", [{}, {"version": "9.9.9"}, {"version": 1}])
def test_a_server_of_a_version_that_may_not_train_with_ours_learns_nothing(
    tmp_path: Path, order: dict[str, Any]
) -> None:
    with pytest.raises(SiteFailure, match=r"^version_mismatch$"):
        site(make_task(), make_data("a", train=6), tmp_path).handle(ask("describe", **order))


@given(
    outcomes=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 1)), min_size=1, max_size=20),
    cells=st.integers(1, 9),
)
def test_event_counts_are_numpys_histogram_of_the_training_events(
    outcomes: list[tuple[int, int]], cells: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Cells are [low, high); what lies past the last edge is in the last cell, unlike numpy's."""
    image = make_samples(1, seed=0)[0]
    samples = tuple(replace(image, time_days=float(time), event=event) for time, event in outcomes)
    edges = np.linspace(0.0, 90.0, cells + 1)
    asked = site(make_task(), SiteData(samples), tmp_path_factory.mktemp("site"))
    found = asked.handle(ask("statistics", query="event_times", edges_days=edges.tolist())).figures
    times = np.array([time for time, event in outcomes if event], dtype=float)
    open_ended = np.append(edges[:-1], np.inf)
    assert found["counts"] == np.histogram(times, open_ended)[0].tolist()
    assert sum(found["counts"]) == len(times)
    assert found["patients"] == len(outcomes)


@pytest.mark.parametrize(
    ("instruction", "code"),
    [
        (ask("statistics", query="survival_times"), "unknown_query"),
        (ask("dance"), "unknown_instruction"),
        (ask("evaluate", split="test", edges_days=EDGES), "wrong_architecture"),
        (training(1, {"nothing": np.zeros(1)}), "wrong_architecture"),
    ],
)
def test_what_a_site_cannot_do_it_refuses_with_a_code(instruction: Instruction, code: str, tmp_path: Path) -> None:
    with pytest.raises(SiteFailure) as caught:
        site(make_task(), make_data("a"), tmp_path).handle(instruction)
    assert caught.value.code == str(caught.value) == code
    assert list(tmp_path.iterdir()) == []


def test_figures_of_evaluation_are_those_of_the_sites_own_risks(tmp_path: Path) -> None:
    """``risks.csv`` holds what the figures were made of, and only the test patients."""
    task, data = make_task(), make_data("a", train=3, test=5)
    figures = site(task, data, tmp_path).handle(
        ask("evaluate", 1, initial_weights(task), split="test", edges_days=EDGES)
    )
    lines = [line.split(",") for line in (tmp_path / "risks.csv").read_text().splitlines()[1:]]
    assert [line[0] for line in lines] == [sample.patient_id for sample in data.test]
    days = np.array([float(line[1]) for line in lines])
    times = [sample.time_days for sample in data.test]
    counts = concordance_counts(times, [sample.event for sample in data.test], -days)
    found = figures.figures
    assert found["concordance"] == vars(counts)
    reference = np.sum([sample.mask.sum(axis=(1, 2, 3)) for sample in data.test], axis=0)
    assert [row[2] for row in found["overlap"]] == reference.tolist()
    assert (found["patients"], found["masked"]) == (5, 5)


def test_patients_without_a_mask_do_not_count_in_the_overlap(tmp_path: Path) -> None:
    task = make_task()
    samples = make_samples(4, seed=1)
    bare = tuple(replace(sample, has_mask=False, mask=np.zeros_like(sample.mask)) for sample in samples[:2])
    asked = site(task, SiteData(samples, (), bare + samples[2:]), tmp_path)
    found = asked.handle(ask("evaluate", 1, initial_weights(task), split="test", edges_days=EDGES)).figures
    assert found["masked"] == 2
    reference = np.sum([sample.mask.sum(axis=(1, 2, 3)) for sample in samples[2:]], axis=0)
    assert [row[2] for row in found["overlap"]] == reference.tolist()


def test_a_split_without_patients_is_answered_with_none(tmp_path: Path) -> None:
    asked = site(make_task(), make_data("a", test=0), tmp_path)
    assert asked.handle(ask("evaluate", split="test", edges_days=EDGES)).figures == {"patients": 0}
    assert not (tmp_path / "risks.csv").exists()


def test_a_repeated_round_is_the_same_work_bit_for_bit(tmp_path: Path) -> None:
    """The optimiser's state is that before the round, not the one the first attempt left."""
    task = make_task()
    start = initial_weights(task)
    asked = site(task, make_data("a", train=3, test=0), tmp_path)
    asked.handle(training(1, start))
    first, again = (asked.handle(training(2, start)) for _ in range(2))
    fresh = site(task, make_data("a", train=3, test=0), tmp_path).handle(training(2, start))
    for other in (again, fresh):
        assert_same_weights(first, other)
    assert first.figures == again.figures


def test_the_optimisers_state_is_carried_from_round_to_round(tmp_path: Path) -> None:
    """The second round differs from one by a site that has no memory of the first."""
    task = make_task()
    start = initial_weights(task)
    data = make_data("a", train=3, test=0)
    remembering = site(task, data, tmp_path / "1")
    remembering.handle(training(1, start))
    found = remembering.handle(training(2, start)).weights
    forgetful = site(task, data, tmp_path / "2").handle(training(2, start)).weights
    assert found is not None
    assert forgetful is not None
    assert any(not np.array_equal(found[name], forgetful[name]) for name in start)


def assert_same_weights(first: Reply, second: Reply) -> None:
    assert first.weights is not None
    assert second.weights is not None
    assert first.weights.keys() == second.weights.keys()
    assert all(np.array_equal(first.weights[name], second.weights[name]) for name in first.weights)


def test_personal_weights_are_the_local_tensors_of_the_round_asked_for(tmp_path: Path) -> None:
    """After the last round a block's own model still gets the local tensors of that block (FedBN, two stages)."""
    task = make_task(federation=FederationSettings(groups={"norm_statistics": PluginSettings("local")}))
    asked = site(task, make_data("a"), tmp_path)
    weights = initial_weights(task)
    name = next(name for name in sorted(asked.local_names) if name.endswith("running_mean"))
    state = SiteState(tmp_path, "run")
    for round_ in range(1, 8):
        state.save(round_, {f"local/{name}": weights[name] + np.float32(round_)}, [2, 7])
    for round_, expected in ((2, 2), (7, 7), (None, 7)):
        found = asked.personal_weights(weights, "run", round_)
        np.testing.assert_array_equal(found[name], weights[name] + np.float32(expected))
        assert all(found[other] is weights[other] for other in weights if other != name)
