"""Sites side by side before training, and the cohort that they make together: what the server makes of the answers to
cohort queries.

Summaries give the findings; counts on one time grid the Kaplan-Meier curves, numbers at risk and the log-rank test
between sites; sums per column its mean, spread and histogram; and the regression of ``cohort.regression`` the hazard
ratios of clinical columns. Each part stands for itself: where a policy forbids its query, or too few sites answer, it
holds the ``reason`` instead, and sites whose answer does not count are under its ``left_out`` with theirs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.federation.cohort.regression import one_baseline, regression
from adamss_fl.federation.outcome.weighted import listed, or_reason
from adamss_fl.federation.questions import Ask, Asked, Questions
from adamss_fl.federation.rounds import QuorumLost
from adamss_fl.federation.statistics.cells import Cells
from adamss_fl.federation.statistics.log_rank import grid_log_rank
from adamss_fl.federation.statistics.preflight import PreflightSettings, findings
from adamss_fl.federation.statistics.quantiles import federated_quantiles
from adamss_fl.federation.statistics.site_summary import SiteSummary
from adamss_fl.federation.statistics.summaries import ColumnSums, column_summary
from adamss_fl.federation.statistics.survival_counts import SurvivalCounts
from adamss_fl.federation.statistics.survival_curves import censoring_curve, grid_kaplan_meier, median_follow_up
from adamss_fl.federation.task import Task
from adamss_fl.federation.time_grids import agreed_counts, nested_edges
from adamss_fl.radiomics.clinical import ColumnEncoding
from adamss_fl.radiomics.encoding import TabularEncoding

HIGHEST_REAL_SUV = 20.0
"""Where SUV are clipped lower than this, a body may well have 5 % of its voxels at the clip."""
COLUMN_EDGES_SD = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
QUARTILES = (0.25, 0.5, 0.75)
QUARTILE_REACH_SD = 2.0
QUARTILE_WIDTH_SD = 0.07
"""Known to half of it either way, unless cells get too small: two questions of eight parts each suffice."""
SHOWN_TIMES = 6
"""Times at which a site's own curve and numbers at risk are given."""


def cohort_figures(
    ask: Ask,
    task: Task,
    sites: Sequence[str],
    edges_days: Sequence[float] | None,
    tabular: TabularEncoding | None,
) -> dict[str, Any]:
    """All figures on the training patients of ``sites``, as a JSON-able mapping without NaN.

    ask : sends a query's settings to all sites and gives the replies that count, sorted by site. edges_days : the run's
    time bins; tabular : its encoding, with the clinical columns learnt; None where there is none.

    ``sites`` : SiteSummary by site; ``findings`` : see ``statistics.preflight``; ``follow_up``, and, None without
    clinical columns, ``columns``, ``cox`` (stratified by site) and ``cox_one_baseline`` over all sites. See the module
    for ``reason`` and ``left_out``.
    """
    questions = Questions(ask, tuple(sites))
    known = tabular if tabular is not None and tabular.clinical else None
    figures = _part(lambda: _side_by_side(questions, task))
    cox = None if known is None else _part(lambda: regression(questions, known))
    return {
        **({"sites": {}, "findings": []} | figures),
        "follow_up": _part(lambda: _follow_up(questions, edges_days)),
        "columns": None if known is None else _part(lambda: _columns(questions, known)),
        "cox": cox,
        "cox_one_baseline": None if known is None else _part(lambda: _one_baseline(questions, known, cox, edges_days)),
    }


def error_lines(figures: Mapping[str, Any]) -> list[str]:
    """One line for each finding that is an error: site, code, what and how to mend it."""
    return [
        f"{found['site']}: {found['code']}: {found['message']}; {found['remedy']}"
        for found in figures["findings"]
        if found["severity"] == "error"
    ]


def _part(make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A part of the figures, or the reason why there is none."""
    try:
        found = make()
        json.dumps(found, allow_nan=False)  # sums that no patients have may still overflow
    except (InputError, QuorumLost) as error:
        return {"reason": str(error)}
    except ValueError:
        return {"reason": "a figure is not finite: a site's sums are those of no patients"}
    return found


def _side_by_side(questions: Questions, task: Task) -> dict[str, Any]:
    def read(given: Mapping[str, Any], site: str, patients: int) -> SiteSummary:
        summary = SiteSummary.from_plain(given.get("summary"))
        if (summary.site, summary.patients) != (site, patients):
            raise InputError("site summary: of another site, or of other patients than the answer's")
        return summary

    told = questions.put({"query": "summary"}, read)
    if not told.answers:
        return {"sites": {}, "findings": [], "left_out": told.left_out, "reason": "no site has an answer that counts"}
    stages = {stage: getattr(task.stages, stage).batch_size for stage in task.plan.stages}
    clip = task.imaging.pet_suv_max
    limits = PreflightSettings(
        batch_size=max(stages.values()),
        largest_suv=clip if clip >= HIGHEST_REAL_SUV else PreflightSettings.largest_suv,
        masks=bool(stages.keys() - {"survival"}),
    )
    return {
        "sites": {site: summary.plain() for site, summary in told.answers.items()},
        "findings": [asdict(found) for found in findings(list(told.answers.values()), limits)],
        **_left_out(told),
    }


def _follow_up(questions: Questions, edges_days: Sequence[float] | None) -> dict[str, Any]:
    """Curves that count the censored of a cell at its end; with its exact times, that of all would lie between
    ``survival_low``, which counts them at its start, and ``survival``.
    """
    if edges_days is None:
        raise InputError("follow-up: the sites have no common time bins; see stages.edges_days")
    levels = nested_edges(edges_days)
    counts, told = agreed_counts(questions, {"query": "survival_counts"}, levels)
    if not counts:
        return {"reason": "no site has an answer that counts", **_left_out(told)}
    groups = SurvivalCounts(
        next(iter(counts.values())).edges_days,
        *(np.concatenate([getattr(own, name) for own in counts.values()]) for name in ("events", "censored", "beyond")),
    )
    everyone = grid_kaplan_meier(groups)
    return {
        "patients": groups.patients,
        "events": int(groups.events.sum()),
        "median_follow_up_days": median_follow_up(censoring_curve(groups)),
        "all": {
            **listed(everyone),
            "edges_days": list(everyone.edges_days),
            "survival_low": _lowest(groups.together()),
            "median_days": everyone.median_days,
        },
        "sites": {site: _own_curve(own) for site, own in counts.items()},
        "log_rank_between_sites": or_reason(lambda: asdict(grid_log_rank([groups]))) if len(counts) > 1 else None,
        **_left_out(told),
    }


def _lowest(counts: SurvivalCounts) -> list[float]:
    """The Kaplan-Meier curve of one group if the censored of each cell leave before its events."""
    events, at_risk = counts.events[0], (counts.at_risk - counts.censored)[0]
    return [float(value) for value in np.cumprod(1.0 - events / np.maximum(at_risk, 1))]


def _own_curve(counts: SurvivalCounts) -> dict[str, Any]:
    curve = grid_kaplan_meier(counts)
    places = np.unique(np.linspace(0, len(curve.edges_days) - 1, SHOWN_TIMES).round().astype(int))
    arrays = ("at_risk", "survival", "ci_low", "ci_high")
    return {
        "patients": counts.patients,
        "events": int(counts.events.sum()),
        "median_days": curve.median_days,
        "days": [curve.edges_days[place] for place in places],
        **{name: getattr(curve, name)[places].tolist() for name in arrays},
    }


def _columns(questions: Questions, tabular: TabularEncoding) -> dict[str, Any]:
    """``summaries``: ColumnSummary of every continuous column, on edges around its mean over all sites; ``quartiles``:
    its quartiles, each a Quantile, or the reason why there are none.
    """
    continuous = [column for column in tabular.clinical if column.kind == "continuous"]
    edges = {each.name: [each.mean + each.sd * away for away in COLUMN_EDGES_SD] for each in continuous}
    if not edges:
        return {"summaries": {}, "quartiles": {}}
    told = _column_sums(questions, edges)
    if not told.answers:
        return {"reason": "no site has an answer that counts", **_left_out(told)}
    totals = {name: reduce(add, (sums[name] for sums in told.answers.values())) for name in edges}
    return {
        "summaries": {name: asdict(column_summary(sums)) for name, sums in totals.items()},
        "quartiles": {
            each.name: _part(lambda each=each: _quartiles(questions, set(told.answers), each))  # type: ignore[misc]
            for each in continuous
        },
        **_left_out(told),
    }


def _column_sums(questions: Questions, edges: Mapping[str, Sequence[float]]) -> Asked[dict[str, ColumnSums]]:
    def read(given: Mapping[str, Any], site: str, patients: int) -> dict[str, ColumnSums]:
        sums = given.get("sums")
        if not isinstance(sums, Mapping) or set(sums) != set(edges):
            raise InputError("column sums: not of the columns that were asked for")
        return {name: ColumnSums.from_plain(sums[name], cuts, patients) for name, cuts in edges.items()}

    return questions.put({"query": "columns", "edges": edges}, read)


def _quartiles(questions: Questions, sites: set[str], column: ColumnEncoding) -> dict[str, Any]:
    """Quartiles over the patients of ``sites``, by refinement. Raises InputError where there are none, and QuorumLost.

    At most a quarter of the patients is more than sqrt(3) standard deviations below the mean, or above it (Cantelli).
    """

    def ask(cuts: NDArray[np.float64]) -> Cells:
        answers = _column_sums(questions, {column.name: cuts.tolist()}).answers
        if not sites <= answers.keys():
            raise InputError("quantiles: a site that answered before does not answer now")
        return reduce(add, (sums[column.name].cells for site, sums in answers.items() if site in sites))

    reach = QUARTILE_REACH_SD * column.sd
    low, high = column.mean - reach, column.mean + reach
    found = federated_quantiles(ask, QUARTILES, low, high, QUARTILE_WIDTH_SD * column.sd)
    return {"levels": [asdict(quantile) for quantile in found]}


def _one_baseline(
    questions: Questions, tabular: TabularEncoding, cox: Mapping[str, Any] | None, edges_days: Sequence[float] | None
) -> dict[str, Any]:
    """The covariates of the stratified regression once more, with one baseline on the grids of follow-up."""
    if not cox or "covariates" not in cox or edges_days is None:
        raise InputError("one baseline: the regression stratified by site, which comes first, has no covariate")
    # whole days, so that those censored on the day of an event are at risk of it
    grids = [[edge - 0.5 for edge in grid[1:]] for grid in nested_edges(edges_days)]
    return one_baseline(questions, tabular, list(cox["covariates"]), grids)


def _left_out(told: Asked[Any]) -> dict[str, Any]:
    return {"left_out": dict(sorted(told.left_out.items()))} if told.left_out else {}
