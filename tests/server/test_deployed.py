"""Which Flower run may carry a submission, and what becomes of it where the server's disk is full."""

import errno
import hashlib
import importlib
import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError, pull_objects

from adamss_fl.deployment.submissions import Submissions
from adamss_fl.errors import AdamssError, InputError
from server.app import _run_deployed
from server.deployed import await_turn, pass_objects_in_files

TASK = "name: x\n"


@pytest.fixture
def submissions(tmp_path: Path) -> Submissions:
    found = Submissions(tmp_path)
    found.add("first", TASK)
    return found


def test_the_run_that_carries_it_now_goes_on_also_when_that_is_noted_late(submissions: Submissions) -> None:
    noted = threading.Timer(0.5, lambda: submissions.started("first", 7))
    noted.start()
    started = time.monotonic()
    await_turn(submissions, "first", 7, {"task": TASK}, seconds=30)
    assert time.monotonic() - started < 20
    noted.join()


def test_another_run_or_an_earlier_one_is_refused(submissions: Submissions) -> None:
    submissions.started("first", 7)
    with pytest.raises(AdamssError, match="does not carry it"):
        await_turn(submissions, "first", 8, {"task": TASK}, seconds=0.1)
    submissions.started("first", 9)
    with pytest.raises(AdamssError, match="does not carry it"):
        await_turn(submissions, "first", 7, {"task": TASK}, seconds=60)


def test_another_task_than_was_submitted_is_refused(submissions: Submissions) -> None:
    submissions.started("first", 7)
    with pytest.raises(AdamssError, match="another task"):
        await_turn(submissions, "first", 7, {"task": TASK + "seed: 3\n"})


def test_an_unknown_run_leaves_no_folder(submissions: Submissions, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run"):
        await_turn(submissions, "other", 7, {"task": TASK})
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["first"]


def run_that_fails(failure: OSError, submissions: Submissions, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Carry the submission ``first`` into a run that raises ``failure``."""
    task = f"name: x\nsites: [{{name: a, path: {state}}}]\n"
    (submissions.folder("first") / "task.yaml").write_text(task)
    (state / "registered.json").write_text("{}")
    submissions.started("first", 7)

    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr("adamss_fl.assembly.run_federation", fail)
    monkeypatch.setattr("server.app.GridSites", lambda *_, **__: None)
    _run_deployed(None, SimpleNamespace(run_id=7), {"run": "first", "task": task}, state)  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_pauses_the_run_and_says_so(
    code: int, submissions: Submissions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(code, os.strerror(code), "checkpoints/.round-0003.1.part/model.safetensors")
    run_that_fails(full, submissions, tmp_path, monkeypatch)
    outcome = submissions.outcome("first")
    assert outcome is not None
    assert outcome.state == "paused"
    assert os.strerror(code) in outcome.message
    assert "make room on the server's disk" in outcome.message


def test_any_other_failure_of_the_system_is_a_defect_and_is_not_hidden(
    submissions: Submissions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PermissionError):
        run_that_fails(PermissionError(errno.EACCES, "no"), submissions, tmp_path, monkeypatch)
    assert submissions.outcome("first") is None


def test_objects_pass_between_the_app_and_its_superlink_in_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid: Any = importlib.import_module("flwr.superlink.grid.http_grid")
    monkeypatch.setattr(grid, "pull_objects", grid.pull_objects)  # put back afterwards
    monkeypatch.setattr(grid, "make_push_object_fn_protobuf", lambda push_object_protobuf: push_object_protobuf)
    content = b"x" * 2**20
    object_id = hashlib.sha256(content).hexdigest()
    (tmp_path / "objects").mkdir()
    (tmp_path / "objects" / object_id).write_bytes(content)
    pass_objects_in_files(tmp_path)
    asked: list[str] = []
    pauses: list[dict[str, float]] = []

    def pull(*arguments: Any, **named: float) -> Any:
        pauses.append(named)
        return pull_objects(*arguments, **named)

    monkeypatch.setattr("server.deployed.pull_objects", pull)

    def ask(wanted: str) -> bytes:
        asked.append(wanted)
        if len(asked) < 3:
            raise ObjectUnavailableError(wanted)
        return b"sent"

    found = grid.pull_objects(object_ids=[object_id, "small"], pull_object_fn=ask)
    assert found == {object_id: content, "small": b"sent"}
    assert asked == ["small"] * 3
    pushed: dict[str, bytes] = {}
    grid.make_push_object_fn_protobuf(push_object_protobuf=pushed.__setitem__)(object_id, content)
    assert pushed == {object_id: (tmp_path / "superexec.secret").read_bytes()}
    assert pauses == [{"initial_backoff": 0.05, "backoff_cap": 0.4}]
