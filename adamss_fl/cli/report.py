"""``adamss-fl report``: a run as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from adamss_fl.cli.shell import JsonOption, emit


def report(
    run: Annotated[Path, typer.Argument(help="Folder that 'compare', 'train' or 'simulate' wrote.")],
    json: JsonOption = False,
) -> None:
    """Write RUN/report.html: one page with answers, tables and figures, that needs no network.

    Example: adamss-fl report demo/comparison
    """
    from adamss_fl.evaluation.report import build_report

    emit({"report": build_report(run)}, json)
