"""From a patient on disk to the arrays that the network sees."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.imaging.cache import Axes, Prepared, SampleCache
from adamss_fl.imaging.settings import ImagingSettings
from adamss_fl.imaging.volumes import (
    Box,
    Image,
    box_round,
    check_volume,
    field_of_view,
    overlap,
    read_arrays,
    read_volume,
    resample,
    scale_ct,
    scale_pet,
    target_grid,
    union,
)

if TYPE_CHECKING:
    from adamss_fl.cohort.layouts import Layout
    from adamss_fl.cohort.records import Cohort, Patient

NO_EVENT_KNOWN = -1


@dataclass(frozen=True)
class Sample:
    """One patient as the network sees it.

    image : float32 (2, D, H, W): PET and CT scaled to [0, 1], 0 is background.
    mask : uint8 (2, D, H, W): GTVp and GTVn.
    has_mask : False where the patient has no label file; ``mask`` is then all zero and says nothing.
    time_days, event : NaN and -1 where the endpoint is unknown.
    clinical : canonical name -> value as read; None where it is missing.
    tabular : float32 (r,) encoded clinical and radiomics vector; None until a run's encoding has made it.
    pet_spacing_mm, ct_spacing_mm : voxel spacing along x, y and z of the images as they were read; None where unknown.
    """

    patient_id: str
    site: str
    image: NDArray[np.float32]
    mask: NDArray[np.uint8]
    has_mask: bool
    time_days: float
    event: int
    clinical: Mapping[str, str | float | None] = field(default_factory=dict)
    tabular: NDArray[np.float32] | None = None
    pet_spacing_mm: Axes | None = None
    ct_spacing_mm: Axes | None = None


@dataclass(frozen=True)
class Volumes:
    """A patient's images as read: PET in SUV, CT in HU, and the two masks as images of 0 and 1 (or None)."""

    pet: Image
    ct: Image
    primary: Image | None = None
    nodes: Image | None = None


def prepare_cohort(
    cohort: "Cohort",
    settings: ImagingSettings,
    cache_dir: Path,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Sample]:
    """Samples of all patients in the cohort's order, from the cache where it holds them; arrays are memory-mapped.

    cache_dir : made where it is missing; any number of processes may share it. progress : (patient, done, total).

    Raises ``InputError`` naming the first patient whose volumes cannot be used.
    """
    cache = SampleCache(Path(cache_dir), settings)
    samples = []
    for done, patient in enumerate(cohort.patients, start=1):
        found = cache.get_or_make(patient, partial(prepare_arrays, patient, cohort.layout, settings))
        samples.append(
            Sample(
                patient_id=patient.id,
                site=patient.site,
                image=found.image,
                mask=np.zeros((2, *settings.grid), np.uint8) if found.mask is None else found.mask,
                has_mask=found.mask is not None,
                time_days=math.nan if patient.time_days is None else patient.time_days,
                event=NO_EVENT_KNOWN if patient.event is None else patient.event,
                clinical=patient.clinical,
                pet_spacing_mm=found.pet_spacing_mm,
                ct_spacing_mm=found.ct_spacing_mm,
            )
        )
        if progress is not None:
            progress(patient.id, done, len(cohort))
    return samples


def prepare_arrays(patient: "Patient", layout: "Layout", settings: ImagingSettings) -> Prepared:
    """One patient, read, checked, resampled and scaled."""
    volumes = read_patient(patient, layout)
    grid = model_grid(volumes, settings, patient.id)
    image = image_on(grid, volumes.pet, volumes.ct, settings)
    spacings = spacing_of(volumes.pet), spacing_of(volumes.ct)
    if volumes.primary is None or volumes.nodes is None:
        return Prepared(image, None, *spacings)
    masks = [resample(mask, grid, 0, nearest=True) for mask in (volumes.primary, volumes.nodes)]
    return Prepared(image, np.stack(masks).astype(np.uint8), *spacings)


def spacing_of(image: Image) -> Axes:
    """Voxel spacing along x, y and z in mm."""
    x, y, z = image.GetSpacing()
    return float(x), float(y), float(z)


def model_grid(volumes: Volumes, settings: ImagingSettings, patient: str) -> Image:
    """The grid (an empty image with the geometry) that a patient's images are resampled to."""
    return target_grid(settings, grid_centre(volumes, settings, patient))


def grid_centre(volumes: Volumes, settings: ImagingSettings, patient: str) -> tuple[float, ...]:
    """Where the settings centre a patient's grid, (x, y, z) in mm.

    Raises ``InputError`` naming the patient where PET and CT do not overlap.
    """
    shared = overlap(field_of_view(volumes.pet), field_of_view(volumes.ct), patient)
    if settings.centre == "overlap":
        return shared.centre
    marked = tumour_box(volumes)
    return shared.centre if marked is None else marked.centre


def tumour_box(volumes: Volumes) -> Box | None:
    """The smallest box round all voxels of both masks; None where a mask is missing or both are empty."""
    if volumes.primary is None or volumes.nodes is None:
        return None
    boxes = [box for mask in (volumes.primary, volumes.nodes) if (box := box_round(mask)) is not None]
    return union(boxes) if boxes else None


def image_on(grid: Image, pet: Image, ct: Image, settings: ImagingSettings) -> NDArray[np.float32]:
    """PET and CT on ``grid``, scaled: float32 (2, D, H, W), 0 where an image does not reach."""
    return np.stack(
        [
            scale_pet(resample(pet, grid, 0.0), settings),
            scale_ct(resample(ct, grid, settings.ct_hu_window[0]), settings),
        ]
    )


def read_patient(patient: "Patient", layout: "Layout") -> Volumes:
    """Read a patient's volumes and check them.

    Raises ``InputError`` naming the patient where a file is missing or unreadable, or where a volume is empty, constant
    or not finite.
    """
    if layout.arrays is not None:
        keys = layout.arrays
        names = (keys.pet, keys.ct, keys.primary, keys.nodes)
        images = read_arrays(patient.pet, names, keys.spacing_mm, patient.id)
        for name in (keys.pet, keys.ct):
            if name not in images:
                raise InputError(f"patient {patient.id}: {patient.pet} holds no array {name!r}; add it")
        primary, nodes = images.get(keys.primary), images.get(keys.nodes)
        volumes = Volumes(
            images[keys.pet],
            images[keys.ct],
            None if primary is None else primary >= 0.5,
            None if nodes is None else nodes >= 0.5,
        )
    else:
        pet, ct = read_volume(patient.pet, patient.id, "PET"), read_volume(patient.ct, patient.id, "CT")
        volumes = Volumes(pet, ct)
        if patient.mask is not None:
            labels = read_volume(patient.mask, patient.id, "mask")
            first, second = layout.mask_labels
            volumes = Volumes(pet, ct, labels == first, labels == second)
    check_volume(volumes.pet, patient.id, "PET")
    check_volume(volumes.ct, patient.id, "CT")
    return volumes
