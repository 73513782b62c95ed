"""``adamss-fl train``: centralized training on one site, the same rounds as a federation's."""

from pathlib import Path
from typing import Annotated

import typer

from adamss_fl.cli.shell import JsonOption, SetOption, emit, following


def train(
    config: Annotated[Path, typer.Argument(help="Configuration of the run.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; an unfinished one is continued.")],
    site: Annotated[str | None, typer.Option(help="Train on this site alone; without it all sites are pooled.")] = None,
    overrides: SetOption = [],  # noqa: B006 - typer reads the default, nothing changes it
    json: JsonOption = False,
) -> None:
    """Train centrally: one site alone, or all sites of the configuration pooled, without a network.

    Example: adamss-fl train configs/demo.yaml --site hospital-1 --out runs/hospital-1
    """
    from adamss_fl.assembly import load_all_data, run_centralized
    from adamss_fl.config import load_config

    settings = load_config(config, overrides)
    with following("train") as report:
        data = load_all_data(settings, out, report, only=site)
        metrics = run_centralized(settings, data, out, report)
    emit(
        {
            "run": out,
            "plan": metrics["plan"],
            "rounds": metrics["rounds"],
            "c_index": metrics["c_index"],
            "comparable_pairs": metrics["comparable_pairs"],
            "dsc": metrics["dsc"],
        },
        json,
    )
