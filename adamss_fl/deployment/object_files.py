"""The larger objects of Flower's messages in files, where Flower keeps them in SQLite or in memory.

A model travels as objects of some MB. A SuperLink writes each to its database, copies it from the journal, reads it for
every site and deletes it again; between processes of one machine each goes through HTTP. A file is written once and
read from the system's cache, by the SuperLink as by the server's app, by a SuperNode as by its clients. What is known
of an object (that it is announced, that it has come, who refers to it) stays where it was, so that a SuperLink that was
killed finds everything again.
"""

import hashlib
import os
import re
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import compare_digest
from typing import Any

FOLDER = "objects"
"""Where the files are, in the state folder of a server or of a site."""

LEAST_BYTES = 1 << 16
"""An object smaller than this is in no file."""

_IN_FILE = b"in a file"
"""Stored in place of the content; Flower takes nothing of this form for an object."""

_UNFINISHED_SECONDS = 3600
"""A file that was begun so long ago is finished by nobody."""

LOOKS: dict[str, Any] = {"initial_backoff": 0.05, "backoff_cap": 0.4}
"""Seconds between two looks for a part of a message that has not come yet, as Flower names them: at first, at most."""

_ID = re.compile(r"[0-9a-f]{64}")

Pull = Callable[[str], bytes]
Push = Callable[[str, bytes], None]


class ObjectFiles:
    """Flower's ObjectStore over another one of them, with the larger contents in files named by their hash.

    store : Flower's own, of which the caller has turned the check of contents off.
    check : raises ValueError where a content (second) is no object of the given ID, the hash of it (first).
    folder : where the files are; files that no object refers to any more are removed from it as new ones are announced.
    word : a secret of this machine's processes. Who sends it in place of an object has put that into the folder itself
        (see :func:`into_files`).
    """

    def __init__(self, store: Any, folder: Path, check: Push, word: bytes) -> None:
        self._store = store
        self._folder = folder
        self._check = check
        self._word = word
        self._names = threading.Lock()  # held while a file gets its name or loses it
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

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
        is_word = compare_digest(object_content, self._word)
        given = read(self._folder, object_id) if is_word else None
        self._check(object_id, object_content if given is None else given)
        if given is None and len(object_content) >= LEAST_BYTES:
            with self._names:
                write(self._folder, object_id, object_content)
        is_small = given is None and len(object_content) < LEAST_BYTES
        self._store.put(object_id, object_content if is_small else _IN_FILE)

    def get(self, object_id: str) -> bytes | None:
        """The content; empty where it has not come yet, None where the object is not known or its file is damaged.

        A file is damaged where the machine, not only the process, went down before the content was on the disk.
        """
        content: bytes | None = self._store.get(object_id)
        return read(self._folder, object_id) if content == _IN_FILE else content

    def _sweep(self) -> None:
        """Remove files of objects that the store has no more, as far as a database has committed that.

        So is what a process that was killed has half written; another may be writing at this moment.
        """
        with self._names:
            for path in self._folder.iterdir():
                with suppress(FileNotFoundError):  # finished meanwhile, and so of another name
                    is_old = time.time() - path.stat().st_mtime > _UNFINISHED_SECONDS
                    if is_old if path.name.startswith(".") else path.name not in self._store:
                        path.unlink()


def from_files(folder: Path, pull: Pull) -> Pull:
    """``pull``, which fetches the object of an ID, but from ``folder`` where the object is there."""

    def pulled(object_id: str) -> bytes:
        content = read(folder, object_id)
        return pull(object_id) if content is None else content

    return pulled


def into_files(folder: Path, push: Push, word: bytes) -> Push:
    """``push``, which sends an object under its ID, but a larger one by way of ``folder`` and ``word`` in its place."""

    def pushed(object_id: str, content: bytes) -> None:
        if len(content) >= LEAST_BYTES:
            write(folder, object_id, content)
            content = word
        push(object_id, content)

    return pushed


def read(folder: Path, object_id: str) -> bytes | None:
    """The object of that ID, which is its SHA-256; None where there is no whole file of it."""
    if not _ID.fullmatch(object_id):
        return None
    try:
        content = (folder / object_id).read_bytes()
    except FileNotFoundError:
        return None
    return content if hashlib.sha256(content).hexdigest() == object_id else None


def write(folder: Path, object_id: str, content: bytes) -> None:
    """Write an object's file, whole or not at all. It is not forced onto the disk: :func:`read` finds damage."""
    unfinished = folder / f".{uuid.uuid4().hex}"
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, folder / object_id)
    finally:
        unfinished.unlink(missing_ok=True)
