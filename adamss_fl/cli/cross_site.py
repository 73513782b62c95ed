"""``adamss-fl cross-site``: every model of a comparison on every site's test patients."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from adamss_fl.cli.shell import JsonOption, emit


def cross_site(
    run: Annotated[Path, typer.Argument(help="Folder that 'compare' finished.")],
    json: JsonOption = False,
) -> None:
    """Tell how every model does at every hospital, and whether the federation helped each; writes RUN/cross_site.json.

    Example: adamss-fl cross-site demo/comparison
    """
    from adamss_fl.evaluation.cross_site import FILE
    from adamss_fl.evaluation.cross_site import cross_site as judge

    found = judge(run)
    if json:
        emit({"run": run, **found}, json)
        return
    emit({"written": run / FILE, **tables(found)})


def tables(found: Mapping[str, Any]) -> dict[str, Any]:
    """The sites, the matrix of C-indices, that of DSC, and the gains, for a terminal."""
    matrix, sites, family = found["matrix"], found["sites"], found["family"]
    first = next(iter(matrix.values()))
    said: dict[str, Any] = {
        "test patients": {
            site: {
                "patients": first[site]["patients"],
                "events": first[site]["events"],
                "comparable pairs": f"{first[site]['comparable_pairs']:,}",
            }
            for site in sites
        },
        "C-index (95 % interval) of each model at each site": {
            model: {site: _c_index(row[site]) for site in sites} for model, row in matrix.items()
        },
        "DSC of tumour / nodes": {model: {site: _dsc(row[site]) for site in sites} for model, row in matrix.items()},
        f"federated minus the site's own model; p_Holm over {family} site{'' if family == 1 else 's'}": {
            site: _gain(gain) for site, gain in found["gains"].items()
        },
    }
    if found["left_out"]:
        said["arms without predictions"] = found["left_out"]
    return said


def _c_index(cell: Mapping[str, Any]) -> str:
    if cell["c_index"] is None:
        return str(cell["note"])
    if cell["ci_low"] is None:
        return f"{cell['c_index']:.3f} (no interval)"
    return f"{cell['c_index']:.3f} ({cell['ci_low']:.3f} to {cell['ci_high']:.3f})"


def _dsc(cell: Mapping[str, Any]) -> str:
    return " / ".join("-" if value is None else f"{value:.3f}" for value in cell["dsc"].values())


def _gain(gain: Mapping[str, Any]) -> dict[str, Any]:
    known = gain["difference"] is not None
    return {
        "difference": f"{gain['difference']:+.3f}" if known else None,
        "95 % interval": f"{gain['low']:+.3f} to {gain['high']:+.3f}" if known else None,
        "p": _three(gain["p"]),
        "p_Holm": _three(gain["p_holm"]),
        "the federation": gain["verdict"],
        "after Holm": gain["verdict_holm"],
        "smallest to be seen": _three(gain["detectable"]),
        "note": gain["note"],
    }


def _three(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"
