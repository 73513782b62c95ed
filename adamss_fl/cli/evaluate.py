"""``adamss-fl evaluate``: a run's model on a cohort."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from adamss_fl.cli.shell import JsonOption, emit, following


def evaluate(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    cohort: Annotated[Path, typer.Argument(help="Folder of a cohort.")],
    layout: Annotated[str, typer.Option(help="The cohort's layout; `adamss-fl plugins` lists them.")] = "hecktor2022",
    split: Annotated[
        Literal["all", "test"],
        typer.Option(help="All patients of the cohort, or those the run's own split holds back for testing."),
    ] = "all",
    json: JsonOption = False,
) -> None:
    """Evaluate a finished run's model on a cohort; predictions per patient are written to RUN/evaluations.

    Example: adamss-fl evaluate runs/hospital-1 demo/phantom/hospital-2
    """
    from adamss_fl.assembly import evaluate_run

    with following("evaluate") as report:
        figures = evaluate_run(run, cohort, layout, split, report)
    emit(figures, json)
