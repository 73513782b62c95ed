"""Surface distance against all pairs of surface voxels and against shapes whose distance is known."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.segmentation.surface import (
    SurfaceDistanceSums,
    surface_distance,
    surface_distance_95,
    surface_distance_sums,
)

BINS = [0.0, 1, 2, 5, 10]


def surface_by_definition(mask: Any) -> Any:
    """Voxels of the mask with one of six neighbours outside of it, the outside of the volume being outside."""
    found = []
    for voxel in np.argwhere(mask):
        for axis in range(3):
            for step in (-1, 1):
                there = voxel.copy()
                there[axis] += step
                if not (0 <= there[axis] < mask.shape[axis]) or not mask[tuple(there)]:
                    found.append(tuple(voxel))
    return np.array(sorted(set(found)))


def by_all_pairs(first: Any, second: Any, spacing: Any) -> float:
    a, b = (surface_by_definition(mask) * np.array(spacing) for mask in (first, second))
    apart = np.sqrt(((a[:, None] - b[None]) ** 2).sum(axis=2))
    return max(np.percentile(apart.min(axis=axis), 95) for axis in (0, 1))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    st.tuples(*[st.sampled_from([0.5, 1.0, 2.5, 4.0])] * 3),
    st.sampled_from([0.05, 0.4, 0.9]),
)
def test_it_is_the_percentile_over_all_pairs_of_surface_voxels(
    seed: int, shape: Any, spacing: Any, fill: float
) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.random(shape) < fill, rng.random(shape) < fill
    first.flat[0] = second.flat[-1] = True
    found = surface_distance_95(first, second, spacing)
    assert found == pytest.approx(by_all_pairs(first, second, spacing), abs=1e-9)
    assert found == surface_distance_95(second, first, spacing)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("step", [1, 3])
def test_a_shifted_cube_is_as_far_as_it_was_shifted(axis: int, step: int) -> None:
    """Each face across the shift is 1/6 of the surface, more than 5 %, and nothing lies further off."""
    cube = np.zeros((24, 24, 24), dtype=bool)
    cube[4:14, 4:14, 4:14] = True
    spacing = (3.0, 1.0, 0.5)
    assert surface_distance_95(cube, np.roll(cube, step, axis), spacing) == pytest.approx(step * spacing[axis])


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 1.0)])
def test_spheres_about_one_centre_are_apart_by_their_radii(spacing: Any) -> None:
    grids = np.meshgrid(*[(np.arange(n) - n // 2) * mm for n, mm in zip((49, 49, 49), spacing, strict=True)])
    radius = np.sqrt(sum(grid**2 for grid in np.moveaxis(np.array(grids), 1, 2)))
    found = surface_distance_95(radius <= 18, radius <= 12, spacing)
    assert found == pytest.approx(6, abs=max(spacing))


@pytest.mark.parametrize(("outliers", "expected"), [(20, 0.0), (23, 25.0)])
def test_the_farthest_five_percent_are_left_out(outliers: int, expected: float) -> None:
    """A plane of 400 voxels, and in one mask a row of voxels 25 further off: 4.8 % of its surface, or 5.4 %."""
    plane = np.zeros((40, 40, 1), dtype=bool)
    plane[:, :10] = True
    row = plane.copy()
    row[:outliers, 34] = True
    assert surface_distance_95(row, plane, (1, 1, 1)) == expected


def test_equal_masks_are_at_no_distance_and_an_empty_one_has_none() -> None:
    mask = np.random.default_rng(0).random((6, 7, 8)) < 0.3
    empty = np.zeros_like(mask)
    assert surface_distance_95(mask, mask.astype(int), (1, 1, 1)) == 0
    assert surface_distance_95(mask, empty, (1, 1, 1)) is None
    assert surface_distance_95(empty, mask, (1, 1, 1)) is None
    assert surface_distance_95(empty, empty, (1, 1, 1)) is None


def test_malformed_masks_and_spacings_are_refused() -> None:
    mask = np.ones((3, 3, 3))
    with pytest.raises(InputError, match="must both be"):
        surface_distance_95(mask, np.ones((3, 3, 4)), (1, 1, 1))
    with pytest.raises(InputError, match="must both be"):
        surface_distance_95(mask[0], mask[0], (1, 1, 1))
    with pytest.raises(InputError, match="threshold it first"):
        surface_distance_95(mask * 0.5, mask, (1, 1, 1))
    with pytest.raises(InputError, match="not positive"):
        surface_distance_95(mask, mask, (1, 0, 1))
    with pytest.raises(InputError, match="shape"):
        surface_distance_95(mask, mask, (1, 1))


# --- over sites -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.none() | st.floats(0, 30), st.integers(0, 2)), max_size=20))
def test_sites_give_the_mean_and_bounds_that_hold_the_median(patients: list[Any]) -> None:
    parts = [surface_distance_sums([value for value, site in patients if site == k], BINS) for k in range(3)]
    found = surface_distance(parts[0] + parts[1] + parts[2])
    known = [value for value, _ in patients if value is not None]
    assert (found.patients, found.undefined) == (len(known), len(patients) - len(known))
    if not known:
        assert (found.mean_mm, found.median_low_mm, found.median_high_mm) == (None, None, None)
        return
    assert found.mean_mm == pytest.approx(np.mean(known))
    median = float(np.median(known))
    assert found.median_low_mm <= median
    middle = sorted(known)[len(known) // 2]
    if middle >= BINS[-1]:
        assert found.median_high_mm is None
    else:
        assert median < found.median_high_mm
        lower = sorted(known)[(len(known) - 1) // 2]
        widths = [np.diff(BINS)[np.searchsorted(BINS, value, side="right") - 1] for value in (lower, middle)]
        assert found.median_high_mm - found.median_low_mm == pytest.approx(np.mean(widths))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"undefined": 3}, "more than the 6 patients"),
        ({"histogram": [1e300, 0, 0, 0, 0]}, "more than the 6 patients"),
        ({"histogram": [1e300, -1e300, 0, 0, 0]}, "whole number"),
        ({"histogram": [0.5, 0.5, 1, 1, 1]}, "whole number"),
        ({"histogram": [1, 1, 1]}, "shape"),
        ({"histogram": [0, 0, 4, 0, 0]}, "outside what the histogram allows"),
        ({"total_mm": 3.0}, "outside what the histogram allows"),
        ({"total_mm": math.nan}, "not finite"),
        ({"distances": []}, "'distances' is unknown"),
    ],
)
def test_sums_travel_as_json_and_those_that_no_patients_can_have_are_refused(
    change: dict[str, Any], message: str
) -> None:
    sums = surface_distance_sums([0.5, 1.5, None, 4.0, 40.0, None], BINS)
    back = SurfaceDistanceSums.from_plain(json.loads(json.dumps(sums.plain())), BINS, 6)
    assert back.plain() == sums.plain() == {"undefined": 2, "total_mm": 46.0, "histogram": [1, 1, 1, 0, 1]}
    with pytest.raises(InputError, match=message):
        SurfaceDistanceSums.from_plain(sums.plain() | change, BINS, 6)


def test_other_bins_and_bad_distances_are_refused() -> None:
    with pytest.raises(InputError, match="cannot be added"):
        surface_distance_sums([1.0], BINS) + surface_distance_sums([1.0], [0.0, 3])
    for edges in ([], [1.0, 2], [0.0, 2, 2]):
        with pytest.raises(InputError, match="bins"):
            surface_distance_sums([1.0], edges)
    with pytest.raises(InputError, match="negative"):
        surface_distance_sums([-1.0], BINS)
    with pytest.raises(InputError, match="not finite"):
        surface_distance_sums([math.inf], BINS)
