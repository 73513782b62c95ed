"""Random changes to a batch that leave the patient the same patient: METHOD.md 3, on the tensor's own device."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from adamss_fl.errors import InputError
from adamss_fl.imaging.affine_sampling import sample_affine


class Augmentation(Protocol):
    """What the extension point ``augmentation`` asks for."""

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Change images (B, 2, D, H, W) and masks (B, 2, D, H, W) of 0 and 1, both float, the same way.

        All randomness comes from ``generator`` (on the CPU, so that every device draws the same numbers).
        """


@dataclass(frozen=True)
class RandomAffine:
    """One random 3D shift, scaling, shear and rotation per sample, in a single interpolation.

    Images are interpolated linearly; outside the volume is 0. Masks keep their volume, times the map's change of it,
    within 3 % on average down to a radius of one voxel, and small ones do not vanish: ``affine_sampling.sample_mask``
    says how, with figures. Angles assume voxels of equal sides. Where a crop comes next, only its box is sampled:
    :func:`fused`.

    The authors' released code does it otherwise: three 2D passes, one a plane, each with one shear; shifts of the
    largest size only; masks cut at 0.2, which inflates them. ``shears: 3`` and ``translation_mode: reference`` give its
    number of shears and its shifts. Its three interpolations and its cut are not offered.

    translation : largest shift along each axis, as a fraction of the side.
    translation_mode : ``uniform`` draws every shift up to ``translation``; ``reference`` only the largest one, in
        either direction, as the authors' released code does.
    scale : largest relative change of size, drawn per axis.
    shear_degrees, rotation_degrees : largest angles, for each of the shears and about each of the three axes.
    shears : 6, each axis along both others; or 3, one for each pair of axes, the angles otherwise drawn the same.
    probability : share of the samples that are changed at all.
    """

    translation: float = 0.1
    translation_mode: Literal["uniform", "reference"] = "uniform"
    scale: float = 0.1
    shear_degrees: float = 10.0
    rotation_degrees: float = 10.0
    probability: float = 1.0
    shears: Literal[6, 3] = 6

    def __post_init__(self) -> None:
        """Refuse what would turn the image inside out."""
        for name, value, limit in (
            ("translation", self.translation, 1.0),
            ("scale", self.scale, 0.9),
            ("shear_degrees", self.shear_degrees, 30.0),
            ("rotation_degrees", self.rotation_degrees, 180.0),
            ("probability", self.probability, 1.0),
        ):
            if not 0 <= value <= limit:
                raise InputError(f"affine: {name} is {value}; it must lie in [0, {limit:g}]")
        if self.shears not in (6, 3):
            raise InputError(f"affine: shears is {self.shears}; it must be 6 or 3")

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images and masks after the map, same shapes and types."""
        return self.sample(image, mask, generator, None)

    def sample(
        self, image: Tensor, mask: Tensor, generator: torch.Generator, crop: "RandomCrop | None"
    ) -> tuple[Tensor, Tensor]:
        """Images and masks after the map and, where there is one, the crop: the same draws, in the same order."""
        batch, shape = len(image), list(image.shape[2:])
        matrix, shift = self.draw(batch, shape, generator)
        chosen = (torch.rand(batch, generator=generator) < self.probability).tolist()
        starts, size = (crop.draw(batch, shape, generator), crop.size) if crop else ([[0, 0, 0]] * batch, shape)
        rows = [row for row in range(batch) if chosen[row]]
        if len(rows) == batch:
            return sample_affine(image, mask, matrix, shift, starts, size)
        images, masks = _boxes(image, starts, size), _boxes(mask, starts, size)
        if rows:
            part, part_mask = (torch.stack([volumes[row] for row in rows]) for volumes in (image, mask))
            moved = sample_affine(part, part_mask, matrix[rows], shift[rows], [starts[row] for row in rows], size)
            for row, moved_image, moved_mask in zip(rows, *moved, strict=True):
                images[row], masks[row] = moved_image, moved_mask
        return torch.stack(images), torch.stack(masks)

    def draw(self, batch: int, shape: Sequence[int], generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Random maps from output to input voxels, about the centre: matrices (B, 3, 3) and shifts (B, 3) in voxels.

        Axes are in the order D, H, W: input = matrix @ output + shift, with matrix = rotation @ shear @ scaling.
        """

        def uniform(count: int, limit: float) -> Tensor:
            return (2 * torch.rand(batch, count, generator=generator, dtype=torch.float64) - 1) * limit

        rotation = _rotation(uniform(3, math.radians(self.rotation_degrees)))
        shear = torch.eye(3, dtype=torch.float64).repeat(batch, 1, 1)
        off_diagonal = ~torch.eye(3, dtype=torch.bool)
        shear[:, off_diagonal] = torch.tan(uniform(6, math.radians(self.shear_degrees)))
        if self.shears == 3:
            shear = shear.triu()
        # A shear must not change the volume: METHOD.md leaves that to the scaling.
        shear = shear / torch.linalg.det(shear).abs().pow(1 / 3).view(-1, 1, 1)
        scaling = torch.diag_embed(1 / (1 + uniform(3, self.scale)))
        moved = uniform(3, self.translation)
        if self.translation_mode == "reference":
            moved = torch.where(moved < 0, -self.translation, self.translation).to(moved.dtype)
        shift = moved * torch.tensor(list(shape), dtype=torch.float64)
        return rotation @ shear @ scaling, shift


def _rotation(angles: Tensor) -> Tensor:
    """Rotation matrices (B, 3, 3) from angles (B, 3) in radians about the axes D, H and W, in that order."""
    product = torch.eye(3, dtype=angles.dtype).repeat(len(angles), 1, 1)
    for axis, (first, second) in enumerate(((1, 2), (0, 2), (0, 1))):
        turn = torch.eye(3, dtype=angles.dtype).repeat(len(angles), 1, 1)
        cosine, sine = angles[:, axis].cos(), angles[:, axis].sin()
        turn[:, first, first], turn[:, second, second] = cosine, cosine
        turn[:, first, second], turn[:, second, first] = -sine, sine
        product = product @ turn
    return product


@dataclass(frozen=True)
class RandomFlip:
    """Mirror each sample along each of the given axes with the given probability.

    axes : 0, 1, 2 for D, H, W; in an image whose W runs from right to left, 2 exchanges the two sides of the body.
    """

    axes: tuple[int, ...] = (2,)
    probability: float = 0.5

    def __post_init__(self) -> None:
        """Refuse axes that are not there."""
        if not set(self.axes) <= {0, 1, 2} or len(set(self.axes)) != len(self.axes):
            raise InputError(f"flip: axes is {list(self.axes)}; each must be 0, 1 or 2, and none twice")
        if not 0 <= self.probability <= 1:
            raise InputError(f"flip: probability is {self.probability}; it must lie in [0, 1]")

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images and masks after mirroring, same shapes and types."""
        chosen = [(torch.rand(len(image), generator=generator) < self.probability).tolist() for _ in self.axes]
        flips = [
            [axis + 1 for axis, flip in zip(self.axes, row, strict=True) if flip] for row in zip(*chosen, strict=True)
        ]

        def mirror(volumes: Tensor) -> Tensor:
            return torch.stack([volume.flip(axes) for volume, axes in zip(volumes, flips, strict=True)])

        return (mirror(image), mirror(mask)) if self.axes else (image, mask)


@dataclass(frozen=True)
class RandomCrop:
    """Cut a box of ``size`` voxels (D, H, W) at a random place of each sample."""

    size: tuple[int, int, int]

    def __post_init__(self) -> None:
        """Refuse a box that the network cannot take."""
        if any(side < 16 or side % 16 for side in self.size):
            raise InputError(f"crop: size is {list(self.size)}; each side must be a positive multiple of 16")

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images and masks (B, 2, *size); raises ``InputError`` where the images are smaller than the box."""
        starts = self.draw(len(image), image.shape[2:], generator)
        return torch.stack(_boxes(image, starts, self.size)), torch.stack(_boxes(mask, starts, self.size))

    def draw(self, batch: int, shape: Sequence[int], generator: torch.Generator) -> list[list[int]]:
        """Each sample's first voxel (D, H, W) in volumes of ``shape``; raises ``InputError`` as a call does."""
        room = [have - want for have, want in zip(shape, self.size, strict=True)]
        if min(room) < 0:
            raise InputError(
                f"crop: size is {list(self.size)}, but the images have {list(shape)} voxels; choose a smaller size"
            )
        starts = [torch.randint(0, r + 1, (batch,), generator=generator) for r in room]
        return [list(map(int, start)) for start in torch.stack(starts, dim=1).tolist()]


@dataclass(frozen=True)
class AffineCrop:
    """An affine map and the crop that follows it, of which only the box is sampled."""

    affine: RandomAffine
    crop: RandomCrop

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images and masks (B, 2, *size), those of the one after the other but for rounding, from the same draws."""
        return self.affine.sample(image, mask, generator, self.crop)


def fused(augmentations: Iterable[Augmentation]) -> list[Augmentation]:
    """The same augmentations in the same order, each affine map that a crop follows directly made one with it."""
    joined: list[Augmentation] = []
    for augmentation in augmentations:
        if type(augmentation) is RandomCrop and joined and type(joined[-1]) is RandomAffine:
            joined[-1] = AffineCrop(joined[-1], augmentation)
        else:
            joined.append(augmentation)
    return joined


def _boxes(volumes: Tensor, starts: Sequence[Sequence[int]], size: Sequence[int]) -> list[Tensor]:
    """Each sample's box (C, *size) of volumes (B, C, D, H, W), as a view."""
    depth, height, width = size
    boxes = zip(volumes, starts, strict=True)
    return [volume[:, z : z + depth, y : y + height, x : x + width] for volume, (z, y, x) in boxes]
