"""The event log: append-only, readable after any crash."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adamss_fl.federation.events import EventLog, read_events


class Recorder:
    """A tracker that remembers what it was given."""

    def __init__(self) -> None:
        self.seen: list[Mapping[str, Any]] = []

    def start(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        """Nothing to open."""

    def log(self, record: Mapping[str, Any]) -> None:
        self.seen.append(record)

    def finish(self) -> None:
        """Nothing to close."""


def test_events_are_one_object_a_line_with_time_kind_round_site_and_figures(tmp_path: Path) -> None:
    recorder = Recorder()
    log = EventLog(tmp_path / "run" / "events.jsonl", [recorder])
    log.write("round_start", 1, stages=["survival"])
    log.write("train", 1, "site-ä", figures={"loss.survival": 0.1})
    lines = (tmp_path / "run" / "events.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert found == list(read_events(log.path)) == recorder.seen
    assert list(found[1]) == ["time", "kind", "round", "site", "figures"]
    assert "site" not in found[0]
    assert all(datetime.fromisoformat(event["time"]).tzinfo is not None for event in found)


def test_a_new_log_on_an_old_file_goes_on_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(path).write("first")
    EventLog(path).write("second")
    assert [event["kind"] for event in read_events(path)] == ["first", "second"]


@given(cut=st.integers(1, 60))
def test_a_torn_line_is_passed_over_and_swallows_no_later_event(
    cut: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The last line loses ``cut`` bytes; a cut of one takes the newline alone, and the event is still whole."""
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    log = EventLog(path)
    log.write("whole", 1)
    log.write("torn", 2, figures={"loss": 0.5})
    path.write_bytes(path.read_bytes()[:-cut])
    before = [event["kind"] for event in read_events(path)]
    assert before == (["whole", "torn"] if cut == 1 else ["whole"])
    EventLog(path).write("after", 3)
    assert [event["kind"] for event in read_events(path)] == [*before, "after"]


def test_an_event_with_nan_is_refused_and_leaves_no_part_of_itself(tmp_path: Path) -> None:
    recorder = Recorder()
    log = EventLog(tmp_path / "events.jsonl", [recorder])
    log.write("first")
    with pytest.raises(ValueError, match="JSON"):
        log.write("second", figures={"loss": float("nan")})
    assert [event["kind"] for event in read_events(log.path)] == ["first"]
    assert len(recorder.seen) == 1


def test_an_absent_or_empty_log_has_no_events(tmp_path: Path) -> None:
    assert list(read_events(tmp_path / "none.jsonl")) == []
    (tmp_path / "empty.jsonl").touch()
    EventLog(tmp_path / "empty.jsonl")
    assert list(read_events(tmp_path / "empty.jsonl")) == []
