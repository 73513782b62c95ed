"""Figures of predictions against the functions of survival and against numpy."""

from dataclasses import replace

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.utils import concordance_index

from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.evaluation.scores import calibration_figures, score, score_with_sites
from adamss_fl.survival import bootstrap_interval

EDGES = np.array([0.0, 200.0, 500.0, 900.0])


def made(patients: int = 40, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    survival = np.cumprod(rng.uniform(0.4, 1.0, (patients, 3)), axis=1)
    return Predictions(
        patient=np.array([f"p{k}" for k in range(patients)]),
        site=np.array(["a", "b"])[np.arange(patients) % 2],
        time_days=rng.integers(10, 1000, patients).astype(float),
        event=rng.integers(0, 2, patients),
        risk=-(survival * np.diff(EDGES)).sum(axis=1),
        survival=survival,
        edges_days=EDGES,
        overlap=rng.integers(1, 90, (patients, 2, 3)),
        has_mask=rng.random(patients) < 0.7,
    )


def test_the_c_index_is_lifelines_and_the_interval_that_of_the_bootstrap() -> None:
    p = made()
    found = score(p, bootstrap=50, seed=3)
    interval = bootstrap_interval(p.time_days, p.event, p.risk, 50, 3)
    assert found["c_index"] == pytest.approx(concordance_index(p.time_days, -p.risk, p.event))
    assert (found["ci_low"], found["ci_high"]) == (interval.low, interval.high)
    assert (found["patients"], found["events"]) == (40, int(p.event.sum()))


def test_dsc_is_aggregated_over_the_patients_with_a_reference_mask() -> None:
    p = made()
    inter, predicted, reference = (p.overlap[p.has_mask, :, k].sum(axis=0) for k in range(3))
    expected = 2 * inter / (predicted + reference)
    assert list(score(p, 5, 0)["dsc"].values()) == pytest.approx(expected.tolist())
    nothing = replace(p, overlap=p.overlap * np.array([0, 1])[None, :, None])
    assert score(nothing, 5, 0)["dsc"]["tumour"] is None
    assert score(replace(p, has_mask=np.zeros(40, dtype=bool)), 5, 0)["dsc"] == {"tumour": None, "nodes": None}


def test_no_comparable_pair_gives_no_c_index_and_no_error() -> None:
    p = made()
    found = score(replace(p, event=np.zeros(40, dtype=int)), 5, 0)
    figures = (found["c_index"], found["ci_low"], found["ci_high"], found["comparable_pairs"])
    assert figures == (None, None, None, 0)


def test_where_no_resample_has_a_pair_the_c_index_stays_and_the_interval_is_none() -> None:
    """Two patients, one resample that draws the same one twice: the pair is there all the same."""
    p = made().subset(np.array([0, 1]))
    p = replace(p, time_days=np.array([10.0, 20.0]), event=np.array([1, 0]), risk=np.array([2.0, 1.0]))
    seed = next(s for s in range(50) if np.random.default_rng(s).multinomial(2, [0.5, 0.5], size=1).max() == 2)
    found = score(p, bootstrap=1, seed=seed)
    assert (found["c_index"], found["comparable_pairs"]) == (1.0, 1)
    assert (found["ci_low"], found["ci_high"]) == (None, None)


def test_each_sites_figures_are_those_of_its_patients_alone() -> None:
    p = made()
    found = score_with_sites(p, 20, 1)
    assert {key: value for key, value in found.items() if key != "sites"} == score(p, 20, 1)
    assert list(found["sites"]) == ["a", "b"]
    for name in "ab":
        own = p.site == name
        expected = concordance_index(p.time_days[own], -p.risk[own], p.event[own])
        assert found["sites"][name]["c_index"] == pytest.approx(expected)
        assert found["sites"][name]["patients"] == own.sum()


def test_calibration_compares_the_mean_prediction_with_lifelines_kaplan_meier() -> None:
    p = made(80)
    found = calibration_figures(p, groups=2)
    assert found is not None
    horizon = found["horizon_days"]
    assert horizon == min(np.median(p.time_days[p.event == 1]), EDGES[-1])
    predicted = np.array([np.interp(horizon, EDGES, [1.0, *curve]) for curve in p.survival])
    order = np.argsort(predicted)
    for group, members in zip(found["groups"], (order[:40], order[40:]), strict=True):
        km = KaplanMeierFitter().fit(p.time_days[members], p.event[members])
        assert group["predicted"] == pytest.approx(predicted[members].mean())
        assert group["observed"] == pytest.approx(float(km.predict(horizon)))
        assert group["patients"] == 40


def test_without_events_there_is_no_calibration() -> None:
    assert calibration_figures(replace(made(), event=np.zeros(40, dtype=int)), 2) is None
