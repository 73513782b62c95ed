"""Random changes to a batch that leave the patient the same patient: METHOD.md 3, on the tensor's own device."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from adamss_fl.errors import InputError
from adamss_fl.imaging.transfer import to_device


class Augmentation(Protocol):
    """What the extension point ``augmentation`` asks for."""

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Change images (B, 2, D, H, W) and masks (B, 2, D, H, W) of 0 and 1, both float, the same way.

        All randomness comes from ``generator`` (on the CPU, so that every device draws the same numbers).
        """


@dataclass(frozen=True)
class RandomAffine:
    """One random 3D shift, scaling, shear and rotation per sample, in a single interpolation.

    Masks are interpolated linearly and cut at 0.5, which keeps their volume; outside the image is 0. Angles assume
    voxels of equal sides.

    translation : largest shift along each axis, as a fraction of the side.
    translation_mode : ``uniform`` draws every shift up to ``translation``; ``reference`` only the largest one, in
        either direction, as the authors' released code does.
    scale : largest relative change of size, drawn per axis.
    shear_degrees, rotation_degrees : largest angles, for each of the six shears and about each of the three axes.
    probability : share of the samples that are changed at all.
    """

    translation: float = 0.1
    translation_mode: Literal["uniform", "reference"] = "uniform"
    scale: float = 0.1
    shear_degrees: float = 10.0
    rotation_degrees: float = 10.0
    probability: float = 1.0

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

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images and masks after the map, same shapes and types."""
        batch, channels, *shape = image.shape
        matrix, shift = self.draw(batch, shape, generator)
        grid = sampling_grid(matrix, shift, shape, image.device)
        both = torch.cat([image.float(), mask.float()], dim=1)
        moved = functional.grid_sample(both, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        chosen = to_device(torch.rand(batch, generator=generator) < self.probability, image.device)
        chosen = chosen.view(-1, 1, 1, 1, 1)
        moved_image = moved[:, :channels].to(image.dtype)
        moved_mask = (moved[:, channels:] >= 0.5).to(mask.dtype)
        return torch.where(chosen, moved_image, image), torch.where(chosen, moved_mask, mask)

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


def sampling_grid(matrix: Tensor, shift: Tensor, shape: Sequence[int], device: torch.device | None = None) -> Tensor:
    """Sampling positions (B, D, H, W, 3) for ``torch.nn.functional.grid_sample``, ``align_corners=False``.

    matrix : (B, 3, 3) and shift : (B, 3), on the CPU, from output to input voxels about the volume's centre, axes D, H,
    W. device : where the positions are made (None: here), so that only the maps travel there.
    """
    half = torch.tensor(list(shape), dtype=matrix.dtype) / 2
    # grid_sample counts in half sides and in the order W, H, D: hence the change of units and the two flips.
    normalised = matrix * (half.view(1, 1, 3) / half.view(1, 3, 1))
    theta = torch.cat([normalised.flip(1, 2), (shift / half).flip(1).unsqueeze(2)], dim=2)
    return functional.affine_grid(
        to_device(theta.float(), device or theta.device), [len(matrix), 1, *shape], align_corners=False
    )


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
        for axis in self.axes:
            chosen = torch.rand(len(image), generator=generator) < self.probability
            chosen = to_device(chosen, image.device).view(-1, 1, 1, 1, 1)
            image = torch.where(chosen, image.flip(axis + 2), image)
            mask = torch.where(chosen, mask.flip(axis + 2), mask)
        return image, mask


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
        batch, shape = len(image), image.shape[2:]
        room = [have - want for have, want in zip(shape, self.size, strict=True)]
        if min(room) < 0:
            raise InputError(
                f"crop: size is {list(self.size)}, but the images have {list(shape)} voxels; choose a smaller size"
            )
        starts = torch.stack([torch.randint(0, r + 1, (batch,), generator=generator) for r in room], dim=1).tolist()
        depth, height, width = self.size

        def cut(volumes: Tensor) -> Tensor:
            boxes = zip(volumes, starts, strict=True)
            return torch.stack([v[:, z : z + depth, y : y + height, x : x + width] for v, (z, y, x) in boxes])

        return cut(image), cut(mask)
