"""How long a command will take on this machine: seconds per step are measured, steps are counted, and work is followed.

The time left is what is left of the counted work at the pace so far; before a tenth of it is done, at the pace measured
at the start. The first interval covers what a measurement on a quiet machine leaves open: processes that share
memory and caches, reading and writing, and the figures at the end.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adamss_fl.cli.shell import console

if TYPE_CHECKING:
    from adamss_fl.evaluation.workload import ArmWork, Work
    from adamss_fl.federation.site import Progress
    from adamss_fl.federation.task import Task
    from adamss_fl.imaging import Sample
    from adamss_fl.training.timing import Speed

FEWEST_STEPS = 200
"""A command of fewer steps is over before its time is worth measuring."""

START_SECONDS = 15.0
"""Estimate of the time from the start of Flower's simulation engine to the first round, on two cores."""

ROUND_SECONDS = 1.5
"""Estimate of what a round costs on that engine besides the sites' work."""

_EARLY = 0.1
_FASTER, _SLOWER = 0.85, 1.5
"""The interval about the first figure, as multiples of it; it narrows to nothing while the work is done."""

_STAGES = ("segmentation", "survival", "joint")
_STEP = re.compile(rf": round \d+, ({'|'.join(_STAGES)})$")
_APPLIED = re.compile(r": (evaluate \w+|\w+ patients)$")
_TRAINED = re.compile(r" at a time: (.+) is trained$")


@dataclass(frozen=True)
class Phase:
    """A part of a command that follows the one before: its expected seconds, and the steps in it."""

    name: str
    seconds: float
    steps: int


class Forecast:
    """Expected seconds of a command's phases, and how much of them is done.

    phases : in the order of their work. speed : what they were expected from. clock : seconds, monotonic.
    """

    def __init__(self, phases: Sequence[Phase], speed: Speed, clock: Callable[[], float] = time.monotonic) -> None:
        self._phases = {phase.name: phase for phase in phases}
        self._done = dict.fromkeys(self._phases, 0.0)
        self._speed = speed
        self._seconds_of_step: dict[str, float] = dict.fromkeys(_STAGES, 0.0) | {**speed.step}
        self._clock = clock
        self._start = clock()
        self._counted: dict[str, int] = {}

    @property
    def expected_seconds(self) -> float:
        """Of the whole command."""
        return sum(phase.seconds for phase in self._phases.values())

    def do(self, name: str, seconds: float) -> None:
        """Note that ``seconds`` of expected work of a phase are done."""
        if name in self._phases:
            self._done[name] = min(self._phases[name].seconds, self._done[name] + seconds)

    def reach(self, name: str, share: float) -> None:
        """Note that a share of a phase's work is done."""
        if name in self._phases:
            self._done[name] = max(self._done[name], self._phases[name].seconds * min(1.0, share))

    def left(self) -> tuple[float, float, float]:
        """Seconds left: expected, and an interval about it."""
        done = sum(self._done.values())
        left = max(0.0, self.expected_seconds - done)
        share = done / self.expected_seconds if self.expected_seconds else 1.0
        pace = (self._clock() - self._start) / done if share >= _EARLY else 1.0
        low, high = 1 - (1 - _FASTER) * (1 - share), 1 + (_SLOWER - 1) * (1 - share)
        return left * pace, left * pace * low, left * pace * high

    def line(self) -> str:
        """What is printed at the start: the time, and what it is made of."""
        expected, low, high = self.left()
        steps = sum(phase.steps for phase in self._phases.values())
        each = " and ".join(f"{seconds:.2g} s a step of {stage}" for stage, seconds in self._speed.step.items())
        interval = f"{in_words(low)} to {in_words(high)}"
        return f"about {in_words(expected)} ({interval}) on this machine: {each}, {steps:,} steps"

    def note(self) -> str:
        """The time left, for a line of progress."""
        expected, low, high = self.left()
        return f"about {in_words(expected)} left ({in_words(low)} to {in_words(high)})"

    def follow(self, report: Progress, phase_of: Callable[[str], str] = lambda what: "") -> Progress:
        """``report`` with the time left in each note; reads from the notes what work is done.

        phase_of : the phase of work that reports itself step by step.
        """

        def followed(what: str, done: int, total: int) -> None:
            step, trained = _STEP.search(what), _TRAINED.search(what)
            if step:
                self.do(phase_of(what), self._seconds_of_step[step[1]])
            elif _APPLIED.search(what):
                before = self._counted.get(what, 0)
                self._counted[what] = done
                self.do(phase_of(what), self._speed.patient * (done - before if done > before else done))
            elif trained:
                self.reach("arms", done / total)
            report(f"{what}; {self.note()}", done, total)

        return followed


def in_words(seconds: float) -> str:
    """``40 s``, ``8 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def phases_of_run(works: Mapping[str, Work], speed: Speed, judged: Work) -> list[Phase]:
    """One run in this process: all its sites one after the other, then its model on the test patients."""
    return [
        Phase("run", sum(work.seconds(speed) for work in works.values()), sum(w.all_steps for w in works.values())),
        Phase("judged", judged.seconds(speed), 0),
    ]


def phases_of_flower(works: Mapping[str, Work], speed: Speed, at_once: int, rounds: int) -> list[Phase]:
    """A run on Flower's engine, ``at_once`` sites at a time."""
    from adamss_fl.evaluation.workload import seconds_at_once

    seconds = seconds_at_once((work.seconds(speed) for work in works.values()), at_once)
    extra = START_SECONDS + ROUND_SECONDS * rounds
    return [Phase("flower", seconds + extra, sum(work.all_steps for work in works.values()))]


def phases_of_comparison(arms: Sequence[ArmWork], speed: Speed, workers: int, at_once: int, rounds: int) -> list[Phase]:
    """A comparison: its arms in ``workers`` processes (or here, one after the other), then all judged in this one.

    Where the federated arm travels over Flower, ``at_once`` of its sites train at a time, over ``rounds`` rounds.
    """
    from adamss_fl.evaluation.workload import seconds_at_once

    trained = [arm for arm in arms if arm.sites and not arm.over_flower]
    alone = [arm for arm in trained if arm.here and workers > 1]
    at_once_trained = [arm for arm in trained if arm not in alone]

    def phase(name: str, chosen: Sequence[ArmWork], processes: int) -> Phase:
        seconds = (sum(work.seconds(speed) for work in arm.sites.values()) for arm in chosen)
        steps = sum(work.all_steps for arm in chosen for work in arm.sites.values())
        return Phase(name, seconds_at_once(seconds, processes), steps)

    phases = [phase("arms", at_once_trained, workers), phase("alone", alone, 1)]
    for arm in arms:
        if arm.over_flower and arm.sites:
            phases += phases_of_flower(arm.sites, speed, at_once, rounds)
    return [*phases, Phase("judged", sum(arm.judged.seconds(speed) for arm in arms), 0)]


def forecast_of(
    task: Task,
    samples: Sequence[Sample],
    phases: Callable[[Speed], Sequence[Phase]],
    repeats: int = 1,
) -> Forecast | None:
    """Measure this machine on ``samples`` and print the time; None where the work is too short to be worth it.

    phases : the command's, by the speed. repeats : how often the same work is still to be done, this time included.
    """
    from adamss_fl.federation.task import augmentations_of
    from adamss_fl.training.timing import Speed, measure_speed

    stages = task.plan.stages
    counted = phases(Speed(dict.fromkeys(stages, 1.0), 1.0))
    largest = max(getattr(task.stages, stage).batch_size for stage in stages)
    if sum(phase.steps for phase in counted) < FEWEST_STEPS or len(samples) < largest:
        return None
    speed = measure_speed(task.model, task.stages, task.runtime, stages, samples, augmentations_of(task))
    found = list(phases(speed))
    if repeats > 1:
        more = (repeats - 1) * sum(phase.seconds for phase in found)
        found.append(Phase("further seeds", more, (repeats - 1) * sum(phase.steps for phase in found)))
    forecast = Forecast(found, speed)
    console.print(f"expected: {forecast.line()}", soft_wrap=True, markup=False)
    return forecast
