"""Differences between the stages over patients: intervals, and sentences that say no more than they hold."""

import json

import numpy as np
import pytest
from scipy.stats import bootstrap

from adamss_fl.evaluation.focus import PatientFocus
from adamss_fl.evaluation.focus_summary import (
    GATE_MEANING,
    focus_verdict,
    fusion_verdict,
    mean_with_interval,
    summarize,
)


def patients(count, seed=0, spread=0.5, whole=0.5, tumour=0.2):
    """Patients with figures around the given means; what belongs to the patient is the same under every seed."""
    own, rng = np.random.default_rng(99), np.random.default_rng(seed)
    found = []
    for _ in range(count):
        shift = own.normal(0, 0.1)
        share = np.tile([tumour, 0.1, 0.1, 0.3, 0.3 - (tumour - 0.2)], (4, 1))
        found.append(
            PatientFocus(
                share=share + rng.normal(0, 0.01, (4, 5)),
                volume=np.full((4, 5), 0.2),
                enrichment=np.ones((4, 5)) + rng.normal(0, 0.01, (4, 5)),
                spread=spread + shift + rng.normal(0, 0.01, 4),
                opening=whole + shift + rng.normal(0, 0.01, (5, 5)),
                whole=whole + shift + rng.normal(0, 0.01, 5),
            )
        )
    return found


def test_the_interval_is_that_of_scipys_bootstrap():
    values = np.random.default_rng(0).exponential(1, 40)
    found = mean_with_interval(values, 20_000, 0)
    scipy_s = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    assert found["mean"] == pytest.approx(values.mean())
    assert (found["low"], found["high"]) == pytest.approx(tuple(scipy_s), abs=0.01)
    wider = mean_with_interval(values, 20_000, 0, level=99.0)
    assert wider["low"] < found["low"] < found["high"] < wider["high"]


def test_unknown_values_are_left_out_and_few_patients_have_no_interval():
    found = mean_with_interval(np.array([1.0, np.nan, 3.0]), 100, 0)
    assert found == {"mean": 2.0, "low": None, "high": None, "patients": 2}
    assert mean_with_interval(np.array([np.nan]), 100, 0)["mean"] is None


def test_differences_are_paired_by_patient():
    """Patients differ by 0.1, the stages by 0.02: only a paired difference can see that with 30 patients."""
    stages = {"I": patients(30, 1, spread=0.50), "II": patients(30, 2, spread=0.52)}
    found = summarize(stages, 500, 0)
    for index, level in enumerate(found["attention"]):
        each = [b.spread[index] - a.spread[index] for a, b in zip(*stages.values(), strict=True)]
        assert level["difference"]["spread"]["mean"] == pytest.approx(np.mean(each))
        assert level["difference"]["spread"]["low"] > 0
        assert level["I"]["spread"]["low"] < level["II"]["spread"]["mean"] < level["I"]["spread"]["high"]
    assert [level["level"] for level in found["attention"]] == [4, 3, 2, 1]
    assert [level["level"] for level in found["gates"]] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [(0.05, "widened", "The focus widened"), (-0.05, "narrowed", "The focus narrowed"), (0.0, "not shown", "holds 0")],
)
def test_the_focus_sentence_follows_the_interval(change, verdict, words):
    stages = {"I": patients(40, 1), "II": patients(40, 2, spread=0.5 + change)}
    focus = summarize(stages, 500, 0)["focus"]
    assert focus["verdict"] == verdict
    assert words in focus["sentence"]
    low, high = focus["spread"]["low"], focus["spread"]["high"]
    assert (low > 0, high < 0) == (change > 0, change < 0)
    assert f"95 % interval {100 * low:+.2f} to {100 * high:+.2f}" in focus["sentence"].replace("\N{MINUS SIGN}", "-")
    assert f"from {100 * focus['spread']['from']:.2f} % to {100 * focus['spread']['to']:.2f} %" in focus["sentence"]
    assert focus["spread"]["to"] - focus["spread"]["from"] == pytest.approx(focus["spread"]["mean"])


def test_the_focus_sentence_tells_of_the_lesions():
    stages = {"I": patients(40, 1, tumour=0.3), "II": patients(40, 2, tumour=0.2)}
    focus = summarize(stages, 500, 0)["focus"]
    first, second = ([patient.share[:, :2].sum(axis=1).mean() for patient in own] for own in stages.values())
    ends = f"from {100 * np.mean(first):.2f} % to {100 * np.mean(second):.2f} %"
    assert f"inside tumour and nodes fell: {ends}, \N{MINUS SIGN}" in focus["sentence"]
    assert focus["lesions"]["mean"] == pytest.approx(-0.1, abs=0.01)
    assert "within 10 mm round them did not demonstrably change" in focus["sentence"]


@pytest.mark.parametrize(
    ("change", "verdict", "words"),
    [
        (0.05, "adapted", "moved towards early fusion at levels 1 (+0.0"),
        (-0.05, "adapted", "moved towards late concatenation at levels 1 (\N{MINUS SIGN}0.0"),
        (0.0, "not shown", "do not show that the fusion adapted"),
    ],
)
def test_the_fusion_sentence_follows_the_intervals_and_says_what_the_gate_means(change, verdict, words):
    stages = {"I": patients(40, 1), "II": patients(40, 2, whole=0.5 + change)}
    fusion = summarize(stages, 500, 0)["fusion"]
    assert fusion["verdict"] == verdict
    assert words in fusion["sentence"]
    assert GATE_MEANING in fusion["sentence"]


def test_levels_that_did_not_move_are_told_apart_from_those_that_did():
    whole = np.random.default_rng(0).normal([0.2, 0.2, -0.2, 0.0, 0.2], 0.01, (50, 5))
    whole[:, 3] -= whole[:, 3].mean()
    sentence = fusion_verdict(whole, 500, 0)["sentence"].replace("\N{MINUS SIGN}", "-")
    mean = [f"{value:+.3f}" for value in whole.mean(axis=0)]
    assert f"early fusion at levels 1 ({mean[0]}), 2 ({mean[1]}) and 5 ({mean[4]})" in sentence
    assert f"and towards late concatenation at level 3 ({mean[2]}); at level 4 the interval holds 0." in sentence


def test_of_cohorts_without_a_change_few_are_said_to_show_one():
    """A hundred cohorts of 80 in which nothing changed: at 5 % each, over 13 errors come by chance once in 2,000."""
    rng = np.random.default_rng(5)
    said = {"focus": 0, "fusion": 0}
    for seed in range(100):
        share, spread, whole = rng.normal(0, 0.01, (80, 4, 5)), rng.normal(0, 0.01, (80, 4)), rng.normal(0, 1, (80, 5))
        said["focus"] += focus_verdict((0 * spread, spread), (0 * share, share), 500, seed)["verdict"] != "not shown"
        said["fusion"] += fusion_verdict(whole, 500, seed)["verdict"] != "not shown"
    assert 0 < max(said.values()) <= 13, said


def test_nothing_is_claimed_of_few_patients_or_of_one_stage():
    few = summarize({"I": patients(3, 1), "II": patients(3, 2, spread=0.9, whole=0.9)}, 100, 0)
    assert few["focus"]["verdict"] == few["fusion"]["verdict"] == "too few"
    one = summarize({"the model": patients(20)}, 100, 0)
    assert not {"focus", "fusion"} & set(one)
    assert "difference" not in one["attention"][0]
    json.dumps([few, one], allow_nan=False)
