"""Merged figures of sites against brute force over all patients."""

from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adamss_fl.federation.merging import dsc_or_none, mean_opening, merge_evaluations
from adamss_fl.survival import concordance_counts

Outcomes = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]


def outcomes(rng: np.random.Generator, patients: int) -> Outcomes:
    """Times, events and risks with ties in each."""
    return rng.integers(1, 8, patients) * 100.0, rng.integers(0, 2, patients), rng.integers(0, 5, patients) * 1.0


def figures_of(site: Outcomes, rng: np.random.Generator, **more: Any) -> dict[str, Any]:
    times, events, risks = site
    return {
        "patients": len(times),
        "events": int(events.sum()),
        "concordance": asdict(concordance_counts(times, events, risks)),
        "overlap": rng.integers(0, 50, (2, 3)).tolist(),
        "masked": len(times),
        "gate_opening": rng.uniform(0, 1, 5).tolist(),
        "loss.survival": float(rng.uniform()),
        **more,
    }


def c_within_sites(sites: list[Outcomes]) -> tuple[float, int]:
    """Harrell's C by its definition over every pair of patients of the same site."""
    worth, pairs = 0.0, 0
    for site in sites:
        for one, two in combinations(zip(*site, strict=True), 2):
            first, second = sorted((one, two), key=lambda patient: (patient[0], -patient[1]))
            known = first[1] == 1 and (first[0] < second[0] or second[1] == 0)
            if known:
                pairs += 1
                worth += 1.0 if first[2] > second[2] else 0.5 if first[2] == second[2] else 0.0
    return (worth / pairs if pairs else float("nan")), pairs


@given(st.lists(st.integers(1, 12), min_size=1, max_size=4), st.integers(0, 10_000))
@settings(max_examples=60)
def test_the_c_index_is_that_of_all_pairs_inside_the_sites(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    sites = [outcomes(rng, size) for size in sizes]
    merged = merge_evaluations({f"s{k}": figures_of(site, rng) for k, site in enumerate(sites)})
    expected, pairs = c_within_sites(sites)
    assert merged["comparable_pairs"] == pairs
    assert merged["c_index"] == (pytest.approx(expected) if pairs else None)
    assert merged["patients"] == sum(sizes)
    assert merged["events"] == sum(int(site[1].sum()) for site in sites)
    for name, site in zip(merged["sites"], sites, strict=True):
        alone, own_pairs = c_within_sites([site])
        assert merged["sites"][name]["c_index"] == (pytest.approx(alone) if own_pairs else None)


def test_dsc_is_that_of_the_summed_voxels() -> None:
    rng = np.random.default_rng(0)
    site = outcomes(rng, 3)
    overlaps = {"a": [[10, 20, 30], [0, 0, 0]], "b": [[1, 50, 5], [4, 5, 6]]}
    merged = merge_evaluations({name: figures_of(site, rng, overlap=value) for name, value in overlaps.items()})
    assert merged["dsc"]["tumour"] == pytest.approx(2 * 11 / (70 + 35))
    assert merged["dsc"]["nodes"] == pytest.approx(2 * 4 / 11)
    assert merged["sites"]["a"]["dsc"] == {"tumour": pytest.approx(20 / 50), "nodes": None}


def test_losses_are_means_over_the_patients_behind_them() -> None:
    """The survival loss over all patients, the segmentation loss over those with a mask; absent where none has one."""
    rng = np.random.default_rng(0)
    three, five = outcomes(rng, 3), outcomes(rng, 5)
    merged = merge_evaluations(
        {
            "a": figures_of(three, rng, masked=1, **{"loss.survival": 2.0, "loss.segmentation": 0.5}),
            "b": figures_of(five, rng, masked=4, **{"loss.survival": 1.0, "loss.segmentation": 0.25}),
        }
    )
    assert merged["loss.survival"] == pytest.approx((3 * 2.0 + 5 * 1.0) / 8)
    assert merged["loss.segmentation"] == pytest.approx((0.5 + 4 * 0.25) / 5)
    unmasked = merge_evaluations({"a": figures_of(three, rng, masked=0)})
    assert "loss.segmentation" not in unmasked


def test_gate_openings_are_weighted_by_patients() -> None:
    rng = np.random.default_rng(0)
    values = [{"patients": n, "gate_opening": rng.uniform(size=5).tolist()} for n in (2, 7, 1)]
    expected = np.average([value["gate_opening"] for value in values], axis=0, weights=[2, 7, 1])
    np.testing.assert_allclose(mean_opening(values), expected)


def test_sites_without_patients_in_the_split_are_left_out() -> None:
    rng = np.random.default_rng(0)
    own = figures_of(outcomes(rng, 4), rng)
    merged = merge_evaluations({"z": {"patients": 0}, "a": own})
    assert list(merged["sites"]) == ["a"]
    assert merged == merge_evaluations({"a": own})
    assert merge_evaluations({"z": {"patients": 0}}) == {"patients": 0}


def test_the_order_of_sites_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    figures = {name: figures_of(outcomes(rng, 4), rng) for name in "abc"}
    assert merge_evaluations(dict(reversed(figures.items()))) == merge_evaluations(figures)


def test_no_voxel_at_all_has_no_dsc_and_a_missed_mask_scores_0() -> None:
    assert dsc_or_none([0, 0, 0]) is None
    assert dsc_or_none([0, 0, 9]) == 0.0
