"""A study sums up what its comparisons hold; intervals are those of direct resampling."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lifelines.utils import concordance_index
from scipy.stats import ttest_1samp
from synthetic_run import predictions

from adamss_fl.errors import InputError
from adamss_fl.evaluation.arms import NULL, folder_name
from adamss_fl.evaluation.differences import Sides
from adamss_fl.evaluation.leakage import hash_of_names
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.evaluation.scores import score_with_sites
from adamss_fl.evaluation.study import run_study, spread, within_seeds
from adamss_fl.survival import paired_difference, pooled_difference

NOISE = {"federated": 0.75, "pooled": 0.6, "local:hospital-1": 1.6, "local:hospital-2": 2.4, "fedbn": 0.9, NULL: 50.0}
PATIENTS = 60
KIND = {"fedbn": "strategy", NULL: "null"}


def of_seed(seed: int, same: bool) -> dict[str, Predictions]:
    """Each arm's predictions; where ``same`` the patients are those of seed 0 and the models others."""
    if not same:
        return {name: predictions(noise, PATIENTS, seed) for name, noise in NOISE.items()}
    rng = np.random.default_rng(seed)
    found = {name: predictions(noise, PATIENTS, 0) for name, noise in NOISE.items()}
    return {name: replace(p, risk=p.risk + rng.normal(0, 60, PATIENTS)) for name, p in found.items()}


def comparing(same: bool, calls: list[int] | None = None) -> Any:
    def compare_seed(seed: int, folder: Path) -> dict[str, Any]:
        if calls is not None:
            calls.append(seed)
        arms = {}
        for name, found in of_seed(seed, same).items():
            found.save(folder / "arms" / folder_name(name) / "predictions.npz")
            arms[name] = {"kind": KIND.get(name, name.partition(":")[0]), **score_with_sites(found, 10, seed)}
        arms[NULL]["holds_half"] = True
        patients = of_seed(seed, same)["pooled"]
        names = [(f"{0 if same else seed}{s}", p) for s, p in zip(patients.site, patients.patient, strict=True)]
        facts = {"config_name": "x", "plan": "y", "budget": {}, "oracle_c_index": None, "test_patients": PATIENTS}
        return {**facts, "test_patients_sha256": hash_of_names(names), "arms": arms}

    return compare_seed


@pytest.mark.parametrize("same", [True, False])
def test_arms_are_summed_up_over_seeds(same: bool, tmp_path: Path) -> None:
    said = run_study((3, 0, 5), tmp_path, comparing(same), bootstrap=50, split_by_seed=not same)
    assert json.loads((tmp_path / "study.json").read_text()) == said
    assert said["seeds"] == [3, 0, 5]
    assert said["same_test_patients"] == same
    split = "split into training, validation and test patients"
    assert (split in said["seed_changes"], split in said["seed_keeps"]) == (not same, same)
    assert "initial weights" in said["seed_changes"]
    for name in NOISE:
        c = []
        for seed in (3, 0, 5):
            p = of_seed(seed, same)[name]
            c.append(concordance_index(p.time_days, -p.risk, p.event))
        assert said["arms"][name]["c_index"]["by_seed"] == pytest.approx(c)
        assert said["arms"][name]["c_index"]["mean"] == pytest.approx(np.mean(c))
        assert said["arms"][name]["c_index"]["sd"] == pytest.approx(np.std(c, ddof=1))
    assert said["arms"][NULL]["holds_half"] == [True] * 3


@pytest.mark.parametrize("same", [True, False])
def test_differences_resample_patients_within_each_seed(same: bool, tmp_path: Path) -> None:
    said = run_study((0, 1), tmp_path, comparing(same), bootstrap=100)["differences"]
    labels = {"federated - pooled", "federated - mean local", "fedbn - pooled", "fedbn - federated", "own_patients"}
    assert set(said) == labels
    found = [of_seed(seed, same) for seed in (0, 1)]
    cohorts = [(f["fedbn"].time_days, f["fedbn"].event, f["fedbn"].risk, f["pooled"].risk) for f in found]
    direct = pooled_difference(cohorts, 100)
    gap = said["fedbn - pooled"]
    assert (gap["difference"], gap["low"], gap["high"]) == (direct.difference, direct.low, direct.high)
    assert set(said["own_patients"]) == {"federated - local:hospital-1", "federated - local:hospital-2"}
    by_seed = [
        concordance_index(f["fedbn"].time_days, -f["fedbn"].risk, f["fedbn"].event)
        - concordance_index(f["pooled"].time_days, -f["pooled"].risk, f["pooled"].event)
        for f in found
    ]
    told = gap["training"]
    assert told["by_seed"] == pytest.approx(by_seed)
    expected = ttest_1samp(by_seed, 0).confidence_interval(0.95)
    assert (told["low"], told["high"]) == pytest.approx((expected.low, expected.high))
    assert ("same_patients" in gap) == same
    if same:
        first = found[0]["fedbn"]
        risks = [np.stack([f[name].risk for f in found]) for name in ("fedbn", "pooled")]
        together = paired_difference(first.time_days, first.event, *risks, 100)
        assert gap["same_patients"] == {"low": together.low, "high": together.high}
        assert gap["difference"] == pytest.approx(together.difference)


def test_the_mean_of_several_arms_is_resampled_like_one() -> None:
    """With one other arm given three times the mean is that arm, and with two the point is lifelines' mean."""
    found = [of_seed(seed, False) for seed in (0, 1)]

    def sides(*others: str) -> list[Sides]:
        return [
            Sides(
                f["pooled"].time_days, f["pooled"].event, f["pooled"].risk, np.stack([f[name].risk for name in others])
            )
            for f in found
        ]

    one, thrice = (within_seeds(sides(*["fedbn"] * times), 80) for times in (1, 3))
    assert (thrice.low, thrice.high) == pytest.approx((one.low, one.high))
    both = within_seeds(sides("fedbn", "federated"), 80)
    c = [
        {n: concordance_index(f[n].time_days, -f[n].risk, f[n].event) for n in ("pooled", "fedbn", "federated")}
        for f in found
    ]
    expected = np.mean([each["pooled"] - (each["fedbn"] + each["federated"]) / 2 for each in c])
    assert both.difference == pytest.approx(expected)
    assert both.low < both.difference < both.high


def test_seeds_can_be_added_to_a_study(tmp_path: Path) -> None:
    calls: list[int] = []
    run_study((0,), tmp_path, comparing(True, calls), bootstrap=10)
    said = run_study((0, 1), tmp_path, comparing(True, calls), bootstrap=10)
    assert said["seeds"] == [0, 1]
    assert calls == [0, 0, 1]


def test_a_spread_is_honest_about_what_is_missing() -> None:
    assert spread([0.5, 0.7]) == {"mean": pytest.approx(0.6), "sd": pytest.approx(0.02**0.5), "by_seed": [0.5, 0.7]}
    assert spread([0.5]) == {"mean": 0.5, "sd": None, "by_seed": [0.5]}
    assert spread([0.5, None]) == {"mean": None, "sd": None, "by_seed": [0.5, None]}


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,)])
def test_seeds_that_are_none_or_twice_the_same_are_refused(seeds: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--seeds: .*give whole numbers of 0 or more, each once"):
        run_study(seeds, tmp_path, comparing(True), bootstrap=10)


@pytest.mark.parametrize("other", ["arms", "checkpoints", "folds"])
def test_a_folder_of_another_run_is_refused(other: str, tmp_path: Path) -> None:
    (tmp_path / other).mkdir()
    with pytest.raises(InputError, match="holds a run that is no study"):
        run_study((0,), tmp_path, comparing(True), bootstrap=10)
