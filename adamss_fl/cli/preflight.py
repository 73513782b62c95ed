"""``adamss-fl preflight``: the sites of a configuration side by side, before anything is trained."""

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from adamss_fl.cli.shell import JsonOption, SetOption, emit, following
from adamss_fl.errors import InputError

SHOWN_TIMES = 6
"""Rows of the survival curve over all sites."""

REGRESSIONS = {"cox": "stratified by site", "cox_one_baseline": "one baseline hazard for all sites"}


def preflight(
    config: Annotated[Path, typer.Argument(help="Configuration of the run.")],
    overrides: SetOption = [],  # noqa: B006 - typer reads the default, nothing changes it
    json: JsonOption = False,
) -> None:
    """Compare the training patients of all sites and tell what is likely to be wrong. Nothing is trained or changed.

    Exit code 2 where a finding is an error; warnings alone are no failure.

    Example: adamss-fl preflight configs/demo.yaml
    """
    from adamss_fl.assembly import load_all_data
    from adamss_fl.config import load_config, task_of
    from adamss_fl.federation.cohort.figures import error_lines
    from adamss_fl.federation.local_sites import LocalSites
    from adamss_fl.federation.run import preflight as compare_sites
    from adamss_fl.federation.site import Site

    settings = load_config(config, overrides)
    task = task_of(settings)
    with TemporaryDirectory(prefix="adamss-fl-") as folder, following("preflight") as report:
        data = load_all_data(settings, Path(folder), report)
        sites = [Site(name, lambda own=own: own, task, Path(folder) / name) for name, own in data.items()]  # type: ignore[misc]
        figures = compare_sites(task, LocalSites(sites), Path(folder))
    errors = error_lines(figures)
    emit(figures if json else tables(figures), json)
    if errors:
        more = "" if len(errors) == 1 else f" (and {len(errors) - 1} more)"
        raise InputError(f"{config}: {errors[0]}{more}")


def tables(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The sites side by side, the findings, and what they make together, for a terminal."""
    said: dict[str, Any] = {"sites": {name: _site(summary) for name, summary in figures["sites"].items()}}
    if not figures["sites"]:
        said["sites"] = figures.get("reason")
    said["findings"] = [
        {name: found[name] for name in ("severity", "site", "code", "message", "remedy")}
        for found in figures["findings"]
    ]
    said |= _follow_up(figures["follow_up"])
    said |= _columns(figures["columns"])
    for name, title in REGRESSIONS.items():
        said |= _cox(figures[name], title)
    parts = {"summary": figures, **{name: figures[name] or {} for name in ("follow_up", "columns", *REGRESSIONS)}}
    left_out = [
        {"figure": part, "site": site, "reason": reason}
        for part, found in parts.items()
        for site, reason in found.get("left_out", {}).items()
    ]
    return said | ({"left out": left_out} if left_out else {})


def _site(summary: Mapping[str, Any]) -> dict[str, Any]:
    row = {
        "patients": summary["patients"],
        "events": f"{summary['events']} ({summary['events'] / summary['patients']:.0%})",
        "median follow-up, days": summary["follow_up_days"],
        "PET voxel, mm": _spacing(summary["pet_spacing_mm"]),
        "CT voxel, mm": _spacing(summary["ct_spacing_mm"]),
        "SUV mean": summary["suv_mean"],
        "SUV sd": summary["suv_sd"],
        "SUV 95 %": summary["suv_p95"],
        "tumour mL": summary["tumour_ml"],
        "nodes": summary["nodes"],
    }
    return row | {f"{column} missing": f"{share:.0%}" for column, share in summary["missing"].items()}


def _spacing(mean: Any) -> str | None:
    return None if mean is None else " x ".join(f"{axis:.3g}" for axis in mean)


def _follow_up(found: Mapping[str, Any]) -> dict[str, Any]:
    if "all" not in found:
        return {"survival": found["reason"]}
    curve = found["all"]
    last = len(curve["edges_days"]) - 1
    places = sorted({round(last * step / (SHOWN_TIMES - 1)) for step in range(SHOWN_TIMES)})
    test = found["log_rank_between_sites"]
    said: dict[str, Any] = {
        "event-free survival of all sites": {
            f"{curve['edges_days'][place]:.0f} days": {
                "at risk": curve["at_risk"][place],
                "survival": f"{curve['survival'][place]:.3f}",
                "at least, with exact times": f"{curve['survival_low'][place]:.3f}",
                "95 % interval": f"{curve['ci_low'][place]:.3f} to {curve['ci_high'][place]:.3f}",
            }
            for place in places
        },
        "event-free survival by site": {
            site: {"patients": own["patients"], "events": own["events"], "median, days": own["median_days"]}
            | {f"{day:.0f} days": f"{s:.2f} ({n})" for day, s, n in zip(*_curve_of(own), strict=True)}
            for site, own in found["sites"].items()
        },
        "median follow-up of all sites, days": found["median_follow_up_days"],
    }
    if test is not None:
        tested = test.get("reason") or f"chi-squared {test['statistic']:.3g}, p {test['p_value']:.3g}"
        said["log-rank test between sites"] = tested
    return said


def _curve_of(own: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return own["days"], own["survival"], own["at_risk"]


def _columns(found: Mapping[str, Any] | None) -> dict[str, Any]:
    if not found:
        return {}
    if "reason" in found:
        return {"columns": found["reason"]}
    shown = ("n", "missing", "mean", "sd", "hidden_patients")
    rows = {
        name: {key: summary[key] for key in shown} | _quartiles(found["quartiles"][name])
        for name, summary in found["summaries"].items()
    }
    return {"continuous columns of all sites": rows} if rows else {}


def _quartiles(found: Mapping[str, Any]) -> dict[str, Any]:
    if "reason" in found:
        return {"quartiles": found["reason"]}
    shown = ", ".join(f"{each['value']:.4g}" for each in found["levels"])
    return {"quartiles": shown, "within": max(each["half_width"] for each in found["levels"])}


def _cox(found: Mapping[str, Any] | None, title: str) -> dict[str, Any]:
    if not found:
        return {}
    if "reason" in found:
        return {f"Cox regression, {title}": found["reason"]}
    rows: dict[str, Any] = {
        name: {
            "per": each["per"],
            "hazard ratio": f"{each['hazard_ratio']:.2f}",
            "95 % interval": f"{each['ci_low']:.2f} to {each['ci_high']:.2f}",
            "p": f"{each['p']:.3g}",
        }
        for name, each in found["covariates"].items()
    }
    rows |= {name: {"per": f"left out: {reason}"} for name, reason in found.get("covariates_left_out", {}).items()}
    return {f"Cox regression, {title}, {found['events']} events": rows}
