"""``adamss-fl simulate``: the federation on Flower's simulation engine."""

from pathlib import Path
from typing import Annotated

import typer

from adamss_fl.cli.shell import JsonOption, SetOption, emit


def simulate(
    config: Annotated[Path, typer.Argument(help="The run's configuration, a YAML file.")],
    out: Annotated[Path, typer.Option(help="The run's folder; an unfinished run in it is continued.")],
    overrides: SetOption = [],  # noqa: B006 - typer reads the default, nothing changes it
    json: JsonOption = False,
) -> None:
    """Run the federation on Flower's simulation engine: every site a node, several at once, on this machine.

    Example: adamss-fl simulate configs/demo.yaml --out runs/demo
    """
    from adamss_fl.cli import flower_app
    from adamss_fl.cli.machine import introduce
    from adamss_fl.config import load_config

    settings = load_config(config, overrides)
    introduce(settings.runtime, out)
    metrics = flower_app.simulate(settings, config, out)
    keys = ("rounds", "sites", "c_index", "dsc")
    emit({"run": out, **{key: metrics.get(key) for key in keys}}, json)
