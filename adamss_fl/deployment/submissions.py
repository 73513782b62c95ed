"""Runs that a coordinator has asked for: what is wanted, what became of it, and when to start it again.

A submission is a folder ``STATE/runs/NAME``, which is also the run's own folder: ``task.yaml`` is what was asked for,
``submission.json`` whether it is wanted and which Flower runs have carried it, ``outcome.json`` how it ended. Because a
run goes on from its own checkpoint, a Flower run that ends without an outcome is simply followed by another.
"""

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from adamss_fl.errors import AdamssError, InputError
from adamss_fl.federation.files import write_atomically, write_json

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
PAUSES_SECONDS = (2.0, 300.0)
"""Shortest and longest pause before a run that ended without an outcome is started again; it doubles each time."""

State = Literal["waiting", "running", "paused", "stopped", "finished", "failed"]


@dataclass(frozen=True)
class Submission:
    """One run that was asked for.

    name : of its folder; wanted : whether it is to be carried on; flower_runs : Flower's numbers for it, oldest first.
    """

    name: str
    wanted: bool = True
    flower_runs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a run ended: ``finished``, ``failed`` (will fail again as it stands) or ``paused`` (quorum was lost)."""

    state: Literal["finished", "failed", "paused"]
    message: str = ""


class Control(Protocol):
    """What Flower's SuperLink is asked for."""

    def start(self, task: str, name: str) -> int:
        """Start a Flower run of a task; returns its number."""
        ...

    def active(self, flower_run: int) -> bool:
        """Whether a Flower run is still going on."""
        ...

    def stop(self, flower_run: int) -> None:
        """End a Flower run."""
        ...


class Submissions:
    """All submissions under a server's state folder."""

    def __init__(self, state: Path) -> None:
        self._root = state / "runs"

    def folder(self, name: str) -> Path:
        """A run's folder. Raises InputError for a name that is no plain word (a path, for one)."""
        if not NAME.fullmatch(name):
            raise InputError(f"{name!r}: no name of a run; use letters, digits, - and _, at most 64, a letter first")
        return self._root / name

    def add(self, name: str, task: str) -> Submission:
        """Ask for a run of the configuration ``task`` (YAML); asking again for the same one carries it on.

        Raises InputError where the name stands for another configuration.
        """
        folder = self.folder(name)
        kept = folder / "task.yaml"
        if kept.exists() and kept.read_text(encoding="utf-8") != task:
            raise InputError(f"{name}: is a run of another configuration; give another --name or the same file")
        write_atomically(kept, task.encode())
        known = self.read(name) if (folder / "submission.json").exists() else Submission(name)
        if (outcome := self.outcome(name)) is not None and outcome.state != "finished":
            (folder / "outcome.json").unlink()
        return self._write(replace(known, wanted=True))

    def stop(self, name: str) -> Submission:
        """No longer want a run; what it has is kept. Raises InputError for an unknown one."""
        return self._write(replace(self.read(name), wanted=False))

    def read(self, name: str) -> Submission:
        """One submission. Raises InputError for an unknown one."""
        path = self.folder(name) / "submission.json"
        if not path.exists():
            known = ", ".join(each.name for each in self.all()) or "none"
            raise InputError(f"{name}: there is no such run here; there are: {known}")
        found = json.loads(path.read_text(encoding="utf-8"))
        return Submission(found["name"], found["wanted"], tuple(found["flower_runs"]))

    def all(self) -> list[Submission]:
        """Every submission, by name."""
        return [self.read(path.parent.name) for path in sorted(self._root.glob("*/submission.json"))]

    def task(self, name: str) -> str:
        """The configuration of a submission, YAML."""
        return (self.folder(name) / "task.yaml").read_text(encoding="utf-8")

    def outcome(self, name: str) -> Outcome | None:
        """How a run ended; None where it has not."""
        path = self.folder(name) / "outcome.json"
        if not path.exists():
            return None
        found = json.loads(path.read_text(encoding="utf-8"))
        return Outcome(found["state"], found["message"])

    def end(self, name: str, outcome: Outcome) -> None:
        """Note how a run ended."""
        write_json(self.folder(name) / "outcome.json", asdict(outcome))

    def started(self, name: str, flower_run: int) -> Submission:
        """Note that a Flower run carries a submission."""
        known = self.read(name)
        return self._write(replace(known, flower_runs=(*known.flower_runs, flower_run)))

    def _write(self, submission: Submission) -> Submission:
        write_json(self.folder(submission.name) / "submission.json", asdict(submission))
        return submission


_ACTIVE_SECONDS = 5.0
"""How long a Flower run that was seen active is taken to be: each question is some of the SuperLink's time."""


class Carrier:
    """Sees to it that every wanted run goes on: :meth:`look` is to be called often.

    A run is started again when its Flower run is over and it has no outcome, with pauses that double while nothing is
    gained (no new checkpoint), and after ``retry_seconds`` where it was paused because its quorum was lost.
    """

    def __init__(
        self,
        submissions: Submissions,
        control: Control,
        retry_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._submissions = submissions
        self._control = control
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._due: dict[str, float] = {}
        self._seen_active: dict[int, float] = {}
        self._pause: dict[str, tuple[int, float]] = {}

    def look(self) -> None:
        """Start, restart and stop what is due. Raises AdamssError where the SuperLink cannot be asked."""
        for submission in self._submissions.all():
            self._look_at(submission)

    def _look_at(self, submission: Submission) -> None:
        name = submission.name
        outcome = self._submissions.outcome(name)
        last = submission.flower_runs[-1] if submission.flower_runs else None
        if not submission.wanted:
            if outcome is None and last is not None and self._control.active(last):
                self._control.stop(last)
            return
        if outcome is not None and outcome.state in ("finished", "failed"):
            return
        if last is not None and self._is_active(last, outcome):
            self._due.pop(name, None)
            return
        now = self._clock()
        if name not in self._due:
            self._due[name] = now if last is None else now + self._next_pause(name, outcome)
        if now >= self._due[name]:
            del self._due[name]
            (self._submissions.folder(name) / "outcome.json").unlink(missing_ok=True)
            self._submissions.started(name, self._control.start(self._submissions.task(name), name))

    def _is_active(self, flower_run: int, outcome: Outcome | None) -> bool:
        """Whether a Flower run is going on, as far as was seen lately; one with an outcome is over in a moment."""
        now = self._clock()
        if outcome is None and now - self._seen_active.get(flower_run, -math.inf) < _ACTIVE_SECONDS:
            return True
        is_active = self._control.active(flower_run)
        if is_active:
            self._seen_active[flower_run] = now
        return is_active

    def _next_pause(self, name: str, outcome: Outcome | None) -> float:
        if outcome is not None:
            return self._retry_seconds
        reached = len(list((self._submissions.folder(name) / "checkpoints").glob("round-*")))
        before, pause = self._pause.get(name, (-1, 0.0))
        shortest, longest = PAUSES_SECONDS
        pause = shortest if reached != before else min(2 * pause, longest)
        self._pause[name] = (reached, pause)
        return pause


def describe(submissions: Submissions, names: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """A row for each run: ``name``, ``state``, ``round``, ``rounds``, ``restarts``, ``message``."""
    rows = []
    for submission in submissions.all():
        if names is not None and submission.name not in names:
            continue
        outcome = submissions.outcome(submission.name)
        at, rounds = progress_of(submissions.folder(submission.name))
        state: State
        if outcome is not None and (outcome.state != "paused" or submission.wanted):
            state = outcome.state
        elif not submission.wanted:
            state = "stopped"
        else:
            state = "running" if submission.flower_runs else "waiting"
        rows.append(
            {
                "name": submission.name,
                "state": state,
                "round": at,
                "rounds": rounds,
                "restarts": max(len(submission.flower_runs) - 1, 0),
                "message": "" if outcome is None else outcome.message,
            }
        )
    return rows


def progress_of(run: Path) -> tuple[int, int | None]:
    """(rounds that are saved, rounds of the plan or None) of a run's folder."""
    saved = [int(path.name.removeprefix("round-")) for path in (run / "checkpoints").glob("round-*") if path.is_dir()]
    rounds: int | None = None
    events = run / "events.jsonl"
    if events.exists():
        with events.open(encoding="utf-8") as lines:
            for line in lines:
                try:
                    event: Mapping[str, Any] = json.loads(line)
                except ValueError:
                    continue
                rounds = event.get("rounds", rounds)
    return max(saved, default=0), rounds


def outcome_of(failure: AdamssError | None) -> Outcome:
    """What a run's end amounts to: bad input fails again as it stands, a lost quorum may come back or be final."""
    if failure is None:
        return Outcome("finished")
    is_final = isinstance(failure, InputError) or getattr(failure, "final", False)
    return Outcome("failed" if is_final else "paused", str(failure))
