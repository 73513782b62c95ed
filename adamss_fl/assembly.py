"""From a configuration to the objects that run it: task, sites with their patients, trackers, and the run itself."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from adamss_fl.cohort import load_cohort, split_cohort
from adamss_fl.cohort.settings import CohortSettings
from adamss_fl.config import RunConfig, dump_config
from adamss_fl.errors import InputError
from adamss_fl.federation.events import Tracker
from adamss_fl.federation.files import write_atomically
from adamss_fl.federation.messages import Sites
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.run import run_federation as run_task
from adamss_fl.federation.site import Progress, Site, SiteData
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample, prepare_cohort
from adamss_fl.plugins import create


def task_of(config: RunConfig) -> Task:
    """The part of a configuration that server and sites agree on."""
    return Task(
        name=config.name,
        plan=RoundPlan(config.plan.resolved()),
        seed=config.seed,
        split=config.split,
        imaging=config.imaging,
        augmentation=config.augmentation,
        model=config.model,
        stages=config.stages,
        federation=config.federation,
        runtime=config.runtime,
        validate_every=config.evaluation.every if config.split.validation > 0 else 0,
    )


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
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "config.yaml", dump_config(config).encode())
    return run_task(task_of(config), sites, out, trackers=build_trackers(config))


def _described(progress: Progress, what: str) -> Callable[[str, int, int], None]:
    return lambda _patient, done, total: progress(what, done, total)
