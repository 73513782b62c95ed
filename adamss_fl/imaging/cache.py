"""Prepared arrays on disk, valid only for the settings and the source files that made them.

An entry is ``PATIENT-KEY.image.npy``, ``PATIENT-KEY.mask.npy`` (where there is a mask) and ``PATIENT-KEY.json``, which
is written last and holds the checksums of the other two. An entry that lacks it or disagrees with it is made anew.
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
FORMAT = 1

Arrays = tuple[NDArray[np.float32], NDArray[np.uint8] | None]


@dataclass(frozen=True)
class SampleCache:
    """Arrays by patient below ``folder``, for one ``settings``."""

    folder: Path
    settings: ImagingSettings

    def get_or_make(self, patient: "Patient", make: Callable[[], Arrays]) -> Arrays:
        """The patient's arrays, memory-mapped and read-only; ``make`` is called where there is no whole entry.

        Two processes that make the same entry at once both leave a whole one: every file is written beside and renamed.
        """
        stem = self.folder / f"{re.sub(r'[^A-Za-z0-9._-]', '_', patient.id)}-{self.key(patient)[:20]}"
        found = _read(stem)
        if found is not None:
            return found
        image, mask = make()
        self.folder.mkdir(parents=True, exist_ok=True)
        checksums = {"image": _write_array(_file(stem, "image"), image)}
        if mask is not None:
            checksums["mask"] = _write_array(_file(stem, "mask"), mask)
        write_whole(stem.with_name(f"{stem.name}.json"), json.dumps(checksums).encode())
        return _read(stem) or (image, mask)

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


def _size_and_time(path: Path, patient: str) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"patient {patient}: {path}: no such file; restore it or leave the patient out") from error
    return status.st_size, status.st_mtime_ns


def _file(stem: Path, array: str) -> Path:
    return stem.with_name(f"{stem.name}.{array}.npy")


def _read(stem: Path) -> Arrays | None:
    """The entry's arrays, or None where it is absent or not whole."""
    try:
        checksums = json.loads(stem.with_name(f"{stem.name}.json").read_bytes())
        image = _read_array(_file(stem, "image"), checksums["image"])
        mask = _read_array(_file(stem, "mask"), checksums["mask"]) if "mask" in checksums else None
    except (OSError, ValueError, EOFError, KeyError, TypeError):
        return None
    return image, mask


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
