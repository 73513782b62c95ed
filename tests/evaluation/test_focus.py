"""Figures of focus maps against cases with a known answer and sums written out voxel by voxel."""

import math
from itertools import product

import numpy as np
import pytest

from adamss_fl.errors import InputError
from adamss_fl.evaluation.focus import body_of, coarsen, means, measure, regions_of, shares, spread

GRID = (16, 16, 16)
SPACING = (3.0, 4.0, 5.0)


def case(seed=0):
    """CT, mask and positive attention at random; tumour and nodes overlap in some voxels, air is there too."""
    rng = np.random.default_rng(seed)
    ct = np.clip(rng.normal(0.2, 0.3, GRID), 0, 1)
    mask = (rng.random((2, *GRID)) < 0.1).astype(np.uint8)
    mask[:, 5:] = 0
    return ct, mask, rng.random(GRID) + 0.05


def region_at(where, ct, mask):
    """Index of a voxel's region, by the distance to every voxel of every lesion."""
    if mask[0][where] or mask[1][where]:
        return 0 if mask[0][where] else 1
    if ct[where] <= 0:
        return 4
    lesion = np.argwhere(mask.any(axis=0))
    nearest = np.sqrt((((lesion - np.array(where)) * np.array(SPACING)) ** 2).sum(axis=1).min())
    return 2 if nearest <= 10.0 else 3


def test_every_voxel_is_in_exactly_one_region():
    ct, mask, _ = case()
    regions = regions_of(ct, mask, SPACING)
    assert np.array_equal(regions.sum(axis=0), np.ones(GRID))
    for where in product(range(0, 16, 3), repeat=3):
        assert regions[region_at(where, ct, mask)][where] == 1
    assert (regions.reshape(5, -1).sum(axis=1) > 50).all()


def test_coarsening_is_the_fraction_of_a_cells_voxels():
    ct, mask, _ = case()
    regions = regions_of(ct, mask, SPACING)
    small = coarsen(regions, (4, 8, 2))
    for region, z, y, x in product(range(5), range(4), range(8), range(2)):
        cell = regions[region, 4 * z : 4 * z + 4, 2 * y : 2 * y + 2, 8 * x : 8 * x + 8]
        assert small[region, z, y, x] == pytest.approx(cell.mean())
    with pytest.raises(InputError, match="does not divide"):
        coarsen(regions, (5, 16, 16))


def test_attention_equal_to_the_mask_has_all_its_share_there():
    ct, mask, _ = case()
    mask[1] &= ~mask[0]
    assert shares(mask[0].astype(float), regions_of(ct, mask, SPACING)).tolist() == [1, 0, 0, 0, 0]
    assert shares(mask[1].astype(float), regions_of(ct, mask, SPACING)).tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("shape", [(16, 16, 16), (8, 8, 8), (2, 2, 2)])
def test_uniform_attention_has_the_volumes_share_no_enrichment_and_full_spread(shape):
    ct, mask, _ = case()
    found = measure([np.full(shape, 0.3)], [np.full(shape, 0.6)], np.stack([ct, ct]), mask, SPACING)
    volume = regions_of(ct, mask, SPACING).mean(axis=(1, 2, 3))
    assert np.allclose(found.share[0], volume)
    assert np.allclose(found.volume[0], volume)
    assert np.allclose(found.enrichment[0], 1)
    assert found.spread[0] == pytest.approx(1)
    assert np.allclose(found.opening[0], 0.6)
    assert found.whole[0] == pytest.approx(0.6)


def test_figures_equal_sums_written_out():
    ct, mask, attention = case(3)
    found = measure([attention], [attention], np.stack([ct, ct]), mask, SPACING)
    sums, counts, body_sum, body_count, parts = [0.0] * 5, [0] * 5, 0.0, 0, []
    for where in product(range(16), repeat=3):
        region = region_at(where, ct, mask)
        sums[region] += attention[where]
        counts[region] += 1
        if region < 4:
            body_sum += attention[where]
            body_count += 1
            parts.append(attention[where])
    entropy = -sum(a / body_sum * math.log(a / body_sum) for a in parts)
    for region in range(5):
        mean = sums[region] / counts[region]
        assert found.share[0, region] == pytest.approx(sums[region] / sum(sums))
        assert found.opening[0, region] == pytest.approx(mean)
        assert found.enrichment[0, region] == pytest.approx(mean / (body_sum / body_count))
    assert found.spread[0] == pytest.approx(math.exp(entropy) / body_count)
    assert found.whole[0] == pytest.approx(sum(sums) / 16**3)


@pytest.mark.parametrize("part", [1, 7, 512])
def test_spread_of_attention_that_is_uniform_on_a_part_is_that_part(part):
    body = np.zeros(16**3)
    body[:1024] = 1
    attention = np.full(16**3, 5.0)
    attention[part:] = 0
    assert spread(attention.reshape(GRID), body.reshape(GRID)) == pytest.approx(part / 1024)


def test_spread_ignores_scale_air_and_the_grid_that_it_is_measured_on():
    rng = np.random.default_rng(1)
    coarse, body = rng.random((4, 4, 4)), rng.random((4, 4, 4))
    fine = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    fine_body = body.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    expected = spread(coarse, body)
    assert 0 < expected < 1
    assert spread(0.01 * fine, fine_body) == pytest.approx(expected)
    assert spread(fine + 9 * (fine_body == 0), fine_body) == pytest.approx(expected)


def test_a_flatter_map_has_a_wider_spread():
    ct, _, attention = case()
    values = [spread(attention**power, (ct > 0).astype(float)) for power in (0.25, 1, 4)]
    assert values == sorted(values, reverse=True)


def test_body_at_a_coarse_level_holds_the_lesions():
    ct, mask, _ = case()
    body = body_of(coarsen(regions_of(ct, mask, SPACING), (4, 4, 4)))
    assert body.sum() * 64 == pytest.approx(((ct > 0) | (mask.max(axis=0) > 0)).sum())


def test_a_region_that_is_empty_or_unknown_has_no_mean():
    ct, mask, attention = case()
    mask[1] = 0
    found = measure([attention], [attention], np.stack([ct, ct]), mask, SPACING)
    assert found.share[0, 1] == 0
    assert np.isnan([found.enrichment[0, 1], found.opening[0, 1]]).all()
    unknown = measure([attention], [attention], np.stack([ct, ct]), None, SPACING)
    assert np.isnan(unknown.share[0, :3]).all()
    assert np.isnan(unknown.volume[0, :3]).all()
    assert unknown.share[0, 3:].sum() == pytest.approx(1)
    dark = measure([np.zeros(GRID)], [attention], np.stack([ct, ct]), mask, SPACING)
    assert np.isnan(dark.spread[0])
    assert np.isnan(dark.share).all()
    assert means(attention, np.zeros((1, *GRID)))[0] != means(attention, np.zeros((1, *GRID)))[0]
