"""Figures over all sites' test patients, from sums alone: what the server makes of the answers to outcome queries.

Four questions, however many figures: two histograms, from which common edges come; the table of patients by time,
event and risk, which gives the C-index over all pairs, Kaplan-Meier curves, numbers at risk, the log-rank test and the
censoring curve; and sums weighted by that curve. Where a minimum cell count makes the table coarse, the C-index comes
from boxes and the curves from wider time cells (``outcome.coarse``), which are asked for as well. A site whose answer
no patients can have is left out, and named.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np

from adamss_fl.federation.outcome.coarse import Halves, NotEverySite, concordance_of_boxes, survival_halves
from adamss_fl.federation.outcome.table import (
    Table,
    agreed_table,
    common_grid,
    survival_counts_of,
)
from adamss_fl.federation.outcome.weighted import or_reason, weighted_figures
from adamss_fl.federation.questions import Ask, Questions
from adamss_fl.federation.rounds import QuorumLost
from adamss_fl.federation.statistics.concordance import all_pairs
from adamss_fl.federation.statistics.log_rank import grid_log_rank
from adamss_fl.federation.statistics.resampling import resampled_interval
from adamss_fl.federation.statistics.survival_counts import SurvivalCounts
from adamss_fl.federation.statistics.survival_curves import censoring_curve, grid_kaplan_meier, median_follow_up

RESAMPLES = 400


def outcome_figures(ask: Ask, longest_predicted_days: float, seed: int, samples: int = RESAMPLES) -> dict[str, Any]:
    """All figures of the model whose outcomes the sites keep, as a JSON-able mapping.

    ask : sends a query's settings to all sites and gives the replies that count. Figures that do not exist (no event,
    no comparable pair) are None, with the reason beside them; sites that are left out are under ``excluded`` with the
    reason.
    """
    excluded: dict[str, str] = {}
    grid = common_grid(ask, longest_predicted_days, excluded)
    if grid is None:
        return {"sites": [], "excluded": excluded, "patients": 0}
    table = agreed_table(ask, grid, seed, samples, excluded)
    if not table.own:
        return {"sites": [], "excluded": excluded, "patients": 0}
    total, halves = table.total, _halves_of(table, ask)
    figures: dict[str, Any] = {
        "sites": sorted(table.own),
        "excluded": excluded,
        "patients": total.patients,
        "events": int(total.table[:, 1].sum()),
        "time_bins": total.table.shape[0],
        "risk_bins": total.table.shape[2],
        "fewest_in_a_cell": min(sums.fewest_in_a_cell for sums in table.own.values()),
        "concordance": or_reason(lambda: _of_boxes(table, ask, seed, samples) or _concordance(table)),
        "survival": or_reason(lambda: _survival(halves)),
    }
    everyone = halves.total.together()
    figures["median_follow_up_days"] = median_follow_up(censoring_curve(everyone))
    figures |= weighted_figures(ask, table, everyone, longest_predicted_days)
    plain: dict[str, Any] = json.loads(json.dumps(figures, allow_nan=False))
    return plain


def _of_boxes(table: Table, ask: Ask, seed: int, samples: int) -> dict[str, Any] | None:
    """The C-index from boxes; None where the table is fine, or not every site tells boxes."""
    if table.is_finest:
        return None
    try:
        return concordance_of_boxes(Questions(ask, tuple(table.own)), table.grid, seed, samples)
    except (NotEverySite, QuorumLost):
        return None


def _halves_of(table: Table, ask: Ask) -> Halves:
    """Counts over time by half of predicted risk: from the table, unless a coarser one in risk is finer in time."""
    if not table.is_finest:
        try:
            return survival_halves(Questions(ask, tuple(table.own)), table.grid)
        except (NotEverySite, QuorumLost):
            pass
    by_risk = table.total.table.sum(axis=(0, 1))
    cut = int(np.searchsorted(np.cumsum(by_risk), by_risk.sum() / 2)) + 1
    inside = cut if 0 < cut < by_risk.size else None
    own = {site: survival_counts_of(sums, table.time_edges, inside) for site, sums in table.own.items()}
    return Halves(own)


def _concordance(table: Table) -> dict[str, Any]:
    total = table.total
    found = asdict(all_pairs(total))
    again = table.resampled
    if again is None:
        return {**found, "interval": None}
    if min(table.grid.bins(table.resample_level)) < 2:
        return {**found, "interval": {"reason": "the minimum cell count leaves too few cells to resample"}}
    sums = table.total_of_resamples
    return {**found, "interval": or_reason(lambda: asdict(resampled_interval(found["c_index"], sums, again)))}


def _survival(halves: Halves) -> dict[str, Any]:
    """Kaplan-Meier of all and by half of predicted risk, with log-rank tests, on the time grid of the counts."""
    total = halves.total
    found: dict[str, Any] = {"all": _curve(total.together())}
    if halves.groups < 2:
        return {
            **found,
            "groups": None,
            "reason": "predicted risks lie in one bin, or halves are too few for a minimum cell count",
        }
    strata = list(halves.own.values())
    return {
        **found,
        "groups": {"lower risk": _curve(total.of_group(0)), "higher risk": _curve(total.of_group(1))},
        "log_rank": or_reason(lambda: asdict(grid_log_rank([total]))),
        "log_rank_within_sites": or_reason(lambda: asdict(grid_log_rank(strata))),
    }


def _curve(counts: SurvivalCounts) -> dict[str, Any]:
    found = grid_kaplan_meier(counts)
    arrays = ("at_risk", "events", "censored", "survival", "ci_low", "ci_high")
    return {
        "edges_days": list(found.edges_days),
        "median_days": found.median_days,
        **{name: getattr(found, name).tolist() for name in arrays},
    }
