"""A SuperLink's larger objects in files, where Flower keeps them in its SQLite database.

A model travels as objects of some MB, each written to the database, copied from its journal, read for every site and
deleted again: with the published network that takes half of the time of a round. A file is written once and read from
the system's cache. What is known of an object (that it is announced, that it has come, who refers to it) stays in the
database, so that a SuperLink that was killed finds everything again.
"""

import hashlib
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

LEAST_BYTES = 1 << 16
"""An object smaller than this stays in the database."""

_IN_FILE = b"in a file"
"""In the database in place of the content; Flower takes nothing of this form for an object."""


class ObjectFiles:
    """Flower's ObjectStore over another one of them, with the larger contents in files named by their hash.

    store : Flower's own, of which the caller has turned the check of contents off.
    check : raises ValueError where a content (second) is no object of the given ID, the hash of it (first).
    folder : where the files are; files that no object refers to any more are removed from it as new ones are announced.
    """

    def __init__(self, store: Any, folder: Path, check: Callable[[str, bytes], None]) -> None:
        self._store = store
        self._folder = folder
        self._check = check
        self._names = threading.Lock()  # held while a file gets its name or loses it
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for unfinished in folder.glob(".*"):
            unfinished.unlink()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __contains__(self, object_id: str) -> bool:
        return object_id in self._store

    def __len__(self) -> int:
        return len(self._store)

    def preregister(self, run_id: int, object_tree: Any) -> Any:
        """Announce objects, as the store does, and remove the files of those that are gone."""
        self._sweep()
        return self._store.preregister(run_id, object_tree)

    def put(self, object_id: str, object_content: bytes) -> None:
        """Store an announced object. Raises ValueError where the content is another's, OSError on a full disk."""
        self._check(object_id, object_content)
        if len(object_content) < LEAST_BYTES:
            self._store.put(object_id, object_content)
            return
        unfinished = self._folder / f".{uuid.uuid4().hex}"
        try:
            unfinished.write_bytes(object_content)
            with self._names:
                os.replace(unfinished, self._folder / object_id)
        finally:
            unfinished.unlink(missing_ok=True)
        self._store.put(object_id, _IN_FILE)

    def get(self, object_id: str) -> bytes | None:
        """The content; empty where it has not come yet, None where the object is not known or its file is damaged.

        A file is damaged where the machine, not only the SuperLink, went down before the content was on the disk.
        """
        content: bytes | None = self._store.get(object_id)
        if content != _IN_FILE:
            return content
        try:
            found = (self._folder / object_id).read_bytes()
        except FileNotFoundError:
            return None
        return found if hashlib.sha256(found).hexdigest() == object_id else None

    def _sweep(self) -> None:
        """Remove files of objects that the database has no more, as far as it has been committed."""
        with self._names:
            for path in self._folder.iterdir():
                if not path.name.startswith(".") and path.name not in self._store:
                    path.unlink()
