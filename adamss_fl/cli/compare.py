"""``adamss-fl compare``: local-only, federated and pooled training with one budget, on the same test patients."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from adamss_fl.cli.shell import JsonOption, SetOption, emit, following
from adamss_fl.errors import InputError

if TYPE_CHECKING:
    from adamss_fl.cli.forecast import Forecast
    from adamss_fl.run_config import RunConfig


def compare(
    config: Annotated[Path, typer.Argument(help="Configuration of the run.")],
    out: Annotated[Path, typer.Option(help="Folder of the comparison; an unfinished one is continued.")],
    transport: Annotated[
        Literal["flower", "local"],
        typer.Option(
            help="How the federated arm's messages travel: Flower's simulation engine, or this process. Strategies "
            "and, under --tune, all arms are trained without Flower: the models are the same."
        ),
    ] = "flower",
    jobs: Annotated[
        int, typer.Option(min=0, help="Arms trained at once, in processes of their own; 0 fits the machine's cores.")
    ] = 0,
    seeds: Annotated[
        list[str],
        typer.Option(
            help="The whole comparison once a seed, for example 0,1,2, in OUT/seed-N, and study.json over them. A seed "
            "changes initial weights, order of patients, augmentation, dropout, resamples and what --tune tries; the "
            "split stays."
        ),
    ] = [],  # noqa: B006 - typer reads the default, nothing changes it
    split_by_seed: Annotated[
        bool, typer.Option("--split-by-seed", help="Every seed divides the patients anew, too.")
    ] = False,
    strategies: Annotated[
        str,
        typer.Option(
            help="Further arms, for example fedprox,fedbn: fedavg, fedprox, fedadam, fedbn, local-gates, personal, "
            "sequential, per-round."
        ),
    ] = "",
    tune: Annotated[
        int,
        typer.Option(
            min=0,
            help="Settings (learning rates around the configured ones) that every arm tries alike; the best on its "
            "validation patients is taken. 0: the configured one, untried.",
        ),
    ] = 0,
    null: Annotated[
        bool, typer.Option("--null", help="A pooled arm that is trained on shuffled outcomes: its C must hold 0.5.")
    ] = False,
    overrides: SetOption = [],  # noqa: B006 - typer reads the default, nothing changes it
    json: JsonOption = False,
) -> None:
    """Train every arm (each hospital alone, all federated, all pooled) and judge them on the same test patients.

    Example: adamss-fl compare configs/demo.yaml --out runs/comparison --seeds 0,1,2 --strategies fedprox,fedbn
    """
    from adamss_fl.cli.comparison import run_one, run_seeds
    from adamss_fl.cli.flower_app import simulate
    from adamss_fl.cli.machine import introduce
    from adamss_fl.config import load_config
    from adamss_fl.evaluation.settings import Design
    from adamss_fl.evaluation.strategies import read_strategies

    settings = load_config(config, overrides)
    asked = _whole_numbers(seeds)
    if split_by_seed and not asked:
        raise InputError("--split-by-seed: there are no --seeds to split by; give them, for example --seeds 0,1,2")
    design = Design(read_strategies(strategies), settings.evaluation.strategies, tune, null)

    def over_flower(own: "RunConfig", folder: Path, forecast: "Forecast | None") -> None:
        simulate(own, config, folder, quiet=json, forecast=forecast)

    federated = over_flower if transport == "flower" else None
    introduce(settings.runtime, out)
    with following("compare") as report:
        if asked:
            result = run_seeds(settings, out, design, asked, split_by_seed, report, federated, jobs)
        else:
            result = run_one(settings, out, design, report, federated, jobs)
    if json:
        emit({"run": out, **result}, json)
    elif asked:
        emit({"run": out, "plan": result["plan"], **study_tables(result)})
    else:
        emit({"run": out, "plan": result["plan"], "oracle_c_index": result["oracle_c_index"], **tables(result)})


def tables(comparison: dict[str, Any]) -> dict[str, Any]:
    """The table of arms and that of differences, for a terminal."""
    arms = {
        name: {
            "trained on": arm["patients"],
            "C-index": arm["c_index"],
            "95 % interval": interval(arm["ci_low"], arm["ci_high"]),
            "pairs": arm["comparable_pairs"],
            "DSC tumour": arm["dsc"]["tumour"],
            "DSC nodes": arm["dsc"]["nodes"],
        }
        | ({"setting": f"{arm['tuning']['chosen']} of {len(arm['tuning']['settings'])}"} if "tuning" in arm else {})
        for name, arm in comparison["arms"].items()
    }
    gaps = {
        name: {"C-index": gap["difference"], "95 % interval": interval(gap["low"], gap["high"])}
        for name, gap in comparison["gaps"].items()
        if name != "own_patients"
    }
    return {f"arms on {comparison['test_patients']} test patients": arms, "differences": gaps}


def study_tables(study: dict[str, Any]) -> dict[str, Any]:
    """The arms' means and the differences over all seeds, for a terminal."""
    arms = {
        name: {
            "mean C-index": arm["c_index"]["mean"],
            "sd over seeds": arm["c_index"]["sd"],
            "DSC tumour": arm["dsc"]["tumour"]["mean"],
            "DSC nodes": arm["dsc"]["nodes"]["mean"],
        }
        for name, arm in study["arms"].items()
    }
    gaps = {}
    for name, gap in study["differences"].items():
        if name == "own_patients":
            continue
        gaps[name] = {"C-index": gap["difference"], "95 % interval within seeds": interval(gap["low"], gap["high"])}
        same = gap.get("same_patients")
        if same is not None:
            gaps[name]["same patients in all seeds"] = interval(same["low"], same["high"])
    seeds = ", ".join(map(str, study["seeds"]))
    return {f"arms over seeds {seeds}": arms, "differences": gaps}


def interval(low: float | None, high: float | None) -> str | None:
    """``0.612 to 0.701``, or None where there is none."""
    return None if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _whole_numbers(texts: list[str]) -> tuple[int, ...]:
    """Seeds from texts such as ``0,1,2``. Raises InputError for anything but whole numbers of 0 or more."""
    parts = [part.strip() for text in texts for part in text.split(",")]
    for part in parts:
        if not (part.isascii() and part.isdecimal()):
            raise InputError(f"--seeds: {part!r} is no whole number of 0 or more; give for example --seeds 0,1,2")
    return tuple(map(int, parts))
