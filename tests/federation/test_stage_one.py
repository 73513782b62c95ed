"""Stage I of another run: bit for bit the run that trains its own, and refused where it would not be."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import make_data, make_task

from adamss_fl.errors import InputError
from adamss_fl.federation.checkpoint import Checkpoints
from adamss_fl.federation.events import read_events
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.settings import BlockSettings, FederationSettings, PluginSettings
from adamss_fl.federation.site import Site
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.stage_one import stage_one_fingerprint
from adamss_fl.federation.task import Task

DATA = {name: make_data(name, 5, seed=seed) for seed, name in enumerate(("a", "b"))}


def train(task: Task, out: Path, stage_one: Path | None = None, data: Mapping[str, SiteData] = DATA) -> None:
    sites = [Site(name, lambda own=own: own, task, out / "sites" / name) for name, own in data.items()]  # type: ignore[misc]
    run_federation(task, LocalSites(sites), out, stage_one=stage_one)


def with_stages(task: Task, **changes: object) -> Task:
    return replace(task, stages=replace(task.stages, **changes))  # type: ignore[arg-type]


def variants() -> dict[str, Task]:
    task = make_task((2, 2))
    faster = replace(task.stages.survival, learning_rate=3e-3, norm_statistics="frozen")
    return {
        "transfer": with_stages(task, transfer="encoder"),
        "rate": with_stages(task, survival=faster),
        "head": replace(task, model=replace(task.model, bins=3, dropout=0.1, pooled="whitened")),
        "longer": replace(task, plan=RoundPlan.sequential(2, 3)),
    }


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    train(make_task((2, 2)), folder)
    return folder


@pytest.mark.parametrize("name", list(variants()))
def test_a_variant_of_stage_two_equals_the_run_that_trains_its_own_stage_one(
    name: str, first: Path, tmp_path: Path
) -> None:
    task = variants()[name]
    train(task, tmp_path / "own")
    train(task, tmp_path / "inherited", first)
    own, inherited = final_weights(tmp_path / "own"), final_weights(tmp_path / "inherited")
    for mine, theirs in zip(own[:2], inherited[:2], strict=True):
        assert mine.keys() == theirs.keys()
        assert all(np.array_equal(mine[key], theirs[key]) for key in mine)
    events = list(read_events(tmp_path / "inherited" / "events.jsonl"))
    assert {event["round"] for event in events if event["kind"] == "train"} == set(range(3, len(task.plan.rounds) + 1))
    source = Checkpoints(first / "checkpoints").load(2).state["run"]
    assert [event["run"] for event in events if event["kind"] == "stage_one"] == [source]


def test_an_inherited_stage_one_can_be_inherited_again_and_a_finished_run_needs_no_source(
    first: Path, tmp_path: Path
) -> None:
    task = variants()["rate"]
    train(task, tmp_path / "second", first)
    train(make_task((2, 2)), tmp_path / "third", tmp_path / "second")
    third = final_weights(tmp_path / "third")[0]
    assert all(np.array_equal(value, third[key]) for key, value in final_weights(first)[0].items())
    train(task, tmp_path / "second", tmp_path / "gone")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda task: replace(task, seed=4), "other settings or sites"),
        (lambda task: replace(task, model=replace(task.model, gates="half")), "other settings or sites"),
        (
            lambda task: with_stages(task, segmentation=replace(task.stages.segmentation, learning_rate=2e-3)),
            "other settings or sites",
        ),
        (lambda task: replace(task, plan=RoundPlan.sequential(3, 2)), "other settings or sites"),
        (lambda task: replace(task, plan=RoundPlan.sequential(5, 2)), "no whole checkpoint"),
        (lambda task: replace(task, plan=RoundPlan.per_round(2)), "segmentation rounds and then survival rounds"),
    ],
)
def test_another_stage_one_is_refused_and_nothing_is_trained(
    change: Callable[[Task], Task], said: str, first: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        train(change(make_task((2, 2))), tmp_path, first)
    assert Checkpoints(tmp_path / "checkpoints").rounds() == []


def test_a_stage_one_of_other_patients_is_refused(first: Path, tmp_path: Path) -> None:
    others = {name: make_data(name, 5, seed=seed + 7) for seed, name in enumerate(("a", "b"))}
    with pytest.raises(InputError, match="on other patients"):
        train(make_task((2, 2)), tmp_path, first, others)


def test_groups_that_stay_at_the_sites_cannot_be_inherited(tmp_path: Path) -> None:
    task = make_task((1, 1), federation=FederationSettings(groups={"fusion_gates": PluginSettings("local")}))
    train(task, tmp_path / "first")
    with pytest.raises(InputError, match="groups that stay at the sites"):
        train(task, tmp_path / "second", tmp_path / "first")


@pytest.mark.parametrize(
    "blocks",
    [
        (BlockSettings(("joint",), 2, 1),),
        (BlockSettings(("joint",), 1, 1), BlockSettings(("survival",), 1, 1)),
        (BlockSettings(("segmentation",), 1, 1), BlockSettings(("survival", "segmentation"), 1, 1)),
        (
            BlockSettings(("segmentation",), 1, 1),
            BlockSettings(("survival",), 1, 1),
            BlockSettings(("segmentation",), 1, 1),
        ),
        (BlockSettings(("segmentation",), 2, 1),),
        (BlockSettings(("survival",), 2, 1),),
    ],
)
def test_plans_without_a_closed_stage_one_have_no_fingerprint(blocks: tuple[BlockSettings, ...]) -> None:
    assert stage_one_fingerprint(replace(make_task(), plan=RoundPlan(blocks)), ("a",)) is None
