"""What the benchmarks on phantom hospitals share: a phantom a seed, and arms that are trained once each and then kept.

Finished seeds and arms are found again, so an interrupted benchmark goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from adamss_fl.assembly import load_all_data
from adamss_fl.cohort import make_phantom, read_truth
from adamss_fl.cohort.settings import CohortSettings
from adamss_fl.config import load_config
from adamss_fl.evaluation.compare import Arm, oracle_figures, pool, predict_arm, train_arm
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.evaluation.scores import score
from adamss_fl.federation.files import write_json
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.run_config import RunConfig
from adamss_fl.survival import Difference, pooled_difference

Job = tuple[argparse.Namespace, int, str]
"""Options, seed, name of the arm."""


def options_of(
    document: str | None, name: str, patients: int, seeds: Sequence[int] = (0, 1, 2)
) -> argparse.ArgumentParser:
    """The options of every such benchmark: config, out, seeds, patients, jobs."""
    parser = argparse.ArgumentParser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path(__file__).parent / f"{name}.yaml")
    parser.add_argument("--out", type=Path, default=Path("runs") / name)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(seeds))
    parser.add_argument("--patients", type=int, default=patients, help="patients per hospital on average")
    parser.add_argument("--jobs", type=int, default=2, help="arms trained at once, one thread each")
    return parser


def seed_folder(options: argparse.Namespace, seed: int) -> Path:
    """Where everything of one seed lies."""
    return Path(options.out).resolve() / f"seed-{seed}"


def arm_folder(options: argparse.Namespace, seed: int, name: str) -> Path:
    """The folder of one arm's run and predictions."""
    return seed_folder(options, seed) / "arms" / slug(name)


def slug(name: str) -> str:
    """A folder's name for an arm."""
    return name.replace(":", "-").replace(",", "").replace(" ", "-")


def configuration(options: argparse.Namespace, seed: int, overrides: Sequence[str] = ()) -> RunConfig:
    """The benchmark's configuration on the phantom of one seed."""
    config = load_config(options.config, [f"seed={seed}", *overrides])
    folder = seed_folder(options, seed)
    sites = tuple(
        CohortSettings(f"hospital-{number}", str(folder / "phantom" / f"hospital-{number}")) for number in (1, 2, 3)
    )
    return replace(config, sites=sites, cache=str(folder / "cache"))


def prepare(options: argparse.Namespace, seed: int) -> None:
    """Make the phantom of one seed and fill the cache of prepared images."""
    folder = seed_folder(options, seed)
    if not (folder / "phantom").exists():
        make_phantom(folder / "phantom", sites=3, patients=options.patients, size=48, seed=seed)
    load_all_data(configuration(options, seed), folder)


def train_all(options: argparse.Namespace, names: Iterable[str], run_job: Callable[[Job], str]) -> None:
    """Run ``run_job``, which returns a line for the log, for every seed and arm in spawned processes."""
    jobs = [(options, seed, name) for seed in options.seeds for name in names]
    for seed in options.seeds:
        prepare(options, seed)
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=1) as workers:
        for finished in workers.imap_unordered(run_job, jobs):
            print(finished, flush=True)


def is_done(options: argparse.Namespace, seed: int, name: str) -> bool:
    """Whether an arm was trained and applied to the test patients before."""
    return _predictions(options, seed, name).exists()


def train_and_predict(
    options: argparse.Namespace,
    seed: int,
    name: str,
    arm: Arm,
    task: Task,
    data: Mapping[str, SiteData],
    stage_one: Path | None = None,
) -> str:
    """Train one arm and keep its predictions and its time; returns a line for the log.

    stage_one : folder of an arm with the same stage I, from which this one goes on.

    Raises RuntimeError where the arm is to have a tabular vector and was trained without.
    """
    start, cpu_start = time.perf_counter(), time.process_time()
    train_arm(arm, task, data, stage_one=stage_one)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    if task.tabular.used and final_weights(arm.folder)[2].get("tabular") is None:
        raise RuntimeError(f"{name}: trained without the tabular vector that its configuration asks for")
    found = predict_arm(arm, task, data)
    write_json(arm_folder(options, seed, name) / "seconds.json", {"seconds": seconds, "cpu_seconds": cpu_seconds})
    found.save(_predictions(options, seed, name))
    return f"seed {seed}: {name}: {seconds:.0f} s, {cpu_seconds:.0f} s of CPU"


def predictions(options: argparse.Namespace, seed: int, name: str) -> Predictions:
    """What :func:`train_and_predict` kept."""
    return Predictions.load(_predictions(options, seed, name))


def figures_of(options: argparse.Namespace, seed: int, names: Iterable[str]) -> dict[str, Any]:
    """Per arm C with interval, C' = (C - 0.5) / (oracle C - 0.5), DSC and seconds; the oracle and the test patients."""
    config, folder = configuration(options, seed), seed_folder(options, seed)
    test = pool(load_all_data(config, folder)).test
    oracle = oracle_figures(test, read_truth(folder / "phantom"))
    arms: dict[str, Any] = {}
    for name in names:
        figures = score(predictions(options, seed, name), config.evaluation.bootstrap, seed)
        figures["c_prime"] = (figures["c_index"] - 0.5) / (oracle["oracle_c_index"] - 0.5)
        figures |= json.loads((arm_folder(options, seed, name) / "seconds.json").read_text())
        arms[name] = figures
    return {**oracle, "test_patients": len(test), "arms": arms}


def differences(options: Any, first: str, second: str) -> list[Difference]:
    """C of the arm ``first`` minus C of ``second``: in each seed, then the mean over seeds, with 95 % intervals.

    Raises RuntimeError where the two were applied to different patients.
    """
    bootstrap = configuration(options, options.seeds[0]).evaluation.bootstrap
    cohorts = []
    for seed in options.seeds:
        one, other = (predictions(options, seed, name) for name in (first, second))
        if not np.array_equal(one.patient, other.patient):
            raise RuntimeError(f"seed {seed}: {first} and {second} were applied to different patients")
        cohorts.append((other.time_days, other.event, one.risk, other.risk))
    return [pooled_difference(part, bootstrap) for part in (*([cohort] for cohort in cohorts), cohorts)]


def shown(gap: Difference) -> str:
    """A difference with its interval."""
    return f"{gap.difference:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})"


def _predictions(options: argparse.Namespace, seed: int, name: str) -> Path:
    return arm_folder(options, seed, name) / "predictions.npz"
