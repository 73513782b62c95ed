"""Files that are whole or absent: written beside, fsynced, renamed."""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes, private: bool = False) -> None:
    """Replace ``path`` by ``data``; a reader or a crash sees the old file or the new one, never a part.

    private : only the owner may read the file (mode 0600).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666), "wb") as file:
        if private:
            os.fchmod(file.fileno(), 0o600)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, content: Mapping[str, Any], private: bool = False) -> None:
    """Write a JSON file atomically; raises ValueError for NaN and infinity, which JSON does not have."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False, sort_keys=False) + "\n").encode(), private)


@contextmanager
def locked(path: Path, shared: bool = False) -> Iterator[None]:
    """Hold the lock file ``path`` (made where it is missing) against every other process and thread.

    shared : readers may hold it together. The lock goes with its holder, however that ends.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` outlast a crash."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
