"""Affine maps of images and masks: markers go where the matrix says, small masks stay, and a box is part of the whole.

The oracle of volume and shape is the analytic ball under the map; that of a marker's place, the inverse of the matrix.
"""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from adamss_fl.errors import InputError
from adamss_fl.imaging import Augmentation, RandomAffine, RandomCrop, RandomFlip, fused
from adamss_fl.imaging.affine_sampling import sample_affine
from adamss_fl.imaging.augmentation import AffineCrop

SEEDS = st.integers(0, 2**31 - 1)
SIDE = 22


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def places(*shape: int) -> Tensor:
    """Positions (D, H, W, 3) of voxels about the volume's centre."""
    axes = [torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for side in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1)


def maps(count: int, seed: int, affine: RandomAffine | None = None) -> tuple[Tensor, Tensor]:
    """Matrices of the default settings, and shifts that keep the middle of the volume in it."""
    matrix, shift = (affine or RandomAffine()).draw(count, (SIDE,) * 3, seeded(seed))
    return matrix, shift * 0.3


def balls(radius: float, centre: Tensor, at: Tensor) -> Tensor:
    """(B, 1, D, H, W) of 0 and 1: whether positions (1 or B, D, H, W, 3) lie in each sample's ball."""
    distance: Tensor = torch.linalg.vector_norm(at - centre.view(-1, 1, 1, 1, 3), dim=-1)
    return (distance <= radius).float().unsqueeze(1)


@pytest.mark.parametrize(
    ("radius", "bound", "least_dsc"),
    [(1.0, 0.04, 0.68), (1.5, 0.03, 0.79), (2.0, 0.02, 0.85), (3.0, 0.01, 0.90), (5.0, 0.01, 0.94)],
)
def test_balls_keep_their_volume_times_the_maps_and_their_shape(radius: float, bound: float, least_dsc: float) -> None:
    matrix, shift = maps(500, 0)
    centre = 2 * torch.rand(500, 3, generator=seeded(1), dtype=torch.float64) - 1
    mask = balls(radius, centre, places(SIDE, SIDE, SIDE).unsqueeze(0))
    moved = sample_affine(mask, mask, matrix, shift)[1]
    came_from = torch.einsum("bij,dhwj->bdhwi", matrix, places(SIDE, SIDE, SIDE)) + shift.view(-1, 1, 1, 1, 3)
    exact = balls(radius, centre, came_from)
    before, after, both = (volume.sum((1, 2, 3, 4)) for volume in (mask, moved, moved * exact))
    expected = before / torch.linalg.det(matrix)
    assert abs(float(after.sum() / expected.sum()) - 1) < bound
    assert not bool(((before > 0) & (after == 0)).any())
    assert float((2 * both / (after + exact.sum((1, 2, 3, 4))))[before > 0].mean()) > least_dsc


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, two=st.booleans())
def test_a_mask_of_one_or_two_voxels_inside_the_field_never_vanishes_and_lands_where_the_matrix_says(
    seed: int, two: bool
) -> None:
    matrix, shift = maps(16, seed)
    target = (SIDE / 2 - 4) * (2 * torch.rand(16, 3, generator=seeded(seed), dtype=torch.float64) - 1)
    source = torch.einsum("bij,bj->bi", matrix, target) + shift
    voxel = (source + (SIDE - 1) / 2).round().long()
    inside = ((voxel >= 1) & (voxel < SIDE - 1)).all(1)
    mask = torch.zeros(16, 1, SIDE, SIDE, SIDE)
    for sample, (z, y, x) in enumerate(voxel.clamp(1, SIDE - 2).tolist()):
        mask[sample, 0, z, y, x] = 1
        mask[sample, 0, z, y, x + two] = 1
    moved = sample_affine(mask, mask, matrix, shift)[1]
    for sample in inside.nonzero().flatten().tolist():
        found = moved[sample, 0].nonzero().double() - (SIDE - 1) / 2
        assert 1 <= len(found) <= 8
        assert float((found - target[sample]).norm(dim=1).max()) < 3.5


def test_a_single_voxel_becomes_one_voxel_on_average() -> None:
    matrix, shift = maps(500, 2)
    mask = torch.zeros(500, 1, SIDE, SIDE, SIDE)
    mask[..., SIDE // 2, SIDE // 2, SIDE // 2] = 1
    volume = sample_affine(mask, mask, matrix, shift)[1].sum((1, 2, 3, 4))
    assert int(volume.min()) == 1
    assert 0.95 < float(volume.mean() * torch.linalg.det(matrix).mean()) < 1.2


def test_a_small_node_stays_beside_a_large_one() -> None:
    matrix, shift = maps(100, 3)
    mask = balls(4.0, torch.tensor([[0.0, 0.0, -4.0]]), places(SIDE, SIDE, SIDE).unsqueeze(0))
    mask[0, 0, 11, 11, 17] = 1
    moved = sample_affine(mask.expand(100, -1, -1, -1, -1), mask.expand(100, -1, -1, -1, -1), matrix, shift)[1]
    node = torch.linalg.solve(matrix, torch.tensor([0.5, 0.5, 6.5], dtype=torch.float64) - shift)
    near = (places(SIDE, SIDE, SIDE) - node.view(-1, 1, 1, 1, 3)).norm(dim=-1) < 2
    assert bool((moved[:, 0] * near).sum((1, 2, 3)).ge(1).all())


def test_mask_and_background_are_treated_alike() -> None:
    matrix, shift = maps(20, 4, RandomAffine(translation=0))
    mask = balls(2.5, torch.zeros(1, 3), places(SIDE, SIDE, SIDE).unsqueeze(0)).expand(20, -1, -1, -1, -1)
    moved = sample_affine(mask, mask, matrix, shift)[1]
    inverse = sample_affine(1 - mask, 1 - mask, matrix, shift)[1]
    middle = slice(6, -6)
    assert torch.equal(moved[..., middle, middle, middle], 1 - inverse[..., middle, middle, middle])


@settings(max_examples=25, deadline=None)
@given(seed=SEEDS, shape=st.tuples(*[st.sampled_from([24, 28, 36])] * 3))
def test_a_marker_goes_where_the_inverse_of_the_matrix_says(seed: int, shape: tuple[int, int, int]) -> None:
    matrix, shift = RandomAffine().draw(2, shape, seeded(seed))
    target = 2 * torch.rand(2, 3, generator=seeded(seed), dtype=torch.float64) - 1
    source = torch.einsum("bij,bj->bi", matrix, target) + shift
    blob = torch.exp(-0.5 * (places(*shape) - source.view(2, 1, 1, 1, 3)).square().sum(-1) / 1.5**2).unsqueeze(1)
    moved = sample_affine(blob, blob, matrix, shift)[0][:, 0]
    weights = moved.unsqueeze(-1)
    centroid = (weights * places(*shape)).sum((1, 2, 3)) / weights.sum((1, 2, 3))
    whole = (source.abs() < torch.tensor(shape) / 2 - 5).all(1)
    assert float((centroid - target)[whole].abs().max() if whole.any() else 0) < 0.1


def test_the_inverse_map_brings_an_image_back() -> None:
    matrix, shift = maps(10, 5, RandomAffine(translation=0.2))
    image = torch.exp(-0.5 * (places(SIDE, SIDE, SIDE) / 3).square().sum(-1)).expand(10, 1, -1, -1, -1)
    away = sample_affine(image, image, matrix, shift)[0]
    inverse = torch.linalg.inv(matrix)
    back = sample_affine(away, away, inverse, -torch.einsum("bij,bj->bi", inverse, shift))[0]
    middle = slice(4, -4)
    assert float((away - image)[..., middle, middle, middle].abs().max()) > 0.2
    assert float((back - image)[..., middle, middle, middle].abs().max()) < 0.1


@settings(max_examples=25, deadline=None)
@given(
    seed=SEEDS,
    shape=st.tuples(*[st.sampled_from([32, 36, 40])] * 3),
    size=st.tuples(*[st.sampled_from([16, 32])] * 3),
    probability=st.sampled_from([1.0, 0.5]),
)
def test_an_affine_map_fused_with_a_crop_is_the_one_after_the_other(
    seed: int, shape: tuple[int, int, int], size: tuple[int, int, int], probability: float
) -> None:
    chain: list[Augmentation] = [RandomAffine(probability=probability), RandomCrop(size)]
    image = torch.rand(3, 2, *shape, generator=seeded(seed))
    noise = torch.rand(3, 2, *shape, generator=seeded(seed + 1))
    mask = (noise > torch.tensor([0.7, 0.999]).view(1, 2, 1, 1, 1)).float()
    results, after = [], []
    for augmentations in (chain, fused(chain)):
        draws = seeded(seed)
        pair = image, mask
        for augmentation in augmentations:
            pair = augmentation(*pair, draws)
        results.append(pair)
        after.append(draws.get_state())
    (image_then, mask_then), (image_once, mask_once) = results
    assert image_once.shape == (3, 2, *size)
    assert torch.equal(*after)
    torch.testing.assert_close(image_once, image_then, rtol=0, atol=3e-5)
    assert float((mask_once != mask_then).double().mean()) < 1e-4


class Negative:
    """An augmentation written by others."""

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return 1 - image, mask


def test_only_an_affine_map_directly_before_a_crop_is_fused_and_all_else_stays_as_it_is() -> None:
    affine, crop, flip, other = RandomAffine(), RandomCrop((16, 16, 16)), RandomFlip(), Negative()
    joined = AffineCrop(affine, crop)
    assert fused([affine, crop]) == [joined]
    assert fused([flip, affine, crop, other]) == [flip, joined, other]
    unfused: list[list[Augmentation]] = [
        [affine],
        [crop],
        [crop, affine],
        [affine, flip, crop],
        [affine, other, crop],
        [],
    ]
    for apart in unfused:
        assert fused(apart) == apart


def test_a_crop_that_does_not_fit_is_refused_when_fused_too() -> None:
    image = torch.zeros(1, 2, 16, 16, 16)
    with pytest.raises(InputError, match="choose a smaller size"):
        fused([RandomAffine(), RandomCrop((32, 16, 16))])[0](image, image, seeded(0))


EVERY: list[Augmentation] = [
    RandomAffine(),
    RandomAffine(probability=0.5),
    RandomFlip(axes=(0, 1, 2)),
    RandomCrop((16, 16, 16)),
    AffineCrop(RandomAffine(probability=0.5), RandomCrop((16, 16, 16))),
]


@pytest.mark.parametrize("augmentation", EVERY, ids=repr)
def test_no_value_of_an_image_is_read_on_the_host_and_no_two_devices_meet(augmentation: Augmentation) -> None:
    # A meta tensor has no values: reading one, or joining it with a tensor of another device, raises.
    image = torch.zeros(4, 2, 32, 32, 32, device="meta")
    mask = torch.zeros(4, 2, 32, 32, 32, device="meta")
    for seed in range(4):
        for moved in augmentation(image, mask, seeded(seed)):
            assert moved.device.type == "meta"


@pytest.mark.parametrize("augmentation", EVERY, ids=repr)
def test_a_sample_does_not_depend_on_its_batch_and_types_stay(augmentation: Augmentation) -> None:
    image = torch.rand(4, 2, 32, 32, 32, generator=seeded(0))
    mask = (image > 0.6).float()
    moved, moved_mask = augmentation(image, mask, seeded(1))
    other_image, other_mask = image.clone(), mask.clone()
    other_image[1:], other_mask[1:] = 1 - image[1:], 1 - mask[1:]
    alone, alone_mask = augmentation(other_image, other_mask, seeded(1))
    assert torch.equal(moved[0], alone[0])
    assert torch.equal(moved_mask[0], alone_mask[0])
    for kind in (torch.float64, torch.float16):
        typed, typed_mask = augmentation(image.to(kind), mask.to(kind), seeded(1))
        assert typed.dtype == typed_mask.dtype == kind
        assert torch.equal(typed_mask, moved_mask.to(kind))


@pytest.mark.parametrize("axes", [(2,), (1, 0), (0, 1, 2)])
def test_a_flip_draws_one_number_a_sample_for_each_axis_in_their_order(axes: tuple[int, ...]) -> None:
    image = torch.rand(20, 2, 6, 5, 4, generator=seeded(0))
    moved, moved_mask = RandomFlip(axes=axes)(image, image, seeded(3))
    draws, expected = seeded(3), image
    for axis in axes:
        chosen = torch.rand(20, generator=draws) < 0.5
        expected = torch.where(chosen.view(-1, 1, 1, 1, 1), expected.flip(axis + 2), expected)
    assert torch.equal(moved, expected)
    assert torch.equal(moved_mask, expected)


def test_three_shears_are_one_for_each_pair_of_axes_from_the_same_draws() -> None:
    settings: dict[str, Any] = {"scale": 0, "rotation_degrees": 0, "translation": 0.1}
    (six, shift), (three, same_shift) = (
        RandomAffine(shears=shears, **settings).draw(50, (32, 32, 32), seeded(0)) for shears in (6, 3)
    )
    assert torch.equal(shift, same_shift)
    assert torch.equal(three, three.triu())
    assert torch.allclose(torch.linalg.det(three), torch.ones(50, dtype=torch.float64))
    pairs = torch.triu(torch.ones(3, 3, dtype=torch.bool), diagonal=1)
    assert torch.allclose(three[:, pairs], (six / six[:, :1, :1])[:, pairs])
    with pytest.raises(InputError, match="shears"):
        RandomAffine(shears=4)  # type: ignore[arg-type]
