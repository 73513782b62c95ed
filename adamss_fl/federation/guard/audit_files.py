"""The audit log on disk: its entries, its files in order, its head, and how each is read."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Direction = Literal["in", "out", "note"]
"""To the site, from it, or about the log itself."""

FIRST_PREVIOUS = "0" * 64
"""What the first entry has for the hash of the line before it."""

MOST_CHARACTERS = 128
"""Texts that a server chose are cut to this in the log; the digest is of the whole message."""


@dataclass(frozen=True)
class Entry:
    """One line of the log.

    n : counted from 1 through all files. time : UTC. previous : SHA-256 of the line before, without its line end.
    digest, size : of the message, see :func:`message_digest`. decision : ``allowed``, ``answered``, ``refused`` or
    ``noted``; code : why it was refused, or what is noted.
    """

    n: int
    time: str
    previous: str
    direction: str
    kind: str
    run: str
    round: int
    attempt: int
    digest: str
    size: int
    decision: str
    code: str


@dataclass(frozen=True)
class Head:
    """Number and hash of the last entry."""

    n: int = 0
    hash: str = FIRST_PREVIOUS


def log_files(path: Path) -> list[Path]:
    """The files of the log whose newest is ``path``, oldest first."""
    archives = sorted(path.parent.glob(f"{path.stem}-[0-9]*{path.suffix}"))
    return [*archives, *([path] if path.exists() else [])]


def head_path(path: Path) -> Path:
    """``audit.head`` of ``audit.jsonl``."""
    return path.with_suffix(".head")


def lock_path(path: Path) -> Path:
    """``audit.lock`` of ``audit.jsonl``."""
    return path.with_suffix(".lock")


def read_head(path: Path) -> Head | None:
    """The head of the log ``path``; None where it is missing or is no head."""
    try:
        found = json.loads(head_path(path).read_text(encoding="utf-8"))
        head = Head(found["n"], found["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return head if type(head.n) is int and isinstance(head.hash, str) else None


def line_hash(line: bytes) -> str:
    """SHA-256 of a line without its line end."""
    return hashlib.sha256(line).hexdigest()


def read_entry(line: bytes) -> Entry | None:
    """The entry that ``line`` holds; None where it holds none."""
    try:
        found = json.loads(line)
        entry = Entry(**found)
    except (ValueError, TypeError, RecursionError):
        return None
    kinds = Entry.__annotations__
    return entry if all(type(value) is kinds[name] for name, value in found.items()) else None


def clean(text: str) -> str:
    """``text`` without characters that a terminal would obey, and no longer than a log needs."""
    return "".join(each if each.isprintable() else "?" for each in text[:MOST_CHARACTERS])


def next_archive(path: Path) -> Path:
    """Where the newest file goes when it is put aside."""
    numbers = [int(file.stem.rpartition("-")[2]) for file in log_files(path) if file != path]
    return path.with_name(f"{path.stem}-{max(numbers, default=0) + 1:06d}{path.suffix}")


def last_line(path: Path) -> tuple[bytes, bytes]:
    """(the last whole line of a file without its line end, what follows it); empty where there is none."""
    block, data = 1 << 16, b""
    with path.open("rb") as file:
        start = file.seek(0, os.SEEK_END)
        while start and data.count(b"\n") < 2:
            length = min(block, start)
            start = file.seek(start - length)
            data = file.read(length) + data
    whole, line_end, torn = data.rpartition(b"\n")
    return (whole.rpartition(b"\n")[2], torn) if line_end else (b"", data)
