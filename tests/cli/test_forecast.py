"""The expected time of a command: arithmetic on a clock that the test moves, and what a user sees."""

from dataclasses import replace

import pytest

from adamss_fl.cli.forecast import (
    ROUND_SECONDS,
    START_SECONDS,
    Forecast,
    Phase,
    in_words,
    phases_of_comparison,
    phases_of_flower,
)
from adamss_fl.evaluation.workload import ArmWork, Work
from adamss_fl.training import RuntimeSettings, StageSettings, StagesSettings
from adamss_fl.training.timing import Speed, measure_speed
from tests.synthetic import ONE_THREAD_FP32, make_samples, make_task

SPEED = Speed({"segmentation": 0.2, "survival": 0.4}, 0.05)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_first_line_says_the_time_and_what_it_is_made_of() -> None:
    forecast = Forecast([Phase("arms", 400.0, 2000), Phase("judged", 80.0, 0)], SPEED, Clock())
    assert forecast.line() == (
        "about 8 min (7 min to 12 min) on this machine: 0.2 s a step of segmentation and 0.4 s a step of survival, "
        "2,000 steps"
    )


def test_the_time_left_follows_the_pace_of_the_work_and_its_interval_closes() -> None:
    clock = Clock()
    forecast = Forecast([Phase("run", 100.0, 500), Phase("judged", 100.0, 0)], SPEED, clock)
    forecast.do("run", 10.0)
    clock.now += 40.0
    assert forecast.left()[0] == 190.0, "too early to judge the pace"
    forecast.do("run", 40.0)
    clock.now += 60.0  # 100 s for 50 expected ones
    left, low, high = forecast.left()
    assert left == 300.0
    assert low < left < high
    assert (high - low) / left == pytest.approx(0.75 * (1.5 - 0.85))
    forecast.reach("run", 1.0)
    forecast.reach("judged", 1.0)
    assert forecast.left() == (0.0, 0.0, 0.0)


def test_a_phase_is_done_but_once_whatever_is_reported() -> None:
    forecast = Forecast([Phase("run", 10.0, 5)], SPEED, Clock())
    forecast.do("run", 99.0)
    forecast.reach("run", 0.2)
    forecast.do("no such phase", 5.0)
    assert forecast.left()[0] == 0.0


def test_progress_of_a_run_is_read_from_its_notes() -> None:
    clock, seen = Clock(), []
    work = Work({"segmentation": 10, "survival": 10}, 40)
    forecast = Forecast([Phase("run", work.seconds(SPEED), 20)], SPEED, clock)
    report = forecast.follow(lambda what, done, total: seen.append((what, done, total)), lambda what: "run")
    for stage in ("segmentation", "survival"):
        for step in range(1, 11):
            report(f"pooled: round 1, {stage}", step, 10)
    clock.now += 6.0
    for _ in range(2):  # two models, the same note
        for done in (8, 16, 20):
            report("pooled: evaluate test", done, 20)
    assert forecast.left()[0] == 0.0
    assert seen[-1][0].startswith("pooled: evaluate test; about ")
    assert seen[-1][1:] == (20, 20)


def test_progress_of_processes_is_read_from_their_notes() -> None:
    forecast = Forecast([Phase("arms", 40.0, 9)], SPEED, Clock())
    report = forecast.follow(lambda what, done, total: None)
    report("4 arms, 2 at a time", 0, 4)
    assert forecast.left()[0] == 40.0
    report("4 arms, 2 at a time: local:hospital-1 is trained", 3, 4)
    assert forecast.expected_seconds * 0.25 == 10.0
    forecast._start -= 30.0
    assert forecast.left()[0] == pytest.approx(10.0)


def test_a_comparison_is_its_arms_at_once_flower_and_the_judging() -> None:
    def arm(name: str, sites: dict[str, int], **more: bool) -> ArmWork:
        return ArmWork(name, {n: Work({"segmentation": s}) for n, s in sites.items()}, Work(applied=20), **more)

    arms = [
        arm("federated", {"a": 100, "b": 100, "c": 100}, over_flower=True, here=True),
        arm("pooled", {"pooled": 300}),
        arm("local:a", {"a": 100}),
        arm("local:b", {"b": 100}),
        arm("finished", {}),
    ]
    phases = {phase.name: phase for phase in phases_of_comparison(arms, SPEED, workers=2, at_once=2, rounds=4)}
    assert phases["arms"].seconds == pytest.approx(300 * 0.2)  # the pooled one alone is as long as both local ones
    assert phases["flower"].seconds == pytest.approx(2 * 100 * 0.2 + START_SECONDS + 4 * ROUND_SECONDS)
    assert phases["judged"].seconds == pytest.approx(5 * 20 * 0.05)
    assert sum(phase.steps for phase in phases.values()) == 800
    here = [ArmWork(each.name, each.sites, each.judged, False, each.here) for each in arms]
    phases = {phase.name: phase for phase in phases_of_comparison(here, SPEED, workers=2, at_once=2, rounds=4)}
    assert phases["alone"].seconds == pytest.approx(300 * 0.2)
    alone = phases_of_comparison(here, SPEED, workers=1, at_once=2, rounds=4)
    assert alone[0].seconds == pytest.approx((300 + 300 + 200) * 0.2)


def test_three_equal_sites_on_two_processors_take_two_turns() -> None:
    (phase,) = phases_of_flower({name: Work({"survival": 10}) for name in "abc"}, SPEED, at_once=2, rounds=0)
    assert phase.seconds == pytest.approx(2 * 10 * 0.4 + START_SECONDS)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.0, "1 s"), (89.0, "89 s"), (90.0, "2 min"), (500.0, "8 min"), (5399.0, "90 min"), (9000.0, "2.5 h")],
)
def test_times_are_told_in_the_unit_that_a_person_would_use(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


class Ticking:
    """A clock that a step of training moves: the first one of a stage by its warm-up, too."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1.0
        return self.now


def test_a_step_is_timed_without_its_warm_up() -> None:
    """Every look at the clock takes a second, and there is one after each step."""
    task = make_task()
    found = measure_speed(
        task.model, task.stages, ONE_THREAD_FP32, ["segmentation", "survival"], make_samples(6, 0), clock=Ticking()
    )
    assert found == Speed({"segmentation": 1.0, "survival": 1.0}, 1.0)


def test_patients_without_a_mask_do_for_timing_stage_one() -> None:
    """Their site is absent from stage I, and the time of the others is still to be told."""
    bare = [replace(sample, has_mask=False) for sample in make_samples(6, 0)]
    task = make_task()
    found = measure_speed(task.model, task.stages, ONE_THREAD_FP32, ["segmentation"], bare, clock=Ticking())
    assert found.step == {"segmentation": 1.0}


def test_timing_leaves_the_random_state_as_it_was_and_takes_time() -> None:
    import torch

    torch.manual_seed(7)
    before = torch.get_rng_state()
    stages = StagesSettings(StageSettings(batch_size=3))
    found = measure_speed(
        make_task().model, stages, RuntimeSettings("cpu", "fp32", threads=1), ["segmentation"], make_samples(6, 0)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert found.step["segmentation"] > 0.0
    assert found.patient > 0.0
