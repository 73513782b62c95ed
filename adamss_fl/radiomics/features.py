"""Radiomics features of a patient's predicted masks, and their cache on disk."""

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.imaging.cache import write_whole
from adamss_fl.imaging.settings import ImagingSettings
from adamss_fl.plugins import create
from adamss_fl.radiomics.extraction import FeatureExtractor
from adamss_fl.radiomics.settings import MaskName, RadiomicsSettings

MARGIN_VOXELS = 16
"""How far beyond a mask's bounding box an extractor sees, where the image reaches so far; a coif1 wavelet needs 4."""

CHANNELS: tuple[str, ...] = get_args(MaskName)
"""Which channel of the predicted masks is which."""

# Raise it whenever the same voxels, masks and settings would give other features than before.
FORMAT = 1

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Features:
    """One patient's features.

    names : F names ``<mask>.<image>...``, for example ``tumour.pet.original.firstorder.Mean``.
    values : (F,) float64; NaN where the feature does not exist.
    missing : a mask had fewer voxels than ``min_voxels``, or none of its features exist.
    """

    names: tuple[str, ...]
    values: NDArray[np.float64]
    missing: bool

    def mapping(self) -> dict[str, float]:
        """Name -> value, as ``TabularEncoding.encode`` takes it."""
        return dict(zip(self.names, self.values.tolist(), strict=True))


@dataclass(frozen=True)
class RadiomicsExtraction:
    """The extraction that training and inference share, fixed by ``settings`` and ``imaging``.

    cache : folder of finished features, made where it is missing; None computes every time. An entry is found by the
        voxels that the extractor saw and by all settings, so it cannot be stale; a damaged one is made anew.

    An unknown extractor or setting is an InputError as soon as ``names`` or ``of`` is used.
    """

    settings: RadiomicsSettings
    imaging: ImagingSettings
    cache: Path | None = None

    @cached_property
    def extractor(self) -> FeatureExtractor:
        """The plugin that the settings name."""
        made = create("feature_extractor", self.settings.extractor, self.settings.settings, "tabular.radiomics")
        if not isinstance(made, FeatureExtractor):
            raise InputError(
                f"tabular.radiomics.extractor: '{self.settings.extractor}' made a {type(made).__name__}, which has no "
                "names() and __call__; mend the plugin"
            )
        return made

    @cached_property
    def names(self) -> tuple[str, ...]:
        """(F,) names, mask by mask in the order of ``settings.masks``."""
        return tuple(f"{mask}.{name}" for mask in self.settings.masks for name in self.extractor.names())

    def of(self, patient_id: str, image: NDArray[np.float32], masks: NDArray[np.bool_]) -> Features:
        """Features of one patient.

        image : float32 (2, D, H, W), PET and CT scaled to [0, 1], as ``Sample.image``. What the scaling clipped stays
            clipped: features see the intensities that the network sees.
        masks : bool (2, D, H, W), the predicted tumour and nodes.
        Raises InputError for other shapes, and what the extractor raises.
        """
        if image.ndim != 4 or masks.shape != image.shape or image.shape[0] != 2:
            raise InputError(
                f"radiomics: patient {patient_id}: image {image.shape} and masks {masks.shape} must both be "
                "(2, D, H, W)"
            )
        parts = [self._of_mask(patient_id, image, masks[CHANNELS.index(mask)]) for mask in self.settings.masks]
        missing = any(bool(np.isnan(part).all()) for part in parts)
        return Features(self.names, np.concatenate(parts), missing)

    def _of_mask(self, patient_id: str, image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
        length = len(self.names) // len(self.settings.masks)
        if int(np.count_nonzero(mask)) < self.settings.min_voxels:
            return np.full(length, math.nan)
        box = _surroundings(mask)
        pair, inside = np.ascontiguousarray(image[(slice(None), *box)]), np.ascontiguousarray(mask[box])
        entry = None if self.cache is None else self._entry(self.cache, patient_id, pair, inside)
        if entry is not None and (found := _read(entry, length)) is not None:
            return found
        suv, hu = intensities(pair, self.imaging)
        given = self.extractor(suv, hu, inside, self.imaging.spacing_mm)
        values = _in_order(given, self.extractor.names(), self.settings.extractor)
        if entry is not None:
            _write(entry, values)
        return values

    def _entry(self, folder: Path, patient_id: str, pair: NDArray[np.float32], inside: NDArray[np.bool_]) -> Path:
        digest = hashlib.blake2b(self.key, digest_size=20)
        digest.update(repr(inside.shape).encode())
        digest.update(np.packbits(inside).data)
        digest.update(pair.data)
        return folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', patient_id)}-{digest.hexdigest()}.radiomics.npz"

    @cached_property
    def key(self) -> bytes:
        """All settings that decide a mask's features, as bytes that are the same in every process."""
        record = {
            "format": FORMAT,
            "extractor": [self.settings.extractor, self.settings.settings],
            "defaults": repr(self.extractor) if is_dataclass(self.extractor) else None,
            "names": self.extractor.names(),
            "imaging": asdict(self.imaging),
        }
        return json.dumps(record, sort_keys=True, default=str).encode()


def intensities(image: NDArray[Any], settings: ImagingSettings) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """PET in SUV and CT in HU, (D, H, W) each, from an image (2, D, H, W) scaled to [0, 1]."""
    low, high = settings.ct_hu_window
    pet, ct = image.astype(np.float64)
    return pet * settings.pet_suv_max, ct * (high - low) + low


def _surroundings(mask: NDArray[np.bool_]) -> Box:
    """The mask's bounding box, grown by ``MARGIN_VOXELS`` inside the image."""
    sides = []
    for axis in range(3):
        places = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        low, high = int(places[0]) - MARGIN_VOXELS, int(places[-1]) + 1 + MARGIN_VOXELS
        sides.append(slice(max(low, 0), min(high, mask.shape[axis])))
    return sides[0], sides[1], sides[2]


def _in_order(given: Mapping[str, float], names: tuple[str, ...], extractor: str) -> NDArray[np.float64]:
    if set(given) != set(names):
        odd = sorted(set(given) ^ set(names))
        raise InputError(
            f"feature_extractor '{extractor}': {len(odd)} features, {odd[0]!r} first, are named and not returned or "
            "returned and not named; mend the plugin"
        )
    values = np.array([given[name] for name in names], dtype=np.float64)
    values[~np.isfinite(values)] = math.nan
    return values


def _read(path: Path, length: int) -> NDArray[np.float64] | None:
    """The entry's values, or None where it is absent or not whole; the archive holds its own checksum."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            values: NDArray[np.float64] = archive["values"]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        return None
    return values if values.shape == (length,) and values.dtype == np.float64 else None


def _write(path: Path, values: NDArray[np.float64]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, values=values)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, buffer.getbuffer())
