"""``adamss-fl explain``: what a run's network looks at."""

from pathlib import Path
from typing import Annotated

import typer

from adamss_fl.cli.shell import JsonOption, emit, following


def explain(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    patients: Annotated[int, typer.Option(min=1, help="How many patients get maps and a figure.")] = 5,
    patient: Annotated[str | None, typer.Option(help="Identifier of the one patient that gets them instead.")] = None,
    cohort: Annotated[
        Path | None, typer.Option(help="Folder of another cohort; by default the test patients of the run's sites.")
    ] = None,
    layout: Annotated[str, typer.Option(help="That cohort's layout; `adamss-fl plugins` lists them.")] = "hecktor2022",
    out: Annotated[Path | None, typer.Option(help="Folder for maps, figures and numbers; default RUN/focus.")] = None,
    json: JsonOption = False,
) -> None:
    """Write attention maps and gate openings of stage I and stage II, and whether focus widened and fusion adapted.

    Numbers in OUT/focus.json rest on all test patients; OUT/patients holds maps (NIfTI) and figures of a few and stays
    on this machine. A gate's weight is early-fusion stream against late concatenation, not PET against CT.

    Example: adamss-fl explain runs/hospital-1 --patients 3
    """
    from adamss_fl.evaluation.explain import StageModel, cohorts_to_explain, same_weights
    from adamss_fl.evaluation.explain import explain as write_explanation
    from adamss_fl.prediction import load_run

    trained = load_run(run)
    config = trained.config
    stages = [
        StageModel("stage-1", "Stage I", lambda: trained.model("segmentation")),
        StageModel("stage-2", "Stage II", lambda: trained.model("survival")),
    ]
    if same_weights(trained.segmentation_weights, trained.survival_weights):
        stages = [StageModel("model", "Model", lambda: trained.model("survival"))]
    target = run / "focus" if out is None else out
    cache = Path(config.cache) if config.cache else run / "cache"
    with following("explain") as report:
        found = write_explanation(
            stages,
            cohorts_to_explain(config.sites, config.split, cohort, layout),
            trained.task,
            target,
            cache=cache,
            draw=patients if patient is None else patient,
            bootstrap=config.evaluation.bootstrap,
            progress=report,
        )
    figures = {"out": target, "patients": found["patients"], "stages": found["stages"]}
    for name in ("focus", "fusion"):
        if name in found:
            figures |= {name: found[name]["sentence"]}
    if "focus" not in found:
        figures["focus"] = "The last round trained both stages or one alone, so there are no two stages to compare."
    emit(figures, json)
