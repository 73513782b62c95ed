"""The work of a run is counted before it begins; the count is what training and evaluation then do."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from synthetic import make_data, make_task

from adamss_fl.config import load_config, task_of
from adamss_fl.evaluation.arms import arms_of
from adamss_fl.evaluation.compare import compare, runs_of
from adamss_fl.evaluation.settings import Design
from adamss_fl.evaluation.workload import Size, Work, seconds_at_once, work_of_arms, work_of_run
from adamss_fl.federation import site as site_module
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.run import run_federation
from adamss_fl.federation.settings import FederationSettings
from adamss_fl.federation.site import Site
from adamss_fl.training import train_stage
from adamss_fl.training.inference import infer
from adamss_fl.training.timing import Speed

DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"


class Counted:
    """Counts what really happens: optimiser steps by stage, and patients that a model was applied to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: Counter[str] = Counter()
        self.applied = 0
        monkeypatch.setattr(site_module, "train_stage", self._train)
        for module in ("adamss_fl.federation.site", "adamss_fl.evaluation.predictions"):
            monkeypatch.setattr(f"{module}.infer", self._infer)

    def _train(self, model: Any, samples: Any, work: Any, *given: Any, **more: Any) -> Any:
        def note(done: int, total: int) -> None:
            self.steps[work.stage] += 1

        return train_stage(model, samples, work, *given, **{**more, "on_step": note})

    def _infer(self, model: Any, samples: Sequence[Any], *given: Any, **more: Any) -> Any:
        self.applied += len(samples)
        return infer(model, samples, *given, **more)


@pytest.mark.parametrize(
    ("settings", "tested"),
    [
        ({"plan": (2, 1), "validate_every": 2}, True),
        ({"plan": (1, 1), "preset": "per-round", "epochs": 2}, True),
        ({"plan": (1, 2), "epochs": None, "steps": 5, "validate_every": 1}, False),
    ],
)
def test_a_runs_count_is_what_it_does(
    settings: dict[str, Any], tested: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = make_task(federation=FederationSettings(min_sites=2), **settings)
    data = {"a": make_data("a", train=7, test=3, validation=2), "b": make_data("b", train=3, seed=1, test=2)}
    works = work_of_run(task, {name: Size.of(own) for name, own in data.items()}, tested=tested)
    counted = Counted(monkeypatch)
    sites = [Site(name, lambda own=own: own, task, tmp_path / name) for name, own in data.items()]  # type: ignore[misc]
    run_federation(task, LocalSites(sites), tmp_path / "run", evaluate_test=tested)
    total = works["a"] + works["b"]
    assert dict(counted.steps) == dict(total.steps)
    assert counted.applied == total.applied


def test_a_comparisons_count_is_what_its_arms_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = make_task((1, 1), federation=FederationSettings(min_sites=2))
    data = {"a": make_data("a", train=7, test=3), "b": make_data("b", train=4, seed=1, test=2)}
    design = Design(strategies=("fedprox",))
    runs = [run for own in runs_of(arms_of("ab", tmp_path, design), task, tmp_path, design).values() for run in own]
    sizes = {name: Size.of(own) for name, own in data.items()}
    works = work_of_arms(runs, task, sizes, over_flower=False)
    counted = Counted(monkeypatch)
    compare(task, data, tmp_path, bootstrap=2, design=design)
    total = sum((work.total for work in works), Work())
    assert dict(counted.steps) == dict(total.steps)
    assert counted.applied == total.applied
    left = work_of_arms(runs, task, sizes, over_flower=False)
    assert sum(work.total.all_steps for work in left) == 0, "a comparison that is finished has no step left"


def test_the_demos_plan_is_counted_to_the_step(tmp_path: Path) -> None:
    """By hand: 100 patients a hospital, half of them for testing; 9 passes in batches of 3, then 6 in batches of 4.

    A pass over 50 patients is 17 and 13 batches, over the pooled 150 it is 50 and 38. Masks and survival are read from
    two models, since stage II follows stage I.
    """
    task = task_of(load_config(DEMO))
    sizes = {f"hospital-{number}": Size(50, 0, 50) for number in (1, 2, 3)}
    arms = work_of_arms(arms_of(tuple(sizes), tmp_path), task, sizes, over_flower=True)
    site = 9 * 17 + 6 * 13
    steps = {arm.name: sum(work.all_steps for work in arm.sites.values()) for arm in arms}
    assert steps == {
        "federated": 3 * site,
        "pooled": 9 * 50 + 6 * 38,
        **{f"local:hospital-{number}": site for number in (1, 2, 3)},
    }
    assert sum(steps.values()) == 2064
    assert [arm.judged.applied for arm in arms] == [2 * 150] * 5
    assert sum(work.applied for work in arms[0].sites.values()) == 2 * 150
    assert all(work.applied == 0 for arm in arms[1:] for work in arm.sites.values())


def test_a_site_with_fewer_patients_than_a_batch_has_no_count() -> None:
    with pytest.raises(ValueError, match="batch of 3"):
        work_of_run(make_task(), {"a": Size(2, 0, 0)})


def test_seconds_are_steps_times_their_speed() -> None:
    work = Work({"segmentation": 10, "survival": 4}, 6)
    assert work.seconds(Speed({"segmentation": 0.5, "survival": 2.0}, 0.25)) == 10 * 0.5 + 4 * 2.0 + 6 * 0.25
    assert (work + replace(work, applied=1)).applied == 7


@pytest.mark.parametrize(
    ("jobs", "workers", "expected"),
    [([5, 1, 1, 1], 2, 5), ([3, 3, 3], 2, 6), ([1, 2, 3], 1, 6), ([], 4, 0), ([4], 0, 4)],
)
def test_processes_take_the_next_job_when_they_are_free(jobs: list[float], workers: int, expected: float) -> None:
    assert seconds_at_once(jobs, workers) == expected
