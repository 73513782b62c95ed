"""Files that are whole or absent: written beside, fsynced, renamed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``; a reader or a crash sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file atomically; raises ValueError for NaN and infinity, which JSON does not have."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False, sort_keys=False) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` outlast a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
