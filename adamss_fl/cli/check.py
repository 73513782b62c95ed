"""``adamss-fl check``: the quality report of a cohort."""

from pathlib import Path
from typing import Annotated

import typer

from adamss_fl.cli.shell import JsonOption, emit


def check(
    cohort: Annotated[Path, typer.Argument(help="Folder of one hospital's patients.")],
    config: Annotated[
        Path | None,
        typer.Option(help="A run's configuration: also name tumours that its grid cannot hold or find."),
    ] = None,
    layout: Annotated[str, typer.Option(help="How the folder is laid out; see 'adamss-fl plugins'.")] = "hecktor2022",
    json: JsonOption = False,
) -> None:
    """Check every patient of a cohort: files, volumes, masks, endpoints. Nothing is changed.

    Example: adamss-fl check demo/phantom/hospital-1 --config configs/demo.yaml
    """
    from adamss_fl.cohort import check_cohort, load_cohort

    imaging = None
    if config is not None:
        from adamss_fl.config import load_config

        imaging = load_config(config).imaging
    report = check_cohort(load_cohort(cohort, layout), imaging)
    emit({"patients": report.patients, "usable": report.usable, "problems": list(report.problems)}, json)
