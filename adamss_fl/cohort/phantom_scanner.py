"""The scanner of each phantom hospital: what makes one hospital's images differ from another's."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adamss_fl.cohort.phantom_anatomy import AIR_HU, FIELD_OF_VIEW_MM, Anatomy, Grid, Volume

FWHM_PER_SIGMA = 2.3548


@dataclass(frozen=True)
class SiteProfile:
    """How one hospital differs from the next.

    weight : its share of the patients, relative to the other sites.
    event_fraction : share of its patients whose relapse is seen before their follow-up ends.
    gain : factor on every SUV. noise : sd of PET noise at 1 SUV. psf_mm : full width at half maximum of the PET.
    pet_spacing_mm : (D, H, W). ct_spacing : (D, H, W) relative to the reference spacing.
    ct_noise_hu : sd of CT noise. ct_sharpness : below 0 a smoothing, above 0 an edge-enhancing kernel.
    """

    weight: float
    event_fraction: float
    gain: float
    noise: float
    psf_mm: float
    pet_spacing_mm: tuple[float, float, float]
    ct_spacing: tuple[float, float, float]
    ct_noise_hu: float
    ct_sharpness: float


PROFILES = (
    SiteProfile(1.25, 0.52, 1.00, 0.10, 5.5, (3.6, 3.6, 3.6), (1.0, 1.0, 1.0), 10.0, 0.0),
    SiteProfile(1.00, 0.43, 0.90, 0.14, 6.5, (4.0, 4.2, 4.2), (1.1, 0.95, 0.95), 14.0, -0.4),
    SiteProfile(0.75, 0.58, 1.10, 0.12, 5.0, (3.3, 3.8, 3.8), (0.95, 1.05, 1.05), 12.0, 0.6),
)


def site_profile(index: int, rng: np.random.Generator) -> SiteProfile:
    """Profile of site ``index`` (from 0): three are written down, further ones are drawn from the same ranges."""
    if index < len(PROFILES):
        return PROFILES[index]
    pet, ct = rng.uniform(3.3, 4.3), rng.uniform(0.95, 1.08)
    return SiteProfile(
        weight=float(rng.uniform(0.75, 1.25)),
        event_fraction=float(rng.uniform(0.43, 0.57)),
        gain=float(rng.uniform(0.9, 1.1)),
        noise=float(rng.uniform(0.10, 0.14)),
        psf_mm=float(rng.uniform(5.0, 6.5)),
        pet_spacing_mm=(float(rng.uniform(3.3, 4.3)), pet, pet),
        ct_spacing=(float(rng.uniform(0.95, 1.1)), ct, ct),
        ct_noise_hu=float(rng.uniform(10.0, 14.0)),
        ct_sharpness=float(rng.uniform(-0.4, 0.6)),
    )


def ct_grid(profile: SiteProfile, size: int) -> Grid:
    """The CT's grid: ``size`` voxels a side at the reference spacing, over the same field of view."""
    reference = FIELD_OF_VIEW_MM / size
    return _cover(tuple(reference * factor for factor in profile.ct_spacing))


def pet_grid(profile: SiteProfile) -> Grid:
    """The PET's grid, with spacing of its own over the same field of view."""
    return _cover(profile.pet_spacing_mm)


def _cover(spacing_mm: tuple[float, ...]) -> Grid:
    z, y, x = (round(FIELD_OF_VIEW_MM / step) for step in spacing_mm)
    return Grid((z, y, x), (spacing_mm[0], spacing_mm[1], spacing_mm[2]))


def acquire_pet(rng: np.random.Generator, anatomy: Anatomy, source: Grid, target: Grid, profile: SiteProfile) -> Volume:
    """PET in SUV (D, H, W) on ``target``: blurred, sampled, with noise that grows as the square root of uptake."""
    from scipy.ndimage import gaussian_filter

    sigma = profile.psf_mm / FWHM_PER_SIGMA
    blurred = gaussian_filter(anatomy.suv, [sigma / step for step in source.spacing_mm], mode="nearest", truncate=3.0)
    field = blurred
    for have, want in zip(source.axes(), target.axes(), strict=True):
        field = np.tensordot(field, _linear_weights(have.ravel(), want.ravel()), axes=(0, 1))
    white = rng.standard_normal(target.shape).astype(np.float32)
    correlated = gaussian_filter(white, 0.7, mode="wrap", truncate=3.0)
    noise = correlated * np.float32(profile.noise / correlated.std()) * np.sqrt(np.clip(field, 0.05, None))
    # Two decimals, as a scanner's rescaled integers have: it also halves the files.
    return np.asarray(np.round(np.clip(profile.gain * (field + noise), 0, None), 2), dtype=np.float32)


def acquire_ct(rng: np.random.Generator, anatomy: Anatomy, profile: SiteProfile) -> NDArray[np.int16]:
    """CT in HU (D, H, W) on the anatomy's own grid, after the site's reconstruction kernel."""
    from scipy.ndimage import gaussian_filter

    noise = rng.standard_normal(anatomy.hu.shape).astype(np.float32)
    raw = gaussian_filter(anatomy.hu, 0.4, mode="nearest", truncate=2.0) + profile.ct_noise_hu * noise
    smooth = gaussian_filter(raw, 0.8, mode="nearest", truncate=2.0)
    return np.asarray(np.clip(np.rint(raw + profile.ct_sharpness * (raw - smooth)), AIR_HU - 24, 3071), dtype=np.int16)


def _linear_weights(have: Volume, want: Volume) -> Volume:
    """Matrix (len(want), len(have)) of linear interpolation between even coordinates, constant beyond the ends."""
    position = np.clip((want - have[0]) / (have[1] - have[0]), 0, len(have) - 1)
    return np.asarray(np.clip(1 - np.abs(position[:, None] - np.arange(len(have))), 0, None), dtype=np.float32)
