"""What SimpleITK hides about a NIfTI file: its reader turns NaN and infinity into 0 without a word."""

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

HEADER_BYTES = 348
# Offsets and codes of the NIfTI-1 header: https://nifti.nimh.nih.gov/nifti-1
DATATYPE_OFFSET, VOX_OFFSET_OFFSET = 70, 108
FLOAT_TYPES = {16: "f4", 64: "f8"}
CHUNK_BYTES = 1 << 22


def has_non_finite(path: Path) -> bool:
    """Whether a single-file NIfTI-1 volume (``.nii``, ``.nii.gz``) of floating point holds NaN or infinity.

    False for integer volumes and for files that are not NIfTI-1. The file is read piece by piece.
    Raises OSError or EOFError where it is cut short.
    """
    with _open(path) as file:
        header = file.read(HEADER_BYTES)
        order = _byte_order(header)
        if order is None:
            return False
        code = FLOAT_TYPES.get(struct.unpack_from(f"{order}h", header, DATATYPE_OFFSET)[0])
        if code is None:
            return False
        start = int(struct.unpack_from(f"{order}f", header, VOX_OFFSET_OFFSET)[0])
        file.read(max(start - HEADER_BYTES, 0))
        dtype = np.dtype(f"{order}{code}")
        return any(not np.isfinite(np.frombuffer(chunk, dtype)).all() for chunk in _chunks(file, dtype.itemsize))


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _byte_order(header: bytes) -> str | None:
    """``<`` or ``>`` by the header's own size field, or None where this is no NIfTI-1 file."""
    if len(header) < HEADER_BYTES:
        return None
    return next((order for order in "<>" if struct.unpack_from(f"{order}i", header)[0] == HEADER_BYTES), None)


def _chunks(file: BinaryIO, item_bytes: int) -> Iterator[bytes]:
    """The rest of ``file`` in pieces of whole items."""
    rest = b""
    while piece := file.read(CHUNK_BYTES):
        piece = rest + piece
        whole = len(piece) - len(piece) % item_bytes
        rest = piece[whole:]
        yield piece[:whole]
