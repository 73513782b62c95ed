"""A site's audit log: every message in and out, one JSON object a line, each with the hash of the line before.

``audit.jsonl`` is the newest file and ``audit-000001.jsonl``, ``audit-000002.jsonl``, ... are the older ones; the chain
runs through all of them. ``audit.head`` holds number and hash of the last entry, so that a log cut short is found too.
The chain shows that a log was altered afterwards; it cannot stop whoever may write all of its files from making a new
one. A copy of ``audit.head`` kept elsewhere does.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.federation.files import locked, sync_folder, write_json
from adamss_fl.federation.guard.audit_files import (
    Direction,
    Entry,
    Head,
    clean,
    head_path,
    last_line,
    line_hash,
    lock_path,
    log_files,
    next_archive,
    read_entry,
    read_head,
)


class AuditLog:
    """Appends entries, from any number of processes and threads at once.

    path : the newest file, ``audit.jsonl``. rotate_bytes : a file of this size is put aside before the next entry.

    A line that a crash tore is moved to a file of its own, and the chain goes on with an entry that says so. It always
    goes on from ``audit.head``, so that lines cut from the end stay missing for ever.
    """

    def __init__(self, path: Path, rotate_bytes: int = 16_000_000) -> None:
        self.path = path
        self.rotate_bytes = rotate_bytes

    def append(
        self,
        direction: Direction,
        kind: str,
        run: str,
        round: int,
        attempt: int,
        digest: str,
        size: int,
        decision: str,
        code: str = "",
    ) -> Entry:
        """Add one entry and return it; it is on the disk when this returns. Raises OSError where it cannot be kept."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock_path(self.path)):
            head = self._recovered()
            if self.path.exists() and self.path.stat().st_size >= self.rotate_bytes:
                self.path.rename(next_archive(self.path))
                sync_folder(self.path.parent)
            told = (clean(kind), clean(run), round, attempt, digest, size, clean(decision), clean(code))
            return self._write(head, direction, *told)[0]

    def _recovered(self) -> Head:
        """The head that the next entry follows, after what a crash or a hand left has been noted."""
        known = read_head(self.path)
        torn = self._set_torn_line_aside(0 if known is None else known.n)
        files = log_files(self.path)
        line = next((found for file in reversed(files) if (found := last_line(file)[0])), b"")
        entry = read_entry(line)
        last = Head() if entry is None else Head(entry.n, line_hash(line))
        head = last if known is None else known
        if entry is not None and (entry.n, entry.previous) == (head.n + 1, head.hash):
            head = last  # a crash between the line and the head
        if torn is not None:
            head = self._write(head, "note", "log", "", 0, 0, *torn, "noted", "torn_line")[1]
        if known is None and line:
            head = self._write(head, "note", "log", "", 0, 0, "", 0, "noted", "head_missing")[1]
        return head

    def _set_torn_line_aside(self, n: int) -> tuple[str, int] | None:
        """Move what follows the last line end into a file beside; (its SHA-256, its size), None where nothing does."""
        torn = last_line(self.path)[1] if self.path.exists() else b""
        if not torn:
            return None
        with self.path.with_name(f"{self.path.stem}.torn-{n + 1:06d}").open("ab") as aside:
            aside.write(torn)
            aside.flush()
            os.fsync(aside.fileno())
        with self.path.open("rb+") as file:
            file.truncate(file.seek(0, os.SEEK_END) - len(torn))
            os.fsync(file.fileno())
        return hashlib.sha256(torn).hexdigest(), len(torn)

    def _write(self, head: Head, *told: Any) -> tuple[Entry, Head]:
        entry = Entry(head.n + 1, datetime.now(UTC).isoformat(timespec="milliseconds"), head.hash, *told)
        line = json.dumps(asdict(entry), allow_nan=False).encode()
        is_new = not self.path.exists()
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "wb") as file:
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            sync_folder(self.path.parent)
        head = Head(entry.n, line_hash(line))
        write_json(head_path(self.path), asdict(head), private=True)
        return entry, head


@dataclass(frozen=True)
class AuditReport:
    """What :func:`verify` found.

    entries, files : how many there are. first, last : times of the oldest and the newest entry, None where there is
    none. problems : what is wrong, each with its file and line; empty where the chain is whole. notes : what a crash
    left, which is no sign of a change; the next entry mends it.
    """

    entries: int
    files: int
    first: str | None
    last: str | None
    problems: tuple[str, ...]
    notes: tuple[str, ...] = ()


def verify(path: Path) -> AuditReport:
    """Follow the chain through all files of the log whose newest is ``path``, and compare its end with the head.

    Raises InputError where there is no log, or a file cannot be read.
    """
    lock = lock_path(path)
    # A copy of a log, on a medium that cannot be written, has no one who appends to it.
    with locked(lock, shared=True) if os.access(lock, os.W_OK) else nullcontext():
        if not log_files(path) and read_head(path) is None:
            raise InputError(f"{path}: there is no audit log; nothing has passed here, or the folder is another")
        return _verified(path)


def _verified(path: Path) -> AuditReport:
    problems: list[str] = []
    notes: list[str] = []
    head = read_head(path)
    files = log_files(path)
    _find_gaps(path, files, problems)
    entries, times, end, before_end = 0, [], Head(), Head()
    for where, line, is_whole in _lines(files):
        if not is_whole and where.startswith(f"{path.name}:") and (head is None or end == head):
            notes.append(f"{where}: a crash tore this line; the next entry will set it aside")
            continue
        entry = read_entry(line) if is_whole else None
        if entry is None:
            problems.append(f"{where}: is no entry of an audit log: entry {end.n + 1} was changed, or text was put in")
            before_end, end = end, Head(end.n + 1, line_hash(line))
            continue
        if entry.n != end.n + 1:
            problems.append(f"{where}: {_order_problem(entry.n, end.n)}")
        elif entry.previous != end.hash:
            what = f"entry {end.n} was changed" if end.n else "this is not where the log began"
            problems.append(f"{where}: {what}: entry {entry.n} holds another hash of the line before it")
        before_end, end = end, Head(entry.n, line_hash(line))
        entries += 1
        times.append(entry.time)
    if head is None:
        problems.append(f"{head_path(path).name}: is missing or unreadable, so that a cut at the end cannot be seen")
    elif before_end == head and end.n == head.n + 1:
        notes.append(f"{path.name}: a crash came between entry {end.n} and {head_path(path).name}; the next mends it")
    elif end.n < head.n:
        problems.append(f"{path.name}: {_missing(end.n + 1, head.n)} missing at the end")
    elif end != head:
        problems.append(
            f"{path.name}: the last entry, {end.n}, is not the one that {head_path(path).name} holds, {head.n}: it was "
            "changed, or entries were added by hand"
        )
    first, last = (times[0], times[-1]) if times else (None, None)
    return AuditReport(entries, len(files), first, last, tuple(problems), tuple(notes))


def last_entries(path: Path, count: int) -> list[Entry]:
    """The newest ``count`` entries of the log, oldest first. Raises InputError where a file cannot be read."""
    found: list[Entry] = []
    for file in reversed(log_files(path)):
        if len(found) >= count:
            break
        read = (read_entry(line) for _, line, _ in _lines([file]))
        found = [*(entry for entry in read if entry is not None), *found]
    return found[-count:] if count > 0 else []


def _lines(files: list[Path]) -> Iterator[tuple[str, bytes, bool]]:
    """(``file:line``, the line without its end, whether it has one) of all files in order."""
    for file in files:
        try:
            with file.open("rb") as lines:
                for number, line in enumerate(lines, 1):
                    yield f"{file.name}:{number}", line.removesuffix(b"\n"), line.endswith(b"\n")
        except OSError as error:
            raise InputError(f"{file}: cannot be read: {error.strerror}") from error


def _find_gaps(path: Path, files: list[Path], problems: list[str]) -> None:
    """Add a problem for every older file that is missing, by the numbers in the names."""
    numbers = {int(file.stem.rpartition("-")[2]) for file in files if file != path}
    missing = sorted(set(range(1, max(numbers, default=0))) - numbers)
    problems.extend(f"{path.stem}-{number:06d}{path.suffix}: the file is missing" for number in missing)


def _order_problem(n: int, before: int) -> str:
    if n > before + 1:
        return f"{_missing(before + 1, n - 1)} missing before entry {n}"
    return f"entry {n} stands after entry {before}: it was put in, or the order was changed"


def _missing(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"
