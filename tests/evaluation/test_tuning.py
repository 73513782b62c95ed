"""One grid and one rule for every arm: the choice is lifelines' best, and test patients have no say."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lifelines.utils import concordance_index
from synthetic import make_data, make_task

from adamss_fl.cohort.settings import SplitSettings
from adamss_fl.errors import AdamssError, InputError
from adamss_fl.evaluation.arms import POOLED, arms_of, folder_name, task_of_arm, train_arm
from adamss_fl.evaluation.compare import compare
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.evaluation.settings import Design
from adamss_fl.evaluation.tuning import FACTORS, best_of, candidates_of, choose, grid
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task

ARMS = ("federated", POOLED, "local:north", "local:south")
DESIGN = Design(tune=2)


@dataclass(frozen=True)
class Compared:
    """A comparison that was run once."""

    task: Task
    data: dict[str, SiteData]
    out: Path
    said: dict[str, Any]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    task = replace(make_task((1, 1)), split=SplitSettings(test=0.3, validation=0.3))
    data = {name: make_data(name, 3, seed, test=4, validation=4) for seed, name in enumerate(("north", "south"))}
    out = tmp_path_factory.mktemp("tuned")
    return Compared(task, data, out, compare(task, data, out, bootstrap=5, design=DESIGN))


def settings_of(compared: Compared, arm: str, number: int) -> Path:
    return compared.out / "tuning" / folder_name(arm) / f"setting-{number}"


def test_every_arm_takes_the_best_of_the_same_settings_on_its_own_validation_patients(compared: Compared) -> None:
    records = [arm["tuning"] for arm in compared.said["arms"].values()]
    grids = {json.dumps([trial["learning_rate_factors"] for trial in each["settings"]]) for each in records}
    assert len(grids) == 1
    settings = json.loads(grids.pop())
    assert settings[0] == {"segmentation": 1.0, "survival": 1.0}
    assert settings[1] != settings[0]
    for arm in ARMS:
        said = compared.said["arms"][arm]["tuning"]
        scores = []
        for number in (1, 2):
            folder = settings_of(compared, arm, number)
            found = Predictions.load(folder / "validation_predictions.npz")
            own = [arm.removeprefix("local:")] if arm.startswith("local:") else ["north", "south"]
            asked = {s.patient_id for name in own for s in compared.data[name].validation}
            assert set(found.patient.tolist()) == asked
            scores.append(concordance_index(found.time_days, -found.risk, found.event))
        assert [trial["c_index"] for trial in said["settings"]] == pytest.approx(scores)
        assert said["chosen"] == (2 if scores[1] > scores[0] else 1)
        chosen = settings_of(compared, arm, said["chosen"])
        own_folder = compared.out / "arms" / folder_name(arm)
        for mine, kept_ in zip(final_weights(own_folder)[:2], final_weights(chosen)[:2], strict=True):
            assert all(np.array_equal(mine[name], kept_[name]) for name in kept_)


def test_the_second_setting_is_another_run(compared: Compared) -> None:
    for arm in ARMS:
        first, second = (final_weights(settings_of(compared, arm, number))[0] for number in (1, 2))
        assert any(not np.array_equal(first[name], second[name]) for name in first)


def test_test_patients_have_no_say_in_the_choice(compared: Compared, tmp_path: Path, monkeypatch: Any) -> None:
    """All judged anew on other test patients, from the trained settings: the same is chosen, and nothing is trained."""
    shutil.copytree(compared.out / "tuning", tmp_path / "tuning")
    for path in tmp_path.glob("tuning/*/*/validation_predictions.*"):
        path.unlink()
    other = {
        name: replace(own, test=make_data(f"{name}-other", 3, 9, test=4).test) for name, own in compared.data.items()
    }
    monkeypatch.setattr("adamss_fl.federation.site.train_stage", pytest.fail)
    said = compare(compared.task, other, tmp_path, bootstrap=5, design=DESIGN)
    for arm in ARMS:
        assert said["arms"][arm]["tuning"] == compared.said["arms"][arm]["tuning"]
        assert said["arms"][arm]["test_patients_sha256"] != compared.said["arms"][arm]["test_patients_sha256"]


def test_a_longer_search_keeps_the_settings_tried_before(compared: Compared) -> None:
    task = compared.task
    assert grid(task, 5)[:2] == grid(task, 2)
    whole = grid(task, len(FACTORS) ** 2)
    assert len(set(whole)) == len(FACTORS) ** 2
    assert whole[0] == (("segmentation", 1.0), ("survival", 1.0))
    assert grid(replace(task, seed=4), 25) != whole
    for count in (0, 26):
        with pytest.raises(InputError, match=f"--tune: {count} settings asked for; give 1 to 25"):
            grid(task, count)


def test_a_setting_multiplies_the_learning_rates_and_nothing_else(compared: Compared) -> None:
    arm = arms_of(tuple(compared.data), compared.out)[0]
    tried = replace(arm, factors=(("segmentation", 2.0), ("survival", 0.25)))
    own, names = task_of_arm(tried, compared.task)
    stages = compared.task.stages
    assert own.stages.segmentation == replace(stages.segmentation, learning_rate=2e-3)
    assert own.stages.survival == replace(stages.survival, learning_rate=0.25e-3)
    assert replace(own, stages=stages) == compared.task
    assert names == ("north", "south")


@given(st.lists(st.none() | st.sampled_from([0.4, 0.5, 0.6]), min_size=1, max_size=6))
def test_the_best_is_the_first_that_none_beats(scores: list[float | None]) -> None:
    place = best_of(scores)
    mine = scores[place]
    if mine is None:
        assert place == 0
        assert set(scores) == {None}
    else:
        assert all(score is None or score <= mine for score in scores)
        assert all(score is None or score < mine for score in scores[:place])


def test_a_setting_that_fails_is_recorded_and_passed_over_and_all_failing_is_an_error(
    compared: Compared, tmp_path: Path
) -> None:
    """A learning rate of 1e33 makes numbers that are not finite."""
    arm = arms_of(tuple(compared.data), tmp_path)[2]
    huge = (("segmentation", 1e33), ("survival", 1e33))
    settings = (huge, (("segmentation", 1.0), ("survival", 1.0)))
    candidates = candidates_of(arm, tmp_path, settings)
    for candidate in candidates:
        train_arm(candidate, compared.task, compared.data)
    said = choose(arm, candidates, compared.task, compared.data)
    assert said["chosen"] == 2
    assert [trial["failed"] for trial in said["settings"]] == [True, False]
    with pytest.raises(AdamssError, match="arm local:north: none of 1 settings could be trained"):
        choose(arm, candidates[:1], compared.task, compared.data)


@pytest.mark.parametrize("what", ["no share", "no patient"])
def test_tuning_without_validation_patients_is_refused_before_anything_is_written(
    what: str, compared: Compared, tmp_path: Path
) -> None:
    task, data = compared.task, dict(compared.data)
    if what == "no share":
        task = replace(task, split=SplitSettings(test=0.3, validation=0.0))
    else:
        data["south"] = replace(data["south"], validation=())
    message = "split.validation is 0" if what == "no share" else "arm local:south has no validation patient"
    with pytest.raises(InputError, match=message):
        compare(task, data, tmp_path, design=DESIGN)
    assert list(tmp_path.iterdir()) == []
