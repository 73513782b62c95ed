"""From a configuration to the objects that run it: task, sites with their patients, trackers, and the run itself."""

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from adamss_fl.cohort import load_cohort, read_truth, split_cohort
from adamss_fl.cohort.settings import CohortSettings
from adamss_fl.config import dump_config, load_config, task_of
from adamss_fl.errors import InputError
from adamss_fl.evaluation.compare import (
    POOLED,
    Arm,
    arms_of,
    centralized,
    compare,
    pool,
    task_of_arm,
    train_arm,
)
from adamss_fl.evaluation.cross_validation import is_cross_validated
from adamss_fl.evaluation.ensemble import EnsembleMember, predict_together
from adamss_fl.evaluation.examples import save_examples
from adamss_fl.evaluation.fold_scores import ensemble_figures
from adamss_fl.evaluation.predictions import Predictions, predict
from adamss_fl.evaluation.scores import calibration_figures, score
from adamss_fl.evaluation.settings import Design
from adamss_fl.federation.events import Tracker
from adamss_fl.federation.files import write_atomically
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.local_sites import LocalSites
from adamss_fl.federation.messages import Sites
from adamss_fl.federation.run import refuse_other_task
from adamss_fl.federation.run import run_federation as run_task
from adamss_fl.federation.site import Progress, Site
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample, prepare_cohort
from adamss_fl.plugins import create
from adamss_fl.prediction import load_folds
from adamss_fl.run_config import RunConfig

Job = TypeVar("Job")


def site_settings(config: RunConfig, name: str) -> CohortSettings:
    """The configuration's entry of one site. Raises InputError for a name it does not have."""
    for site in config.sites:
        if site.name == name:
            return site
    known = ", ".join(site.name for site in config.sites)
    raise InputError(f"sites: there is no site {name!r} in the configuration; it has {known}")


def load_site_data(config: RunConfig, name: str, cache: Path, progress: Progress | None = None) -> SiteData:
    """A site's patients, split and prepared (from ``cache`` where they already are). Raises InputError for bad data."""
    settings = site_settings(config, name)
    cohort = load_cohort(Path(settings.path), settings.layout, name)
    split = split_cohort(cohort, config.split)
    described = None if progress is None else _described(progress, f"{name}: images")
    prepared: dict[str, tuple[Sample, ...]] = {}
    for part, members in (("train", split.train), ("validation", split.validation), ("test", split.test)):
        prepared[part] = tuple(prepare_cohort(members, config.imaging, cache, described)) if len(members) else ()
    return SiteData(**prepared)


def build_site(config: RunConfig, name: str, state_dir: Path, progress: Progress | None = None) -> Site:
    """One site of the configuration, with its private state under ``state_dir``; its data are loaded when needed."""
    cache = cache_folder(config, state_dir)
    return Site(name, lambda: load_site_data(config, name, cache, progress), task_of(config), state_dir, progress)


def cache_folder(config: RunConfig, fallback: Path) -> Path:
    """Where prepared images lie: the configured folder, else inside ``fallback``."""
    return Path(config.cache) if config.cache else fallback / "cache"


def build_trackers(config: RunConfig) -> list[Tracker]:
    """The trackers that a configuration names."""
    return [
        create("tracker", tracker.name, tracker.settings, f"trackers.{number}")
        for number, tracker in enumerate(config.trackers)
    ]


def run_federation(config: RunConfig, sites: Sites, out: Path) -> dict[str, Any]:
    """Run a configuration over any sites into ``out``; see ``federation.run.run_federation``."""
    task = task_of(config)
    refuse_other_run(out, task, sites.names, config)
    keep_config(config, out)
    return run_task(task, sites, out, trackers=build_trackers(config))


def load_all_data(
    config: RunConfig, out: Path, progress: Progress | None = None, only: str | None = None
) -> dict[str, SiteData]:
    """Every site's patients by site name, or those of the site ``only``."""
    names = [site.name for site in config.sites] if only is None else [site_settings(config, only).name]
    cache = cache_folder(config, out)
    return {name: load_site_data(config, name, cache, progress) for name in names}


def run_centralized(
    config: RunConfig,
    data: Mapping[str, SiteData],
    out: Path,
    progress: Progress | None = None,
    stage_one: Path | None = None,
) -> dict[str, Any]:
    """Train one site alone, or the patients of several pooled, into ``out``; returns the run's metrics.

    stage_one : folder of a run whose stage I this one begins with, see ``federation.stage_one``.
    """
    task = centralized(task_of(config))
    name, own = next(iter(data.items())) if len(data) == 1 else (POOLED, pool(data))
    refuse_other_run(out, task, (name,), config)
    keep_config(config, out)
    site = Site(name, lambda: own, task, out / "sites" / name, progress)
    metrics = run_task(task, LocalSites([site]), out, trackers=build_trackers(config), stage_one=stage_one)
    if own.test:
        survival, segmentation, state = final_weights(out)
        edges, tabular = state["edges_days"], state.get("tabular")
        features = out / "features"
        found = predict(task, survival, segmentation, own.test, edges, tabular=tabular, features=features)
        found.save(out / "predictions.npz")
        save_examples(out / "examples.npz", task, segmentation, own.test, found, tabular)
    return metrics


def run_comparison(
    config: RunConfig,
    data: Mapping[str, SiteData],
    out: Path,
    progress: Progress | None = None,
    train_federated: Callable[[Path], None] | None = None,
    jobs: int = 1,
) -> dict[str, Any]:
    """Train and judge every arm into ``out`` and choose the report's examples; returns the comparison.

    jobs : how many of the pooled and local arms are trained at once (0: as many as fit the machine's cores).
    """
    task = task_of(config)
    if (out / "checkpoints").exists() or is_cross_validated(out):
        raise InputError(f"{out}: holds a run that is no comparison; give another --out")
    arms = arms_of(tuple(data), out)
    for arm in arms:
        refuse_other_run(arm.folder, *task_of_arm(arm, task), config)
    for folder in (out, *(arm.folder for arm in arms)):
        keep_config(config, folder)
    train_at_once(config, [arm for arm in arms if arm.kind != "federated"], out, jobs, progress)
    return judge(config, data, out, arms[0].folder, train_federated, progress)


def judge(
    config: RunConfig,
    data: Mapping[str, SiteData],
    out: Path,
    federated: Path,
    train_federated: Callable[[Path], None] | None = None,
    progress: Progress | None = None,
    design: Design | None = None,
) -> dict[str, Any]:
    """``evaluation.compare.compare`` with a configuration's settings, and the report's examples by the federated arm.

    federated : that arm's folder.
    """
    task = task_of(config)
    result = compare(
        task,
        data,
        out,
        bootstrap=config.evaluation.bootstrap,
        risk_groups=config.evaluation.risk_groups,
        train_federated=train_federated,
        oracle=oracle_of(config),
        progress=progress,
        design=design,
    )
    _, segmentation, state = final_weights(federated)
    judged, tabular = Predictions.load(federated / "predictions.npz"), state.get("tabular")
    save_examples(out / "examples.npz", task, segmentation, pool(data).test, judged, tabular)
    return result


def workers_of(config: RunConfig, jobs: int) -> int:
    """How many processes train at once: ``jobs``, or where that is 0 as many as fit the machine's cores."""
    return jobs or max(1, (os.cpu_count() or 1) // config.runtime.threads)


def train_at_once(
    config: RunConfig, arms: Sequence[Arm], out: Path, jobs: int, progress: Progress | None = None
) -> None:
    """Train arms in ``jobs`` processes of ``runtime.threads`` threads each; the bits do not depend on ``jobs``.

    jobs : 0 fits the machine's cores. With one process at a time nothing is done here: ``compare`` trains in this one.
    """
    workers = workers_of(config, jobs)
    if min(workers, len(arms)) > 1:
        in_processes(_train_alone, [(config, arm, out) for arm in arms], workers, "arms", progress)


def in_processes(
    train: Callable[[Job], str], jobs: Sequence[Job], workers: int, what: str, progress: Progress | None = None
) -> None:
    """Call ``train`` on every job, ``workers`` at a time, each in a fresh process; it returns a name to report.

    What one raises is raised here, and ends the others.
    """
    what = f"{len(jobs)} {what}, {workers} at a time"
    if progress is not None:
        progress(what, 0, len(jobs))
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=1) as processes:
        for done, name in enumerate(processes.imap_unordered(train, jobs), 1):
            if progress is not None:
                progress(f"{what}: {name} is trained", done, len(jobs))


def _train_alone(job: tuple[RunConfig, Arm, Path]) -> str:
    """Train one arm in a process of its own."""
    config, arm, out = job
    train_arm(arm, task_of(config), load_all_data(config, out))
    return arm.name


def evaluate_run(run: Path, cohort: Path, layout: str, split: str, progress: Progress | None = None) -> dict[str, Any]:
    """A finished run's model on a cohort: C-index with interval and pairs, DSC, calibration; predictions are kept.

    Of a cross-validated run, the ensemble of its folds' models (see ``evaluation.ensemble``), and each fold's figures.

    split : ``all`` patients with an endpoint, or the ``test`` part of the run's own split.
    Raises InputError where ``run`` is no finished run, the cohort has no such patient or is one that the run was
    trained on (then only ``test`` is honest), or parts of the model stay at the sites.
    """
    runs = load_folds(run)
    config = runs[0].config
    if split == "all" and any(Path(site.path).resolve() == cohort.resolve() for site in config.sites):
        raise InputError(f"{cohort}: the run was trained on some of these patients; use --split test")
    loaded = load_cohort(cohort, layout)
    chosen = (
        split_cohort(loaded, config.split).test
        if split == "test"
        else loaded.subset(p.id for p in loaded.patients if p.has_endpoint)
    )
    if not len(chosen):
        raise InputError(
            f"{cohort}: no patient with PET, CT and an endpoint to evaluate on; `adamss-fl check` says why"
        )
    described = None if progress is None else _described(progress, "images")
    samples = prepare_cohort(chosen, config.imaging, cache_folder(config, run), described)
    members = [
        EnsembleMember(one.task, one.survival_weights, one.segmentation_weights, one.state, one.folder / "features")
        for one in runs
    ]
    models, found = predict_together(members, samples, progress)
    bootstrap, seed = config.evaluation.bootstrap, config.seed
    alone = len(models) == 1
    figures = score(found, bootstrap, seed) if alone else ensemble_figures(models, found, bootstrap, seed)
    target = run / "evaluations" / f"{loaded.name}-{split}.npz"
    found.save(target)
    return {
        **figures,
        "pairs": figures["comparable_pairs"],
        "calibration": calibration_figures(found, config.evaluation.risk_groups),
        "predictions": str(target),
    }


def oracle_of(config: RunConfig) -> dict[str, float] | None:
    """True log hazards where every site of the configuration is a phantom hospital of one folder, else None."""
    folders = {Path(site.path).parent for site in config.sites}
    folder = next(iter(folders))
    return read_truth(folder) if len(folders) == 1 and (folder / "truth").is_dir() else None


def refuse_other_run(out: Path, task: Task, sites: Sequence[str], config: RunConfig) -> None:
    """Raise InputError, before anything is written, where ``out`` holds something else than this run."""
    if (out / "arms").exists():
        raise InputError(f"{out}: holds a comparison; give another --out")
    if is_cross_validated(out):
        raise InputError(f"{out}: holds a cross-validation; give another --out")
    refuse_other_task(out, task, sites)
    kept = out / "config.yaml"
    if not kept.exists() or not (out / "checkpoints").exists():
        return
    before = {site.name: site for site in load_config(kept).sites}
    for site in config.sites:
        known = before.get(site.name, site)
        if site.name in (*sites, *(before if POOLED in sites else ())) and known != site:
            raise InputError(f"{out}: holds a run on {known.path}, not {site.path} ({site.name}); give another --out")


def keep_config(config: RunConfig, folder: Path) -> None:
    """Write the resolved configuration into a run's folder."""
    write_atomically(folder / "config.yaml", dump_config(config).encode())


def _described(progress: Progress, what: str) -> Callable[[str, int, int], None]:
    return lambda _patient, done, total: progress(what, done, total)
