"""Looking on at a run: who is told to be absent, and who only keeps a figure back."""

import json
from pathlib import Path

import pytest

from adamss_fl.cli import following


def test_absences_are_told_once_and_a_figure_kept_back_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "events.jsonl"
    assert following._tell_events(path, 0) == 0

    def note(**event: object) -> None:
        with path.open("a") as file:
            file.write(json.dumps(event) + "\n")

    note(kind="absence", round=0, site="hospital-1", cause="statistic_not_allowed", detail="")
    note(kind="round_start", round=3)
    note(kind="absence", round=3, site="hospital-2", cause="deadline", detail="")
    seen = following._tell_events(path, 0)
    told = "".join(capsys.readouterr())
    assert told.splitlines() == [
        "round 0: the policy of hospital-1 keeps back a figure that was asked for (statistic_not_allowed)",
        "round 3: hospital-2 is absent: deadline",
    ]
    with path.open("a") as file:
        file.write('{"kind": "abs')
    assert following._tell_events(path, seen) == seen
    assert "".join(capsys.readouterr()) == ""
