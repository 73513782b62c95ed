"""``adamss-fl compare``: local-only, federated and pooled training with one budget, on the same test patients."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from adamss_fl.cli.shell import JsonOption, SetOption, emit, following


def compare(
    config: Annotated[Path, typer.Argument(help="Configuration of the run.")],
    out: Annotated[Path, typer.Option(help="Folder of the comparison; an unfinished one is continued.")],
    transport: Annotated[
        Literal["flower", "local"],
        typer.Option(help="How the federated arm's messages travel: Flower's simulation engine, or this process."),
    ] = "flower",
    jobs: Annotated[
        int, typer.Option(min=0, help="Arms trained at once, in processes of their own; 0 fits the machine's cores.")
    ] = 0,
    overrides: SetOption = [],  # noqa: B006 - typer reads the default, nothing changes it
    json: JsonOption = False,
) -> None:
    """Train every arm (each hospital alone, all federated, all pooled) and judge them on the same test patients.

    Example: adamss-fl compare configs/demo.yaml --out runs/comparison
    """
    from adamss_fl.assembly import load_all_data, run_comparison
    from adamss_fl.cli.flower_app import simulate
    from adamss_fl.config import load_config

    settings = load_config(config, overrides)

    def over_flower(folder: Path) -> None:
        simulate(settings, config, folder, quiet=json)

    with following("compare") as report:
        data = load_all_data(settings, out, report)
        federated = over_flower if transport == "flower" else None
        result = run_comparison(settings, data, out, report, federated, jobs)
    if json:
        emit({"run": out, **result}, json)
        return
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
        for name, arm in comparison["arms"].items()
    }
    gaps = {
        name: {"C-index": gap["difference"], "95 % interval": interval(gap["low"], gap["high"])}
        for name, gap in comparison["gaps"].items()
        if name != "own_patients"
    }
    return {f"arms on {comparison['test_patients']} test patients": arms, "differences": gaps}


def interval(low: float | None, high: float | None) -> str | None:
    """``0.612 to 0.701``, or None where there is none."""
    return None if low is None or high is None else f"{low:.3f} to {high:.3f}"
