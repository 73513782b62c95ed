"""D-calibration against its definition, patient by patient; the calibration curve against that of pooled patients."""

import json
import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.calibration import CalibrationSums, calibration_curve, calibration_sums
from adamss_fl.federation.statistics.d_calibration import DCalibrationSums, d_calibration, d_calibration_sums
from adamss_fl.survival import calibration, survival_at

EDGES = np.array([0.0, 200, 500, 900, 1500, 2400])
SITES = np.arange(4)[:, None] == np.repeat([0, 1, 2], [70, 15, 35])
"""Whose patient each is, (4, 120); the last site has none."""
HORIZON = 730.0


def cohort(seed: int, spread: float = 1.3, to: int = 0) -> tuple[Any, ...]:
    """time, event, curves (120, 5); a ``spread`` of 1 makes the curves the true ones at the edges."""
    rng = np.random.default_rng(seed)
    rate = rng.uniform(0.3, 2.5, 120) / 1000
    own, lost = rng.exponential(1 / rate), rng.exponential(1500, 120)
    time = np.minimum(own, lost).round(-to) if to else np.minimum(own, lost)
    return time, own <= lost, np.exp(-rate[:, None] * EDGES[1:] * rng.uniform(1 / spread, spread, (120, 1)))


# --- D-calibration ----------------------------------------------------------------------------------------------------


def counts_by_definition(time: Any, event: Any, curves: Any, bins: int) -> list[float]:
    """Haider et al.: an event counts in its bin; one censored at s in bin k leaves (s - a_k) / s there and 1/(B s) in
    each bin below."""
    counts = [0.0] * bins
    for day, seen, curve in zip(time, event, curves, strict=True):
        survival = np.interp(min(day, EDGES[-1]), EDGES, [1.0, *curve])
        k = next((b for b in range(bins) if b / bins <= survival < (b + 1) / bins), bins - 1)
        if seen and day <= EDGES[-1]:
            counts[k] += 1
        elif survival == 0:
            counts[0] += 1
        else:
            counts[k] += (survival - k / bins) / survival
            for b in range(k):
                counts[b] += 1 / (bins * survival)
    return counts


def merged_d(time: Any, event: Any, curves: Any, bins: int = 10) -> DCalibrationSums:
    parts = [d_calibration_sums(time[own], event[own], curves[own], EDGES, bins) for own in SITES]
    return parts[0] + parts[1] + parts[2] + parts[3]


@pytest.mark.parametrize("bins", [2, 5, 10])
@pytest.mark.parametrize("seed", range(3))
def test_d_calibration_is_its_definition_on_pooled_patients(seed: int, bins: int) -> None:
    time, event, curves = cohort(seed)
    time[:2] = [0.0, 3000.0]  # survival 1, and past the last edge
    curves[2], time[2:4] = 0.0, 300.0
    curves[3] = [0.6, 0.6, 0.6, 0.6, 0.6]  # on a bin's edge
    found = d_calibration(merged_d(time, event, curves, bins))
    known = counts_by_definition(time, event, curves, bins)
    np.testing.assert_allclose(found.proportions, np.array(known) / 120, atol=1e-14)
    statistic, p_value = chisquare(known)
    assert (found.statistic, found.p_value) == pytest.approx((statistic, p_value), abs=1e-12)
    assert (found.degrees_of_freedom, found.patients) == (bins - 1, 120)


@pytest.mark.parametrize(
    ("day", "event", "survival", "counts"),
    [
        (200, 1, 0.0, [1, 0, 0, 0]),
        (200, 1, 0.5, [0, 0, 1, 0]),
        (200, 1, 1.0, [0, 0, 0, 1]),
        (200, 0, 0.0, [1, 0, 0, 0]),
        (200, 0, 0.5, [0.5, 0.5, 0, 0]),
        (200, 0, 0.6, [2.5 / 6, 2.5 / 6, 1 / 6, 0]),
        (200, 0, 1.0, [0.25, 0.25, 0.25, 0.25]),
        (0, 1, 0.5, [0, 0, 0, 1]),
        (2400, 1, 0.5, [0, 0, 1, 0]),
        (2401, 1, 0.5, [0.5, 0.5, 0, 0]),
    ],
)
def test_a_patient_counts_once_and_the_censored_below_their_survival(
    day: int, event: int, survival: float, counts: list[float]
) -> None:
    assert d_calibration_sums([day], [event], [[survival] * 5], EDGES, 4).counts == pytest.approx(counts, abs=1e-15)


def test_true_curves_are_not_rejected_and_curves_too_high_are() -> None:
    rng = np.random.default_rng(3)
    rate = rng.uniform(0.5, 2, 2000) / 1000
    grid = np.linspace(0, 6000, 601)
    own, lost = rng.exponential(1 / rate), rng.exponential(2000, 2000)
    true = np.exp(-rate[:, None] * grid[1:])
    p_values = [
        d_calibration(d_calibration_sums(np.minimum(own, lost), own <= lost, curves, grid)).p_value
        for curves in (true, true**0.7)
    ]
    assert p_values[0] > 0.01
    assert p_values[1] < 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patients": 121}, "patients"),
        ({"patients": 119}, "do not add up"),
        ({"counts": [-1.0, 25, *[12.0] * 8]}, "negative"),
        ({"counts": [24.0] * 5}, "shape"),
        ({"counts": [math.inf] * 10}, "not finite"),
        ({"bins": 10}, "'bins' is unknown"),
    ],
)
def test_counts_travel_as_json_and_those_that_no_patients_can_have_are_refused(
    change: dict[str, Any], message: str
) -> None:
    sums = merged_d(*cohort(0))
    back = DCalibrationSums.from_plain(json.loads(json.dumps(sums.plain())), 10, 120)
    assert back.counts.tolist() == sums.counts.tolist()
    with pytest.raises(InputError, match=message):
        DCalibrationSums.from_plain(sums.plain() | change, 10, 120)


def test_d_calibration_refuses_other_bins_and_malformed_arrays() -> None:
    time, event, curves = cohort(0)
    with pytest.raises(InputError, match="cannot be added"):
        merged_d(time, event, curves) + merged_d(time, event, curves, 5)
    with pytest.raises(InputError, match="at least 2"):
        d_calibration_sums(time, event, curves, EDGES, 1)
    with pytest.raises(InputError, match="predicted survival"):
        d_calibration_sums(time, event, curves[1:], EDGES)
    with pytest.raises(InputError, match="no site has a patient"):
        d_calibration(d_calibration_sums([], [], curves[:0], EDGES))


# --- the calibration curve --------------------------------------------------------------------------------------------


def merged(time: Any, event: Any, curves: Any, cuts: Any, grid: Any) -> CalibrationSums:
    parts = [calibration_sums(time[own], event[own], curves[own], EDGES, cuts, grid) for own in SITES]
    return parts[0] + parts[1] + parts[2] + parts[3]


def all_times(time: Any, horizon: float = HORIZON) -> Any:
    return np.unique([0.0, *time[time <= horizon], horizon])


@pytest.mark.parametrize("to", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_with_all_times_the_curve_is_that_of_the_pooled_patients(seed: int, to: int) -> None:
    time, event, curves = cohort(seed, to=to)
    predicted = survival_at(curves, EDGES, HORIZON)
    cuts = np.quantile(predicted, [0.25, 0.5, 0.75])
    found = calibration_curve(merged(time, event, curves, cuts, all_times(time)))
    known = calibration(time, event, predicted, HORIZON, groups=4)
    assert found.horizon_days == HORIZON
    for ours, theirs in zip(found.groups, known, strict=True):
        assert vars(ours) == pytest.approx(vars(theirs), abs=1e-12)
    gaps = [abs(group.predicted - group.observed) for group in known]
    weights = [group.patients for group in known]
    assert found.mean_absolute_difference == pytest.approx(np.average(gaps, weights=weights), abs=1e-12)


def test_groups_without_an_observed_survival_are_none_and_do_not_count() -> None:
    """Of three groups the first ends in censoring before the horizon, the second in an event, the third goes on."""
    time = np.array([100.0, 200, 100, 200, 100, 900])
    event = np.array([True, False, False, True, True, False])
    curves = np.repeat([[0.1] * 5, [0.5] * 5, [0.9] * 5], 2, axis=0)
    grid = all_times(time)
    found = calibration_curve(calibration_sums(time, event, curves, EDGES, [0.3, 0.7], grid))
    known = calibration(time, event, curves[:, 0], HORIZON, groups=3)
    assert [vars(group) for group in found.groups] == [pytest.approx(vars(group)) for group in known]
    assert [group.observed for group in found.groups] == [None, 0.0, 0.5]
    assert found.mean_absolute_difference == pytest.approx((0.5 + 0.4) / 2)
    nobody = calibration_curve(calibration_sums(time[:2], event[:2], curves[:2], EDGES, [0.3, 0.7], grid))
    assert len(nobody.groups) == 1
    assert nobody.mean_absolute_difference is None


def test_one_group_without_cuts_is_calibration_in_the_large() -> None:
    time, event, curves = cohort(4)
    found = calibration_curve(merged(time, event, curves, [], all_times(time)))
    assert len(found.groups) == 1
    assert found.groups[0].predicted == pytest.approx(survival_at(curves, EDGES, HORIZON).mean())


def test_calibration_sums_travel_as_json_without_loss() -> None:
    sums = merged(*cohort(0), [0.4, 0.7], [0.0, 365, 730])
    back = CalibrationSums.from_plain(json.loads(json.dumps(sums.plain())), [0.4, 0.7], [0.0, 365, 730], 120)
    assert back.plain() == sums.plain()
    assert calibration_curve(back) == calibration_curve(sums)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predicted": [119.0, 30, 30]}, "outside its cuts"),
        ({"predicted": [0.0, 0, 0]}, "outside its cuts"),
        ({"predicted": [1.0, 2]}, "shape"),
        ({"counts": {}}, "is missing"),
        ({"cuts": []}, "'cuts' is unknown"),
    ],
)
def test_calibration_sums_that_no_patients_can_have_are_refused(change: dict[str, Any], message: str) -> None:
    given = merged(*cohort(0), [0.4, 0.7], [0.0, 365, 730]).plain() | change
    with pytest.raises(InputError, match=message):
        CalibrationSums.from_plain(given, [0.4, 0.7], [0.0, 365, 730], 120)


def test_more_patients_than_the_site_has_are_refused() -> None:
    given = merged(*cohort(0), [0.4, 0.7], [0.0, 365, 730]).plain()
    with pytest.raises(InputError, match="119"):
        CalibrationSums.from_plain(given, [0.4, 0.7], [0.0, 365, 730], 119)


def test_other_groups_and_malformed_queries_are_refused() -> None:
    time, event, curves = cohort(0)
    with pytest.raises(InputError, match="cannot be added"):
        merged(time, event, curves, [0.4], [0.0, 730]) + merged(time, event, curves, [0.5], [0.0, 730])
    for cuts in ([0.5, 0.5], [-0.1], [1.1]):
        with pytest.raises(InputError, match="calibration groups"):
            calibration_sums(time, event, curves, EDGES, cuts, [0.0, 730])
    with pytest.raises(InputError, match="without days"):
        calibration_sums(time, event, curves, EDGES, [0.5], [])
    with pytest.raises(InputError, match="lies outside"):
        calibration_sums(time, event, curves, EDGES, [0.5], [0.0, 2500])
    with pytest.raises(InputError, match="no site has a patient"):
        calibration_curve(calibration_sums([], [], curves[:0], EDGES, [0.5], [0.0, 730]))
