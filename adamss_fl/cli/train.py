"""``adamss-fl train``: centralized training on one site or all sites pooled, the same rounds as a federation's."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from adamss_fl.cli.shell import JsonOption, SetOption, emit, following
from adamss_fl.errors import InputError

if TYPE_CHECKING:
    from adamss_fl.cli.forecast import Forecast
    from adamss_fl.federation.site_data import SiteData
    from adamss_fl.run_config import RunConfig


def train(
    config: Annotated[Path, typer.Argument(help="Configuration of the run.")],
    out: Annotated[Path, typer.Option(help="Folder of the run; an unfinished one is continued.")],
    site: Annotated[str | None, typer.Option(help="Train on this site alone; without it all sites are pooled.")] = None,
    folds: Annotated[
        str | None,
        typer.Option(
            metavar="N|centre",
            help="Cross-validate inside the training part: N folds stratified by event and centre, or one fold a "
            "centre. Every fold is a run of its own under OUT/folds.",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(min=0, help="With --folds: folds trained at once, in processes; 0, the default, fits the cores."),
    ] = None,
    stage_one: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Begin with the stage I of this run, which has the same settings up to stage II, and train stage II.",
        ),
    ] = None,
    overrides: SetOption = [],  # noqa: B006 - typer reads the default, nothing changes it
    json: JsonOption = False,
) -> None:
    """Train centrally: one site alone, or all sites of the configuration pooled, without a network.

    Example: adamss-fl train configs/demo.yaml --site hospital-1 --out runs/hospital-1

    Example: adamss-fl train configs/demo.yaml --folds 5 --out runs/five-folds

    Example: adamss-fl train configs/demo.yaml --stage-one runs/first --set stages.transfer=encoder --out runs/second
    """
    from adamss_fl.assembly import load_all_data, run_centralized
    from adamss_fl.cli.machine import introduce
    from adamss_fl.config import load_config
    from adamss_fl.crossval import run_cross_validation
    from adamss_fl.training.machine import settle_for_processes

    if folds is None and jobs is not None:
        raise InputError("--jobs: one run is trained in one process; give --jobs together with --folds")
    if folds is not None and stage_one is not None:
        raise InputError("--stage-one: every fold trains a stage I of its own; give either --folds or --stage-one")
    scheme = None if folds is None else _scheme(folds)
    settings = load_config(config, overrides)
    introduce(settings.runtime, out)
    with following("train") as report:
        data = load_all_data(settings, out, report, only=site)
        settle_for_processes(settings.runtime, out)
        if scheme is not None:
            result = run_cross_validation(settings, data, out, scheme, report, jobs or 0)
        else:
            forecast = None if stage_one is not None else _forecast(settings, data)
            follow = report if forecast is None else forecast.follow(report, lambda what: "run")
            metrics = run_centralized(settings, data, out, follow, stage_one)
    if scheme is not None:
        emit({"run": out, **(_summary(result) if json else _tables(result))}, json)
        return
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


def _forecast(config: "RunConfig", data: "Mapping[str, SiteData]") -> "Forecast | None":
    """The expected time of a run on the patients of all of ``data``, pooled; None where it is short."""
    from adamss_fl.cli.forecast import forecast_of, phases_of_run
    from adamss_fl.config import task_of
    from adamss_fl.evaluation.compare import centralized, pool
    from adamss_fl.evaluation.workload import Size, Work, models_of, work_of_run

    task, own = centralized(task_of(config)), pool(data)
    try:
        works = work_of_run(task, {"all": Size.of(own)})
    except ValueError:  # fewer patients than a batch; the run says so
        return None
    judged = Work(applied=len(own.test) * models_of(task))
    return forecast_of(task, own.train, lambda speed: phases_of_run(works, speed, judged))


def _scheme(folds: str) -> int | str:
    """A number of folds or ``centre``. Raises InputError for anything else."""
    if folds == "centre":
        return folds
    if not folds.isdecimal():
        raise InputError(f"--folds: {folds!r} is neither a number nor 'centre'; give for example --folds 5")
    return int(folds)


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    """``cross_validation.json`` with the keys that every training command gives."""
    within = result["out_of_fold"]["within_folds"]
    return {
        "c_index": within["c_index"],
        "comparable_pairs": within["comparable_pairs"],
        "dsc": result["out_of_fold"]["dsc"],
        **result,
    }


def _tables(result: dict[str, Any]) -> dict[str, Any]:
    """What a terminal shows: a row a fold, what they say together, and the held-out test patients."""
    from adamss_fl.cli.compare import interval

    def row(scores: dict[str, Any]) -> dict[str, Any]:
        return {
            "C-index": scores["c_index"],
            "95 % interval": interval(scores.get("ci_low"), scores.get("ci_high")),
            "pairs": scores["comparable_pairs"],
        }

    folds = {
        fold["label"]: {"trained on": fold["trained_on"], "held out": fold["patients"], "events": fold["events"]}
        | row(fold)
        | {"DSC tumour": fold["dsc"]["tumour"], "DSC nodes": fold["dsc"]["nodes"]}
        for fold in result["folds"]
    }
    spread, found, test = result["over_folds"]["c_index"], result["out_of_fold"], result["test"]
    together = {
        "pairs within folds": row(found["within_folds"]),
        "all out-of-fold pairs, by expected days": row(found["all_pairs"]),
    }
    tables: dict[str, Any] = {
        "plan": result["plan"],
        "scheme": result["scheme"],
        "mean of the folds' C-indices": spread["mean"],
        "standard deviation over folds": spread["sd"],
        "folds, each on its held-out patients": folds,
        "out of fold": together,
    }
    if test is None:
        return {**tables, "test": "no patients were held out (split.test is 0), so there is no test of the ensemble"}
    rows = {"ensemble of the folds": row(test["ensemble"])}
    rows |= {f"model of fold {scores['fold']}": row(scores) for scores in test["folds"]}
    return {**tables, f"{test['test_patients']} test patients, in no fold": rows}
