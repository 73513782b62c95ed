"""``adamss-fl simulate``: the federation on Flower's simulation engine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from adamss_fl.cli import flower_app
from adamss_fl.cli.shell import JsonOption, SetOption, emit

if TYPE_CHECKING:
    from adamss_fl.cli.forecast import Forecast
    from adamss_fl.run_config import RunConfig


def simulate(
    config: Annotated[Path, typer.Argument(help="The run's configuration, a YAML file.")],
    out: Annotated[Path, typer.Option(help="The run's folder; an unfinished run in it is continued.")],
    overrides: SetOption = [],  # noqa: B006 - typer reads the default, nothing changes it
    json: JsonOption = False,
) -> None:
    """Run the federation on Flower's simulation engine: every site a node, several at once, on this machine.

    Example: adamss-fl simulate configs/demo.yaml --out runs/demo
    """
    from adamss_fl.cli.machine import introduce
    from adamss_fl.config import load_config
    from adamss_fl.training.machine import settle_for_processes

    settings = load_config(config, overrides)
    introduce(settings.runtime, out)
    forecast = _forecast(settings, out)
    settle_for_processes(settings.runtime, out)
    metrics = flower_app.simulate(settings, config, out, forecast=forecast)
    keys = ("rounds", "sites", "c_index", "dsc")
    emit({"run": out, **{key: metrics.get(key) for key in keys}}, json)


def _forecast(config: "RunConfig", out: Path) -> "Forecast | None":
    """The expected time of a simulation; None where it is short. Prepares the largest site's images, to time steps."""
    from adamss_fl.assembly import cache_folder, load_site_data
    from adamss_fl.cli.forecast import FEWEST_STEPS, forecast_of, phases_of_flower
    from adamss_fl.cohort import load_cohort, split_cohort
    from adamss_fl.config import task_of
    from adamss_fl.evaluation.workload import Size, work_of_run

    task, sizes = task_of(config), {}
    for site in config.sites:
        split = split_cohort(load_cohort(Path(site.path), site.layout, site.name), config.split)
        sizes[site.name] = Size(len(split.train), len(split.validation), len(split.test))
    try:
        works = work_of_run(task, sizes)
    except ValueError:  # fewer patients than a batch; the run says so by name
        return None
    if sum(work.all_steps for work in works.values()) < FEWEST_STEPS:
        return None
    first = max(sizes, key=lambda name: sizes[name].train)
    samples = load_site_data(config, first, cache_folder(config, out / "sites" / first)).train
    at_once, rounds = flower_app.sites_at_once(config), len(task.plan.rounds)
    return forecast_of(task, samples, lambda speed: phases_of_flower(works, speed, at_once, rounds))
