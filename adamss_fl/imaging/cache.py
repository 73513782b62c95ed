"""Prepared arrays on disk, valid only for the settings and the source files that made them.

An entry is ``PATIENT-KEY.image.npy``, ``PATIENT-KEY.mask.npy`` (where there is a mask) and ``PATIENT-KEY.json``, which
is written last and holds the checksums of the other two and the voxel spacing of the images as read. An entry that
lacks it or disagrees with it is made anew.
"""

import hashlib
import io
import json
import os
import re
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.imaging.settings import ImagingSettings

if TYPE_CHECKING:
    from adamss_fl.cohort.records import Patient

# Raise it whenever the same settings and files would give other arrays than before.
FORMAT = 2

Axes = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A patient on the model's grid.

    image : float32 (2, D, H, W); mask : uint8 (2, D, H, W) or None.
    pet_spacing_mm, ct_spacing_mm : voxel spacing along x, y and z of the images as they were read.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.uint8] | None
    pet_spacing_mm: Axes
    ct_spacing_mm: Axes


@dataclass(frozen=True)
class SampleCache:
    """Arrays by patient below ``folder``, for one ``settings``."""

    folder: Path
    settings: ImagingSettings

    def get_or_make(self, patient: "Patient", make: Callable[[], Prepared]) -> Prepared:
        """The patient's entry, its arrays memory-mapped and read-only; ``make`` is called where there is no whole one.

        Two processes that make the same entry at once both leave a whole one: every file is written beside and renamed.
        """
        stem = self.folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', patient.id)}-{self.key(patient)[:20]}"
        found = _read(stem)
        if found is not None:
            return found
        made = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        record: dict[str, Any] = {name: getattr(made, name) for name in _SPACINGS}
        record["image"] = _write_array(_file(stem, "image"), made.image)
        if made.mask is not None:
            record["mask"] = _write_array(_file(stem, "mask"), made.mask)
        write_whole(stem.with_name(f"{stem.name}.json"), json.dumps(record).encode())
        return _read(stem) or made

    def key(self, patient: "Patient") -> str:
        """SHA-256 of all that decides the arrays: settings, format, and the source files' name, size and time."""
        sources: list[list[str | int]] = []
        for path in (patient.pet, patient.ct, patient.mask):
            if path is not None:
                sources.append([path.name, *_size_and_time(path, patient.id)])
        record = {
            "format": FORMAT,
            "settings": asdict(self.settings),
            "patient": [patient.site, patient.id],
            "sources": sources,
        }
        return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


_SPACINGS = ("pet_spacing_mm", "ct_spacing_mm")


def _size_and_time(path: Path, patient: str) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"patient {patient}: {path}: no such file; restore it or leave the patient out") from error
    return status.st_size, status.st_mtime_ns


def _file(stem: Path, array: str) -> Path:
    return stem.with_name(f"{stem.name}.{array}.npy")


def _read(stem: Path) -> Prepared | None:
    """The entry, or None where it is absent or not whole."""
    try:
        record = json.loads(stem.with_name(f"{stem.name}.json").read_bytes())
        image = _read_array(_file(stem, "image"), record["image"])
        mask = _read_array(_file(stem, "mask"), record["mask"]) if "mask" in record else None
        return Prepared(image, mask, *(_axes(record[name]) for name in _SPACINGS))
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None


def _axes(spacing: Any) -> Axes:
    x, y, z = spacing
    return float(x), float(y), float(z)


def _read_array(path: Path, checksum: int) -> Any:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if _checksum(array) != checksum:
        raise ValueError(f"{path} does not agree with its checksum")
    return array


def _checksum(array: NDArray[Any]) -> int:
    return zlib.crc32(array.data)


def _write_array(path: Path, array: NDArray[Any]) -> int:
    """Write ``array`` whole or not at all; returns the CRC-32 of its voxels."""
    array = np.ascontiguousarray(array)
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    write_whole(path, buffer.getbuffer())
    return _checksum(array)


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Write beside ``path`` and rename: any number of processes may do it at once, and no reader sees a part."""
    handle, beside = tempfile.mkstemp(prefix=".", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(beside, path)
    except BaseException:
        os.unlink(beside)
        raise
