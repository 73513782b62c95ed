"""Augmentations: the affine map is scipy's, masks keep their volume, and the generator decides everything."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import ndimage
from small_images import ball

from adamss_fl.errors import InputError
from adamss_fl.imaging import Augmentation, RandomAffine, RandomCrop, RandomFlip

EACH: list[Augmentation] = [RandomAffine(), RandomFlip(axes=(0, 1, 2)), RandomCrop((16, 16, 16))]


def batch(size: int = 4, shape: tuple[int, int, int] = (32, 32, 32)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(size, 2, *shape, generator=generator)
    mask = (torch.rand(size, 2, *shape, generator=generator) > 0.7).float()
    return image, mask


def smooth(shape: tuple[int, int, int]) -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(0).random(shape), 2).astype(np.float32)


@pytest.mark.parametrize("shape", [(32, 32, 32), (16, 32, 48)])
def test_the_affine_map_is_that_of_scipy(shape: tuple[int, int, int]) -> None:
    affine, field = RandomAffine(), smooth(shape)
    image = torch.from_numpy(field).expand(5, 2, *shape)
    moved, _ = affine(image, torch.zeros(5, 2, *shape), torch.Generator().manual_seed(3))
    matrices, shifts = affine.draw(5, shape, torch.Generator().manual_seed(3))
    centre = (np.array(shape) - 1) / 2
    for sample, matrix, shift in zip(moved.numpy(), matrices.numpy(), shifts.numpy(), strict=True):
        offset = centre + shift - matrix @ centre
        expected = ndimage.affine_transform(field, matrix, offset, order=1, mode="constant", cval=np.nan)
        interior = np.isfinite(expected)
        assert interior.mean() > 0.3
        assert np.allclose(sample[0][interior], expected[interior], atol=2e-4)
        assert np.array_equal(sample[0], sample[1])


def test_the_affine_maps_stay_within_their_limits() -> None:
    angles_only = RandomAffine(translation=0, scale=0, shear_degrees=0, rotation_degrees=10)
    matrices, shifts = angles_only.draw(200, (32, 32, 32), torch.Generator().manual_seed(0))
    assert torch.allclose(matrices @ matrices.mT, torch.eye(3, dtype=torch.float64), atol=1e-9)
    assert not shifts.any()
    turned = torch.rad2deg(torch.acos((torch.diagonal(matrices, dim1=1, dim2=2).sum(1) - 1) / 2))
    assert 10 < float(turned.max()) < 10 * 3**0.5 + 0.1
    shift_only = RandomAffine(translation=0.1, scale=0, shear_degrees=0, rotation_degrees=0)
    matrices, shifts = shift_only.draw(200, (10, 20, 40), torch.Generator().manual_seed(0))
    assert (matrices == torch.eye(3, dtype=torch.float64)).all()
    assert (shifts.abs() <= torch.tensor([1.0, 2.0, 4.0])).all()
    assert (shifts.abs().amax(0) > torch.tensor([0.9, 1.8, 3.6])).all()
    assert torch.allclose(
        shifts.mean(0) / torch.tensor([1.0, 2.0, 4.0]), torch.zeros(3, dtype=torch.float64), atol=0.15
    )


def test_reference_translation_is_the_largest_shift_in_either_direction_of_each_axis() -> None:
    shape = (10, 20, 40)
    draws = [
        RandomAffine(translation=0.1, translation_mode=mode).draw(400, shape, torch.Generator().manual_seed(0))
        for mode in ("uniform", "reference")
    ]
    (matrices, uniform), (same_matrices, shifts) = draws
    assert torch.equal(matrices, same_matrices)
    assert torch.equal(shifts.sign(), uniform.sign())
    for axis, side in enumerate(shape):
        assert sorted(shifts[:, axis].unique().tolist()) == pytest.approx([-0.1 * side, 0.1 * side])
    signs = {tuple(row) for row in shifts.sign().tolist()}
    assert len(signs) == 8  # each axis for itself
    assert 0.4 < float((shifts > 0).double().mean()) < 0.6


def test_the_affine_changes_a_masks_volume_by_its_determinant_and_no_more() -> None:
    affine, shape = RandomAffine(), (24, 24, 24)
    mask = torch.from_numpy(ball(shape, 6)).expand(64, 2, *shape).contiguous()
    moved = affine(mask, mask, torch.Generator().manual_seed(0))[1].sum((1, 2, 3, 4)) / mask[0].sum()
    matrices, _ = affine.draw(64, shape, torch.Generator().manual_seed(0))
    expected = 1 / torch.linalg.det(matrices)
    assert abs(float((moved / expected).mean()) - 1) < 0.02
    many, _ = affine.draw(20000, shape, torch.Generator().manual_seed(0))
    assert abs(float((1 / torch.linalg.det(many)).mean()) - 1) < 0.005


def test_image_and_mask_are_moved_together() -> None:
    mask = torch.from_numpy(ball((32, 32, 32), 6)).expand(8, 2, 32, 32, 32).contiguous()
    image, moved = RandomAffine()(mask, mask, torch.Generator().manual_seed(1))
    assert bool((moved[image > 0.999] == 1).all())
    assert bool((moved[image == 0] == 0).all())
    assert float((moved - image).sum().abs() / image.sum()) < 0.01
    assert (moved[0] != moved[1]).any()


def test_probability_is_the_share_of_samples_that_change() -> None:
    image, mask = batch(200, (16, 16, 16))
    moved, _ = RandomAffine(probability=0.3)(image, mask, torch.Generator().manual_seed(0))
    changed = (moved != image).flatten(1).any(1)
    assert 0.2 < float(changed.float().mean()) < 0.4
    same, same_mask = RandomAffine(probability=0)(image, mask, torch.Generator().manual_seed(0))
    assert torch.equal(same, image)
    assert torch.equal(same_mask, mask)


@pytest.mark.parametrize("augmentation", EACH, ids=lambda a: type(a).__name__)
def test_the_generator_decides_everything(augmentation: Augmentation) -> None:
    image, mask = batch()
    runs = [augmentation(image, mask, torch.Generator().manual_seed(seed)) for seed in (5, 5, 6)]
    assert torch.equal(runs[0][0], runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][0], runs[2][0])
    original = batch()
    assert torch.equal(image, original[0])
    assert torch.equal(mask, original[1])


@pytest.mark.parametrize("augmentation", EACH, ids=lambda a: type(a).__name__)
def test_masks_stay_0_or_1_and_background_stays_0(augmentation: Augmentation) -> None:
    image, mask = batch()
    moved, moved_mask = augmentation(image, mask, torch.Generator().manual_seed(0))
    assert set(moved_mask.unique().tolist()) <= {0.0, 1.0}
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    nothing, _ = augmentation(torch.zeros_like(image), mask, torch.Generator().manual_seed(0))
    assert not nothing.any()


def test_a_flip_is_numpys_and_falls_on_half_of_the_samples() -> None:
    image, mask = batch(100, (16, 16, 16))
    moved, moved_mask = RandomFlip(axes=(1,))(image, mask, torch.Generator().manual_seed(0))
    flipped = (moved != image).flatten(1).any(1)
    assert 0.35 < float(flipped.float().mean()) < 0.65
    assert np.array_equal(moved[flipped].numpy(), np.flip(image[flipped].numpy(), 3))
    assert np.array_equal(moved_mask[flipped].numpy(), np.flip(mask[flipped].numpy(), 3))


def test_crops_are_boxes_of_the_volume_at_every_place() -> None:
    places = torch.arange(20 * 24 * 16, dtype=torch.float32).view(1, 1, 20, 24, 16).expand(200, 2, -1, -1, -1)
    image, mask = RandomCrop((16, 16, 16))(places, places, torch.Generator().manual_seed(0))
    assert torch.equal(image, mask)
    corners = image[:, 0, 0, 0, 0].long()
    z, y = corners // (24 * 16), corners // 16 % 24
    assert set(z.tolist()) == set(range(5))
    assert set(y.tolist()) == set(range(9))
    k = 17
    assert torch.equal(image[k], places[k, :, z[k] : z[k] + 16, y[k] : y[k] + 16, :])


@pytest.mark.parametrize(
    ("plugin", "settings", "word"),
    [
        (RandomAffine, {"translation": -0.1}, "translation"),
        (RandomAffine, {"scale": 1.0}, "scale"),
        (RandomAffine, {"probability": 1.5}, "probability"),
        (RandomFlip, {"axes": (3,)}, "axes"),
        (RandomFlip, {"probability": -1}, "probability"),
        (RandomCrop, {"size": (16, 16, 20)}, "multiple of 16"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(plugin: Any, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        plugin(**settings)


def test_a_crop_larger_than_the_volume_is_refused() -> None:
    image, mask = batch(1, (16, 16, 16))
    with pytest.raises(InputError, match="choose a smaller size"):
        RandomCrop((32, 16, 16))(image, mask, torch.Generator())
