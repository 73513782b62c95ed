"""Maps back in the scanner's voxels: against closed forms, and against the truth carried through a coarser grid."""

from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from adamss_fl.imaging.native import as_image, centre_of_findings, label_map
from adamss_fl.imaging.settings import ImagingSettings
from adamss_fl.imaging.volumes import Box, covering_grid, resample


def grid(
    sides: tuple[int, int, int], spacing: tuple[float, float, float], origin: tuple[float, ...] = (0, 0, 0)
) -> Any:
    image = sitk.Image(list(sides[::-1]), sitk.sitkUInt8)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin)
    return image


def ball(image: Any, centre: tuple[float, ...], radius: float) -> np.ndarray:
    """(D, H, W) bool, ``centre`` (x, y, z) in mm."""
    size, spacing, origin = image.GetSize(), image.GetSpacing(), image.GetOrigin()
    x, y, z = (origin[a] + spacing[a] * np.arange(size[a]) - centre[a] for a in range(3))
    return np.asarray(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < radius**2)


def test_on_its_own_grid_a_map_is_its_threshold_and_the_larger_probability_wins() -> None:
    place = grid((1, 1, 6), (1, 1, 1))
    tumour = np.array([0.4, 0.6, 0.6, 0.8, 0.9, 0.2], np.float32).reshape(1, 1, 6)
    nodes = np.array([0.4, 0.2, 0.7, 0.7, 0.8, 0.6], np.float32).reshape(1, 1, 6)
    found = label_map(np.stack([tumour, nodes]), place, place)
    np.testing.assert_array_equal(found.ravel(), [0, 1, 2, 1, 1, 2])
    equal = label_map(np.stack([tumour, tumour]), place, place)
    np.testing.assert_array_equal(equal.ravel(), [0, 1, 1, 1, 1, 0])


def test_between_voxels_the_border_is_where_the_logit_crosses_0() -> None:
    """A spline repeats a straight line: here the logit is 0 at x = 9.3 mm, between voxels 4 and 5 of 2 mm."""
    coarse, fine = grid((4, 4, 10), (2, 2, 2)), grid((4, 4, 37), (2, 2, 0.5))
    logit = 0.4 * (2.0 * np.arange(10) - 9.3)
    maps = np.zeros((2, 4, 4, 10), np.float32)
    maps[0] = 1 / (1 + np.exp(-logit))
    found = label_map(maps, coarse, fine)
    np.testing.assert_array_equal(found, np.broadcast_to(0.5 * np.arange(37) > 9.3, (4, 4, 37)))


def test_outside_the_box_the_wide_map_counts_and_inside_it_does_not() -> None:
    wide_grid, box_grid = grid((2, 2, 10), (1, 1, 1)), grid((2, 2, 4), (1, 1, 1), (3, 0, 0))
    wide, box = np.zeros((2, 2, 2, 10), np.float32), np.zeros((2, 2, 2, 4), np.float32)
    wide[1] = 0.9
    box[0, ..., :2] = 0.9
    found = label_map(box, box_grid, wide_grid, wide, wide_grid)
    np.testing.assert_array_equal(found[0, 0], [2, 2, 2, 1, 1, 0, 0, 2, 2, 2])
    np.testing.assert_array_equal(label_map(box, box_grid, wide_grid)[0, 0], [0, 0, 0, 1, 1, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("direction", [np.eye(3), np.diag([-1, -1, 1]), np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])])
def test_probabilities_keep_more_of_a_ball_than_labels_do_in_any_orientation(direction: np.ndarray) -> None:
    """Partial volumes on a 4 mm grid, back on 1.5 mm voxels of an image that is turned or mirrored."""
    fine, coarse = grid((64, 64, 64), (1.5, 1.5, 1.5)), grid((24, 24, 24), (4, 4, 4))
    centre, radius = (47.0, 45.5, 49.0), 17.0
    inner = grid((96, 96, 96), (1, 1, 1), (-1.5, -1.5, -1.5))
    share = ball(inner, centre, radius).reshape(24, 4, 24, 4, 24, 4).mean(axis=(1, 3, 5)).astype(np.float32)
    fine.SetDirection(direction.ravel().tolist())
    middle = np.array(fine.TransformContinuousIndexToPhysicalPoint([31.5] * 3))
    fine.SetOrigin((np.array(centre) - middle).tolist())
    index = np.stack(np.meshgrid(*[np.arange(64)] * 3, indexing="ij"), -1)[..., ::-1] * 1.5  # (x, y, z)
    points = index @ direction.T + np.array(fine.GetOrigin())
    true = ((points - np.array(centre)) ** 2).sum(-1) < radius**2

    def dice(found: np.ndarray) -> float:
        return float(2 * (found & true).sum() / (found.sum() + true.sum()))

    maps = np.stack([share, np.zeros_like(share)])
    smooth = dice(label_map(maps, coarse, fine) == 1)
    blocky = dice(resample(as_image((share > 0.5).astype(np.uint8), coarse), fine, 0, nearest=True) == 1)
    assert smooth > 0.97 > 0.96 > blocky


def test_the_centre_of_what_is_found_is_that_of_its_box_without_stray_pieces() -> None:
    place = grid((20, 30, 40), (3, 2, 1), (10, 20, 30))
    maps = np.zeros((2, 20, 30, 40), np.float32)
    maps[0, 4:8, 10:15, 20:30] = 0.9  # 200 voxels
    maps[1, 12:14, 20:25, 5:9] = 0.8  # 40 voxels: more than a tenth
    maps[1, 19, 29, 39] = 0.9
    centre = centre_of_findings(maps, place)
    assert centre == pytest.approx((10 + 17.0, 20 + 2 * 17.0, 30 + 3 * 8.5))
    assert centre_of_findings(np.zeros_like(maps), place) is None


def test_the_covering_grid_covers_the_box_to_the_nearest_voxel() -> None:
    settings = ImagingSettings(grid=(16, 16, 16), spacing_mm=(4.0, 2.0, 3.0))
    found = covering_grid(settings, Box((0, 10, -50), (100, 61, 51.9)))
    assert found.GetSize() == (33, 26, 25)  # 100 / 3, 51 / 2 (to even), 101.9 / 4
    middle = found.TransformContinuousIndexToPhysicalPoint([(side - 1) / 2 for side in found.GetSize()])
    assert middle == pytest.approx((50, 35.5, 0.95))
