"""The phantom patient in continuous space: tissue, physiological hot spots, a primary tumour and its nodes.

Coordinates are millimetres (z, y, x) from the centre of the field of view, x to the patient's left, y to the back, z to
the head. All random fields live in space, not on a grid: a patient keeps the same tumour whatever the voxel size.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adamss_fl.cohort.phantom_hazard import Traits

Volume = NDArray[np.float32]

FIELD_OF_VIEW_MM = 128.0
AIR_HU, FAT_HU, MUSCLE_HU, BONE_HU, LESION_HU = -1000.0, -100.0, 50.0, 450.0, 100.0
AIR_SUV, FAT_SUV, MUSCLE_SUV, BONE_SUV = 0.05, 0.35, 1.1, 1.3
NECROSIS_HU = 130.0  # how far a fully necrotic part falls below LESION_HU
SURFACE_ROUGHNESS = 0.2  # sd of the tumour's surface, in radii
NODE_RADIUS_MM = (8.0, 11.0)
NODE_LEVELS = ((-50.0, 8.0), (-27.0, -4.0), (-4.0, 10.0), (19.0, -2.0))  # (z, y) of the lymph node chain, both sides
NODE_SIDE_MM = 40.0
# Paired (z, y, x), radius range and SUV range of uptake that is no disease and has no contrast on CT.
HOT_SPOTS = (
    ((40.0, 2.0, 43.0), (7.0, 10.0), (2.5, 6.0)),  # parotid glands
    ((12.0, -6.0, 24.0), (5.0, 8.0), (3.0, 8.0)),  # tonsils
    ((-42.0, -22.0, 9.0), (4.0, 6.5), (2.5, 7.0)),  # vocal cords
    ((-50.0, 30.0, 34.0), (6.0, 9.0), (2.0, 6.5)),  # neck muscle or brown fat
)


@dataclass(frozen=True)
class Grid:
    """A regular grid centred in the field of view: voxels (D, H, W) and spacing in mm."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    def axes(self) -> tuple[Volume, Volume, Volume]:
        """Coordinates in mm along z, y and x, each shaped to broadcast over (D, H, W)."""
        z, y, x = (
            ((np.arange(n) - (n - 1) / 2) * step).astype(np.float32)
            for n, step in zip(self.shape, self.spacing_mm, strict=True)
        )
        return z[:, None, None], y[None, :, None], x[None, None, :]

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return math.prod(self.spacing_mm) / 1000.0


@dataclass(frozen=True)
class Anatomy:
    """One patient before any scanner: uptake in SUV, density in HU, and labels (1 primary tumour, 2 nodes)."""

    suv: Volume
    hu: Volume
    label: NDArray[np.uint8]


def smooth_noise(rng: np.random.Generator, grid: Grid, length_mm: float) -> Volume:
    """A smooth random field (D, H, W), mean 0 and sd 1: cubic B-splines on normals ``length_mm`` apart."""
    half = FIELD_OF_VIEW_MM / 2
    knots = math.ceil(2 * half / length_mm) + 4
    field = rng.standard_normal((knots, knots, knots)).astype(np.float32)
    for axis in grid.axes():
        position = (axis.ravel()[:, None] + half) / length_mm + 1.5 - np.arange(knots, dtype=np.float32)[None, :]
        # Each product takes the next axis to the front and appends the interpolated one: z, y, x come out in order.
        field = np.tensordot(field, _cubic_b_spline(position), axes=(0, 1))
    sd_per_axis = 0.4794  # mean over positions of the sum of squared cubic B-spline weights
    return np.ascontiguousarray(field, dtype=np.float32) / np.float32(sd_per_axis**1.5)


def _cubic_b_spline(t: Volume) -> Volume:
    """The cardinal cubic B-spline at ``t``."""
    a = np.abs(t)
    near = 2 / 3 - a * a + a * a * a / 2
    far = np.clip(2 - a, 0, None) ** 3 / 6
    return np.where(a < 1, near, far).astype(np.float32)


def make_anatomy(rng: np.random.Generator, traits: Traits, grid: Grid) -> Anatomy:
    """Draw one patient with the given ``traits`` on ``grid``; the label's primary volume is that of the traits."""
    suv, hu, inside = _normal_tissue(rng, grid)
    _add_hot_spots(rng, grid, suv, inside)
    label = np.zeros(grid.shape, dtype=np.uint8)
    centre = _add_primary(rng, traits, grid, suv, hu, label, inside)
    _add_nodes(rng, traits, grid, suv, hu, label, inside, centre)
    return Anatomy(suv, hu, label)


def _normal_tissue(rng: np.random.Generator, grid: Grid) -> tuple[Volume, Volume, NDArray[np.bool_]]:
    """Uptake and density of a neck with spine, jaw, airway and skull base; and where a lesion may lie."""
    z, y, x = grid.axes()
    width, depth = 59.0 * rng.uniform(0.97, 1.05), 55.0 * rng.uniform(0.96, 1.05)
    narrowing = 1.0 - 0.05 * np.exp(-(((z + 20.0) / 30.0) ** 2))
    radius = np.sqrt((x / width) ** 2 + (y / depth) ** 2) / narrowing
    suv = np.where(radius < 1, FAT_SUV, AIR_SUV).astype(np.float32)
    hu = np.where(radius < 1, FAT_HU, AIR_HU).astype(np.float32)

    def fill(where: NDArray[np.bool_], uptake: float, density: float) -> None:
        suv[where] = uptake
        hu[where] = density

    fill(radius < 0.88, MUSCLE_SUV, MUSCLE_HU)
    spine = (x / 15.0) ** 2 + ((y - 30.0) / 12.0) ** 2 < 1
    fill(spine & (np.mod(z + rng.uniform(0, 18), 18.0) < 14.0), BONE_SUV, BONE_HU)
    jaw = np.abs(np.sqrt((x / 40.0) ** 2 + ((y + 6.0) / 38.0) ** 2) - 1.0) < 0.09
    fill(jaw & (y < 4.0) & (z > 8.0) & (z < 32.0) & (radius < 0.9), BONE_SUV, BONE_HU)
    skull = np.sqrt(((z - 74.0) / 26.0) ** 2 + (y / 46.0) ** 2 + (x / 44.0) ** 2)
    fill((skull < 1.14) & (radius < 0.95), BONE_SUV, BONE_HU)
    fill(skull < 1.0, rng.uniform(5.0, 8.5), MUSCLE_HU - 15.0)
    airway = ((x - rng.uniform(-3, 3)) / 8.0) ** 2 + ((y + 16.0 + 0.1 * z) / 7.0) ** 2 < 1
    fill(airway & (z < 44.0), AIR_SUV, AIR_HU)

    uneven = smooth_noise(rng, grid, 32.0)
    suv *= np.clip(1.0 + 0.25 * uneven, 0.3, 2.0)
    hu += np.where(radius < 1, 6.0 * uneven, 0.0)
    return suv, hu, (radius < 0.93) & (skull > 1.14)


def _ellipsoid(grid: Grid, centre: tuple[float, float, float], semi_axes: tuple[float, float, float]) -> Volume:
    """Distance from ``centre`` in units of ``semi_axes``: 1 on the surface."""
    squares = [((a - c) / r) ** 2 for a, c, r in zip(grid.axes(), centre, semi_axes, strict=True)]
    return np.asarray(np.sqrt(squares[0] + squares[1] + squares[2]), dtype=np.float32)


def _add_hot_spots(rng: np.random.Generator, grid: Grid, suv: Volume, inside: NDArray[np.bool_]) -> None:
    """Paired physiological uptake, nearly symmetric; each kind is there in three patients of four."""
    for (z, y, x), radii, uptakes in HOT_SPOTS:
        present, radius, uptake = rng.random() < 0.75, rng.uniform(*radii), rng.uniform(*uptakes)
        for side in (-1.0, 1.0):
            shift, ratio = rng.normal(0.0, 1.5, 3), rng.uniform(0.85, 1.15)
            if present:
                centre = (z + shift[0], y + shift[1], side * x + shift[2])
                distance = _ellipsoid(grid, centre, (1.3 * radius, radius, 0.9 * radius))
                spot = (distance < 1) & inside
                suv[spot] = np.maximum(suv[spot], np.float32(uptake * ratio) * (1 - 0.3 * distance[spot] ** 2))


def _add_primary(
    rng: np.random.Generator,
    traits: Traits,
    grid: Grid,
    suv: Volume,
    hu: Volume,
    label: NDArray[np.uint8],
    inside: NDArray[np.bool_],
) -> tuple[float, float, float]:
    """The primary tumour: as many voxels as its volume asks for, those of lowest distance with a rough surface."""
    centre = (rng.uniform(-12, 12), rng.uniform(-20, -4), rng.uniform(-9, 9))
    stretch = np.exp(rng.normal(0.0, 0.12, 3))
    stretch /= np.prod(stretch) ** (1 / 3)
    z, y, x = (float(traits.radius_mm * s) for s in stretch)
    distance = _ellipsoid(grid, centre, (z, y, x))
    level = distance - SURFACE_ROUGHNESS * smooth_noise(rng, grid, 12.0)
    level[~inside] = np.inf
    voxels = max(round(traits.volume_ml / grid.voxel_ml), 1)
    tumour = level <= np.partition(level.ravel(), voxels - 1)[voxels - 1]
    necrosis = 1.4 * np.clip(1.0 - distance[tumour], 0, 1) + 0.35 * smooth_noise(rng, grid, 12.0)[tumour]
    necrosis = np.clip(necrosis, 0, 1) * np.float32(traits.heterogeneity)
    suv[tumour] = np.float32(traits.peak_suv) * (1 - necrosis)
    hu[tumour] = LESION_HU - NECROSIS_HU * necrosis
    label[tumour] = 1
    return centre


def _add_nodes(
    rng: np.random.Generator,
    traits: Traits,
    grid: Grid,
    suv: Volume,
    hu: Volume,
    label: NDArray[np.uint8],
    inside: NDArray[np.bool_],
    primary: tuple[float, float, float],
) -> None:
    """Nodes at free places of the two lymph node chains, those clear of the primary tumour first."""
    places = [(z, y, side * NODE_SIDE_MM) for z, y in NODE_LEVELS for side in (-1.0, 1.0)]
    order = rng.permutation(len(places))
    clear = [math.dist(places[i], primary) > 1.3 * traits.radius_mm + NODE_RADIUS_MM[1] for i in order]
    chosen = sorted(range(len(places)), key=lambda rank: not clear[rank])[: traits.nodes]
    for rank in chosen:
        centre = tuple(np.asarray(places[order[rank]]) + rng.uniform(-1.5, 1.5, 3))
        radius, uptake = rng.uniform(*NODE_RADIUS_MM), float(np.clip(6.5 * np.exp(rng.normal(0, 0.25)), 4, 11))
        rough = 0.12 * smooth_noise(rng, grid, 12.0)
        node = (_ellipsoid(grid, (centre[0], centre[1], centre[2]), (radius * 1.1, radius, radius / 1.1)) + rough) < 1
        node &= inside & (label == 0)
        suv[node] = uptake
        hu[node] = LESION_HU
        label[node] = 2
