"""The event log of a run: append-only JSON lines, the truth that reports and trackers read."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol


class Tracker(Protocol):
    """Extension point ``adamss_fl.tracker``: follows a run's events somewhere else."""

    def start(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        """Called once before the first event."""
        ...

    def log(self, record: Mapping[str, Any]) -> None:
        """Called with every event."""
        ...

    def finish(self) -> None:
        """Called once after the last event."""
        ...


class EventLog:
    """Append-only ``events.jsonl``: one object a line with time, kind, round, site where there is one, and figures."""

    def __init__(self, path: Path, trackers: Sequence[Tracker] = ()) -> None:
        self.path = path
        self.trackers = tuple(trackers)
        path.parent.mkdir(parents=True, exist_ok=True)
        _end_torn_line(path)

    def write(self, kind: str, round: int = 0, site: str | None = None, **fields: Any) -> None:
        """Append one event and pass it to the trackers. Raises ValueError for NaN, which JSON does not have."""
        record: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "kind": kind}
        record["round"] = round
        if site is not None:
            record["site"] = site
        record.update(fields)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        for tracker in self.trackers:
            tracker.log(record)


def read_events(path: Path) -> Iterator[dict[str, Any]]:
    """Events of a log in order; a line that a crash tore is passed over."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _end_torn_line(path: Path) -> None:
    """End a last line that a crash left without its newline, so that the next event stands on its own."""
    if path.exists() and path.stat().st_size:
        with path.open("rb+") as file:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
