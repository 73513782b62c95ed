"""Which Flower run may carry a submission."""

import threading
import time
from pathlib import Path

import pytest

from adamss_fl.deployment.submissions import Submissions
from adamss_fl.errors import AdamssError, InputError
from server.deployed import await_turn

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
