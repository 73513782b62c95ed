"""``adamss-fl check``: the quality report of a cohort."""

from pathlib import Path
from typing import Annotated

import typer

from adamss_fl.cli.shell import JsonOption, emit


def check(
    cohort: Annotated[Path, typer.Argument(help="Folder of one hospital's patients.")],
    layout: Annotated[str, typer.Option(help="How the folder is laid out; see 'adamss-fl plugins'.")] = "hecktor2022",
    json: JsonOption = False,
) -> None:
    """Check every patient of a cohort: files, volumes, masks, endpoints. Nothing is changed.

    Example: adamss-fl check demo/phantom/site-1
    """
    from adamss_fl.cohort import check_cohort, load_cohort

    report = check_cohort(load_cohort(cohort, layout))
    emit({"patients": report.patients, "usable": report.usable, "problems": list(report.problems)}, json)
