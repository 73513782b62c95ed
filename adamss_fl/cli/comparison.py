"""What ``adamss-fl compare`` runs: one comparison, or one for each of several seeds, resumable either way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adamss_fl.assembly import (
    cache_folder,
    judge,
    keep_config,
    load_all_data,
    refuse_other_run,
    run_comparison,
    train_at_once,
    workers_of,
)
from adamss_fl.cli.flower_app import sites_at_once
from adamss_fl.cli.forecast import Forecast, Phase, forecast_of, phases_of_comparison
from adamss_fl.config import task_of
from adamss_fl.errors import InputError
from adamss_fl.evaluation.arms import Arm, arms_of, data_of_arm, pool, task_of_arm
from adamss_fl.evaluation.compare import runs_of
from adamss_fl.evaluation.cross_validation import is_cross_validated
from adamss_fl.evaluation.kept import twin_of
from adamss_fl.evaluation.leakage import refuse_leakage
from adamss_fl.evaluation.settings import Design
from adamss_fl.evaluation.study import is_study, run_study
from adamss_fl.evaluation.tuning import check_validation
from adamss_fl.evaluation.workload import Size, work_of_arms
from adamss_fl.federation.settings import PlanSettings
from adamss_fl.federation.site import Progress
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.run_config import RunConfig
from adamss_fl.training.machine import settle_for_processes
from adamss_fl.training.timing import Speed

OverTransport = Callable[[RunConfig, Path, Forecast | None], None]
"""Trains the federated arm of a configuration into a folder, and notes the rounds done in a forecast."""


def run_one(
    config: RunConfig,
    out: Path,
    design: Design,
    progress: Progress | None = None,
    over_transport: OverTransport | None = None,
    jobs: int = 1,
    seeds_left: int = 1,
) -> dict[str, Any]:
    """Train and judge every arm of a design into ``out``; returns the comparison.

    jobs : how many arms but the federated one are trained at once (0: as many as fit the machine's cores).
    seeds_left : how many comparisons of this size the command is still to make, for its expected time.
    """
    if is_study(out):
        raise InputError(f"{out}: holds a study of several seeds; give --seeds, or another --out")
    data = load_all_data(config, out, progress)
    settle_for_processes(config.runtime, out)  # all arms compute alike
    forecast = _forecast(config, data, out, design, over_transport is not None, jobs, seeds_left)
    if forecast is not None and progress is not None:
        progress = forecast.follow(progress, _phase_of(workers_of(config, jobs)))
    federated = None if over_transport is None else (lambda folder: over_transport(config, folder, forecast))
    if design == Design(settings=design.settings):
        if (out / "tuning").exists():
            raise InputError(f"{out}: holds a comparison with --tune; give it again, or another --out")
        return run_comparison(config, data, out, progress, federated, jobs)
    task, arms = task_of(config), arms_of(tuple(data), out, design)
    _refuse_other_comparison(out, design)
    refuse_leakage({arm.name: data_of_arm(arm, task, data) for arm in arms}, pool(data).test)
    if design.tune:
        check_validation(arms, task, data)
    runs = [run for own in runs_of(arms, task, out, design).values() for run in own]
    for run in runs:
        refuse_other_run(run.folder, *task_of_arm(run, task), config_of(run, config))
    keep_config(config, out)
    for run in runs:
        keep_config(config_of(run, config), run.folder)
    here = [run for run in runs if run.kind != "federated" or design.tune or federated is None]
    train_at_once(config, _distinct(here, runs, task), out, jobs, progress)
    return judge(config, data, out, arms[0].folder, federated, progress, design)


def run_seeds(
    config: RunConfig,
    out: Path,
    design: Design,
    seeds: Sequence[int],
    split_by_seed: bool = False,
    progress: Progress | None = None,
    over_transport: OverTransport | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """:func:`run_one` for every seed into ``OUT/seed-N``, prepared images being shared; returns the study.

    split_by_seed : divide the patients anew, by ``split.seed`` plus the seed.
    """
    shared = replace(config, cache=str(cache_folder(config, out).resolve()))

    def compare_seed(seed: int, folder: Path) -> dict[str, Any]:
        split = replace(config.split, seed=config.split.seed + seed) if split_by_seed else config.split
        own, left = replace(shared, seed=seed, split=split), len(seeds) - list(seeds).index(seed)
        return run_one(own, folder, design, progress, over_transport, jobs, left)

    return run_study(seeds, out, compare_seed, bootstrap=config.evaluation.bootstrap, split_by_seed=split_by_seed)


def _forecast(
    config: RunConfig,
    data: Mapping[str, SiteData],
    out: Path,
    design: Design,
    over_flower: bool,
    jobs: int,
    seeds_left: int,
) -> Forecast | None:
    """The expected time of a comparison; None where it is short, or has an arm that cannot be trained."""
    task, arms = task_of(config), arms_of(tuple(data), out, design)
    runs = [run for own in runs_of(arms, task, out, design).values() for run in own]
    try:
        works = work_of_arms(
            runs, task, {name: Size.of(own) for name, own in data.items()}, over_flower and not design.tune
        )
    except ValueError:  # fewer patients than a batch; the run says so by name
        return None

    def phases(speed: Speed) -> list[Phase]:
        rounds = len(task.plan.rounds)
        return phases_of_comparison(works, speed, workers_of(config, jobs), sites_at_once(config), rounds)

    largest = max(data.values(), key=lambda own: len(own.train)).train
    return forecast_of(task, largest, phases, seeds_left)


def _phase_of(workers: int) -> Callable[[str], str]:
    """Which phase of the forecast the work belongs to that reports itself under a name."""

    def found(what: str) -> str:
        if what.endswith(" patients"):
            return "judged"
        return "alone" if workers > 1 else "arms"

    return found


def config_of(run: Arm, config: RunConfig) -> RunConfig:
    """The configuration that a run's folder keeps: with its own learning rates, and as a strategy with its federation.

    That of a plain arm is the comparison's own.
    """
    if run.kind != "strategy" and run.factors is None:
        return config
    own, _ = task_of_arm(run, task_of(config))
    tuned = replace(config, stages=own.stages)
    if run.kind != "strategy":
        return tuned
    plan = config.plan if config.plan.resolved() == own.plan.blocks else PlanSettings(None, blocks=own.plan.blocks)
    return replace(tuned, federation=own.federation, plan=plan)


def _distinct(here: Sequence[Arm], runs: Sequence[Arm], task: Task) -> list[Arm]:
    """The runs of ``here`` that do the same as none before them in ``runs``, which would be taken over."""
    return [run for run in here if twin_of(run, runs[: runs.index(run)], task) is None]


def _refuse_other_comparison(out: Path, design: Design) -> None:
    """Raise InputError, before anything is written, where ``out`` holds something that this one cannot go on with."""
    if (out / "checkpoints").exists() or is_cross_validated(out):
        raise InputError(f"{out}: holds a run that is no comparison; give another --out")
    if (out / "tuning").exists() and not design.tune:
        raise InputError(f"{out}: holds a comparison with --tune; give it again, or another --out")
    if (out / "arms").exists() and not (out / "tuning").exists() and design.tune:
        raise InputError(f"{out}: holds a comparison without --tune; leave it out, or give another --out")
