"""What a test set could show, against simulated studies."""

import math

import numpy as np
import pytest
from scipy import stats

from adamss_fl.errors import InputError
from adamss_fl.evaluation.power import NoSpread, Power, power_of_c_index, power_of_difference, reach, standard_error
from adamss_fl.survival import NoComparablePairs, concordance, paired_difference

GOOD, BAD = 0.6, 1.8
"""Noise on the log hazard of the two models that are told apart."""

Study = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def study(patients: int, seed: int) -> Study:
    """Days, events, and the risks of a better and a worse model; about half of the patients are censored."""
    rng = np.random.default_rng(seed)
    hazard = rng.normal(0, 1, patients)
    death, censored = rng.exponential(1000 * np.exp(-hazard)), rng.exponential(1000, patients)
    event = (death <= censored).astype(int)
    return (
        np.minimum(death, censored),
        event,
        hazard + rng.normal(0, GOOD, patients),
        hazard + rng.normal(0, BAD, patients),
    )


@pytest.fixture(scope="module")
def truth() -> tuple[float, float]:
    """The two models' C-indices on very many patients."""
    times, events, good, bad = study(60_000, 1)
    return concordance(times, events, good).c_index, concordance(times, events, bad).c_index


@pytest.mark.parametrize(("power", "level"), [(0.8, 0.05), (0.9, 0.01), (0.5, 0.2)])
def test_the_detectable_difference_is_that_of_scipys_normal_distribution(power: float, level: float) -> None:
    found = Power(302, 140, 21_000, 0.01)
    assert found.detectable(power, level) == pytest.approx(
        0.01 * (stats.norm.ppf(1 - level / 2) + stats.norm.ppf(power))
    )
    assert reach() == pytest.approx(1.96 + 0.84, abs=0.002)


@pytest.mark.parametrize("difference", [0.0, 0.01, -0.04])
def test_the_chance_of_a_difference_is_that_of_a_two_sided_normal_test(difference: float) -> None:
    shift = abs(difference) / 0.02
    expected = stats.norm.sf(stats.norm.isf(0.025) - shift) + stats.norm.cdf(-stats.norm.isf(0.025) - shift)
    assert Power(100, 50, 1000, 0.02).chance_of(difference) == pytest.approx(expected)


def test_patients_and_events_grow_with_the_square_of_what_is_wanted() -> None:
    found = Power(300, 140, 21_000, 0.01)
    smallest = found.detectable()
    assert found.patients_for(smallest) in (300, 301)
    assert found.patients_for(smallest / 2) in (1200, 1201)
    assert found.events_for(-smallest / 2) in (560, 561)
    grown = Power(1200, 560, 336_000, 0.01 / math.sqrt(4))
    assert grown.detectable() == pytest.approx(smallest / 2)


def test_the_standard_error_is_the_spread_over_studies(truth: tuple[float, float]) -> None:
    """Of the paired difference and of a single C-index, over 300 studies of 150 patients."""
    differences, single = [], []
    for seed in range(300):
        times, events, good, bad = study(150, 1000 + seed)
        single.append(concordance(times, events, good).c_index)
        differences.append(single[-1] - concordance(times, events, bad).c_index)
    told = [power_of_difference(*study(150, 5000 + seed), samples=200, seed=seed) for seed in range(20)]
    alone = [power_of_c_index(*study(150, 5000 + seed)[:3], samples=200, seed=seed) for seed in range(20)]
    assert np.mean([each.standard_error for each in told]) == pytest.approx(np.std(differences), rel=0.12)
    assert np.mean([each.standard_error for each in alone]) == pytest.approx(np.std(single), rel=0.12)
    assert np.mean(differences) == pytest.approx(truth[0] - truth[1], abs=0.01)


def test_of_the_patients_that_pilots_ask_for_four_studies_in_five_see_the_difference(
    truth: tuple[float, float],
) -> None:
    """The whole way: the standard errors of pilot studies, scaled to the true difference, against 200 studies."""
    pilots = [power_of_difference(*study(400, 20 + seed), samples=200, seed=seed) for seed in range(6)]
    patients = round(np.mean([pilot.patients_for(truth[0] - truth[1]) for pilot in pilots]))
    assert 150 < patients < 350
    seen = [paired_difference(*study(patients, 9000 + seed), samples=200, seed=seed).low > 0 for seed in range(200)]
    assert np.mean(seen) == pytest.approx(0.8, abs=0.08)


def test_the_sentence_tells_the_test_set_and_never_a_smaller_difference_than_it_could_show() -> None:
    found = Power(302, 140, 21_000, 0.0105)
    assert found.sentence() == (
        "With 302 test patients, 140 events and 21,000 comparable pairs, "
        "a difference of 0.030 in C-index would be seen in 80 of 100 such studies."
    )
    assert found.detectable() == pytest.approx(0.02942, abs=1e-5)
    assert found.sentence(wanted=0.02).endswith("For one of 0.02 it takes 654 such patients with 303 events.")
    assert "a difference from a fixed value of 0.030" in Power(302, 140, 21_000, 0.0105, of_difference=False).sentence()
    assert "not even a difference of 0.5 in C-index" in Power(4, 2, 3, 0.4).sentence()


def test_the_counts_are_those_of_the_patients() -> None:
    times, events, good, bad = study(80, 3)
    found = power_of_difference(times, events, good, bad, samples=50)
    assert (found.patients, found.events) == (80, int(events.sum()))
    assert found.comparable_pairs == concordance(times, events, good).comparable_pairs


def test_what_has_no_standard_error_is_refused() -> None:
    times, events, good, bad = study(40, 3)
    with pytest.raises(NoSpread):
        power_of_difference(times, events, good, 2 * good + 1, samples=50)
    with pytest.raises(NoSpread):
        power_of_difference(times, events, good, bad, samples=1)
    with pytest.raises(NoSpread):
        standard_error(np.full(30, 0.1))
    with pytest.raises(NoComparablePairs):
        power_of_c_index(times, np.zeros(40), good, samples=50)
    for wrong in (0.0, math.nan, math.inf):
        with pytest.raises(InputError, match="not 0"):
            Power(10, 5, 20, 0.1).patients_for(wrong)
    with pytest.raises(InputError, match="level < power"):
        reach(0.04)
