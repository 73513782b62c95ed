"""Runs that were asked for, carried by Flower runs that end in every way."""

import dataclasses
from pathlib import Path

import pytest

from adamss_fl.deployment.submissions import Carrier, Outcome, Submissions, describe, outcome_of
from adamss_fl.errors import AdamssError, InputError

TASK = "name: x\n"


class Link:
    """A SuperLink that knows its runs; each is active until it is ended."""

    def __init__(self) -> None:
        self.started: list[tuple[str, str]] = []
        self.going: set[int] = set()
        self.stopped: list[int] = []
        self.asked = 0

    def start(self, task: str, name: str) -> int:
        self.started.append((task, name))
        self.going.add(len(self.started))
        return len(self.started)

    def active(self, flower_run: int) -> bool:
        self.asked += 1
        return flower_run in self.going

    def stop(self, flower_run: int) -> None:
        self.stopped.append(flower_run)
        self.going.discard(flower_run)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@dataclasses.dataclass
class Scene:
    submissions: Submissions
    link: Link
    clock: Clock
    carrier: Carrier

    def after(self, seconds: float) -> int:
        """Look again after some seconds; how many Flower runs there have been."""
        self.carrier.look()
        self.clock.now += seconds
        self.carrier.look()
        return len(self.link.started)

    def breakdown(self) -> None:
        """Every Flower run is over, and the last time that one was seen is long enough ago to ask again."""
        self.link.going.clear()
        self.clock.now += 5


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    submissions, link, clock = Submissions(tmp_path), Link(), Clock()
    return Scene(submissions, link, clock, Carrier(submissions, link, 60.0, clock))


def test_a_run_is_started_once_and_again_only_when_it_broke_down(scene: Scene) -> None:
    scene.submissions.add("a", TASK)
    assert scene.after(1000) == 1
    assert scene.link.started == [(TASK, "a")]
    scene.breakdown()
    assert scene.after(1.9) == 1
    assert scene.after(0.2) == 2
    assert scene.submissions.read("a").flower_runs == (1, 2)


def test_a_run_that_was_seen_going_on_is_not_asked_for_at_every_look(scene: Scene) -> None:
    scene.submissions.add("a", TASK)
    scene.carrier.look()
    for _ in range(40):
        scene.clock.now += 1
        scene.carrier.look()
    assert scene.link.asked == 8
    scene.link.going.clear()
    assert scene.after(4.9) == 1
    assert scene.after(2.2) == 2


def test_pauses_double_while_nothing_is_gained_and_start_anew_after_a_saved_round(scene: Scene) -> None:
    scene.submissions.add("a", TASK)
    scene.carrier.look()
    for pause in (2, 4, 8):
        scene.breakdown()
        before = len(scene.link.started)
        assert scene.after(pause - 0.1) == before
        assert scene.after(0.2) == before + 1
    (scene.submissions.folder("a") / "checkpoints" / "round-0001").mkdir(parents=True)
    scene.breakdown()
    assert scene.after(2.1) == 5


def test_a_finished_or_failed_run_is_left_alone_and_a_paused_one_is_tried_again(scene: Scene) -> None:
    for name, state in (("done", "finished"), ("bad", "failed"), ("few", "paused")):
        scene.submissions.add(name, TASK)
        scene.carrier.look()
        scene.submissions.end(name, Outcome(state, "why"))  # type: ignore[arg-type]
    scene.breakdown()
    assert scene.after(59.9) == 3
    assert scene.after(0.2) == 4
    assert scene.link.started[-1] == (TASK, "few")
    assert scene.submissions.outcome("few") is None


def test_a_stopped_run_ends_and_can_be_carried_on(scene: Scene) -> None:
    scene.submissions.add("a", TASK)
    scene.carrier.look()
    scene.submissions.stop("a")
    assert scene.after(1000) == 1
    assert scene.link.stopped == [1]
    assert describe(scene.submissions)[0]["state"] == "stopped"
    scene.submissions.add("a", TASK)
    assert scene.after(3) == 2


def test_a_new_server_knows_the_runs_of_the_one_before(scene: Scene) -> None:
    scene.submissions.add("a", TASK)
    scene.carrier.look()
    again = Carrier(scene.submissions, scene.link, 60.0, scene.clock)
    again.look()
    assert len(scene.link.started) == 1


def test_a_name_stands_for_one_configuration(scene: Scene) -> None:
    scene.submissions.add("a", TASK)
    scene.submissions.add("a", TASK)
    with pytest.raises(InputError, match="another configuration"):
        scene.submissions.add("a", "name: y\n")


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", "/etc", "a\0b", "-a", "x" * 65, "a b", "a\n"])
def test_a_name_is_never_a_path(scene: Scene, name: str) -> None:
    with pytest.raises(InputError, match="no name of a run"):
        scene.submissions.add(name, TASK)


def test_an_unknown_run_is_named(scene: Scene) -> None:
    scene.submissions.add("a", TASK)
    with pytest.raises(InputError, match="no such run here; there are: a"):
        scene.submissions.stop("b")


def test_how_a_run_ends_tells_whether_to_try_again() -> None:
    assert outcome_of(None) == Outcome("finished")
    assert outcome_of(InputError("bad")) == Outcome("failed", "bad")
    assert outcome_of(AdamssError("quorum")) == Outcome("paused", "quorum")
