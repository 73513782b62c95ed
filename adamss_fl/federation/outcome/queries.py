"""A site's answers on its test patients' outcomes and predictions: sums for figures over all sites' patients.

``least`` is the minimum cell count: no cell of an answer's tables holds fewer patients, unless it is empty. Where the
tables asked for are too fine for it, the site says which of the coarser ones on the list is not, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.federation.messages import SiteFailure
from adamss_fl.federation.outcome.outcomes import FILE_NAME, Outcomes
from adamss_fl.federation.statistics.auc import auc_sums
from adamss_fl.federation.statistics.box_concordance import box_sums
from adamss_fl.federation.statistics.calibration import calibration_sums
from adamss_fl.federation.statistics.cells import tell_histogram
from adamss_fl.federation.statistics.censoring import CensoringCurve
from adamss_fl.federation.statistics.concordance import concordance_sums
from adamss_fl.federation.statistics.d_calibration import d_calibration_sums
from adamss_fl.federation.statistics.prediction_error import brier_sums
from adamss_fl.federation.statistics.resampling import private_seed, resampled_sums
from adamss_fl.federation.statistics.survival_counts import counts_on_a_level

OUTCOME_QUERIES = ("outcome_cells", "concordance", "concordance_boxes", "outcome_survival", "prediction_error")
LARGEST_CELL_COUNT = 1000
"""Above it ``least`` is no rule of a site but a mistake."""


def answer_kept(query: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """:func:`answer_outcomes` from what a run's private ``folder`` keeps; ``no_outcomes`` where it keeps none."""
    try:
        outcomes = Outcomes.load(folder / FILE_NAME)
    except InputError as error:
        raise SiteFailure("no_outcomes") from error
    return answer_outcomes(query, outcomes)


def answer_outcomes(query: Mapping[str, Any], outcomes: Outcomes) -> dict[str, Any]:
    """The answer to one of :data:`OUTCOME_QUERIES`.

    ``outcome_cells`` : patients per cell of ``follow_up`` and of ``predicted_days`` edges. ``concordance`` : see
    :func:`_concordance`; ``concordance_boxes`` : see :func:`_boxes`; ``outcome_survival`` : see :func:`_survival`;
    ``prediction_error`` : see :func:`_prediction_error`. Every answer has ``patients`` and ``least``. Raises
    InputError for a malformed query, SiteFailure ``unknown_query`` and, where the outcomes are of
    another round, ``no_outcomes``.
    """
    if query.get("round") != outcomes.round:
        raise SiteFailure("no_outcomes")
    least = query.get("least", 1)
    if not isinstance(least, int) or isinstance(least, bool) or not 1 <= least <= LARGEST_CELL_COUNT:
        raise InputError(f"least: must be a whole number of 1 to {LARGEST_CELL_COUNT}")
    head = {"patients": int(outcomes.time_days.size), "least": least}
    name = query.get("query")
    if name == "outcome_cells":
        values = {"follow_up": outcomes.time_days, "predicted_days": outcomes.days}
        return {**head, **{what: tell_histogram(values[what], query[what], least).plain() for what in values}}
    if name == "concordance":
        return {**head, **_concordance(query, outcomes, least)}
    if name == "concordance_boxes":
        return {**head, **_boxes(query, outcomes, least)}
    if name == "outcome_survival":
        return {**head, **_survival(query, outcomes, least)}
    if name == "prediction_error":
        return {**head, **_prediction_error(query, outcomes, least)}
    raise SiteFailure("unknown_query")


def _concordance(query: Mapping[str, Any], outcomes: Outcomes, least: int) -> dict[str, Any]:
    """The table and, for intervals, resampled ones.

    levels : [time edges, predicted-day edges], from fine to coarse; level : which is asked; resample_level : which for
    ``samples`` resampled tables (0 for none), from ``seed``. ``finest`` in the answer is the first level from ``level``
    on that ``least`` allows, their number where none is; ``sums`` and ``resampled`` are there where it is ``level``.
    """
    levels = [(list(times), risk_edges(days)) for times, days in query["levels"]]
    data = outcomes.time_days, outcomes.event, outcomes.risk
    level = int(query["level"])
    finest, sums = level, None
    for finest in range(level, len(levels) + 1):
        sums = concordance_sums(*data, *levels[finest]) if finest < len(levels) else None
        if sums is not None and sums.fewest_in_a_cell >= least:
            break
    if finest != level or sums is None:
        return {"finest": finest}
    answer: dict[str, Any] = {"finest": finest, "sums": sums.plain()}
    if query["samples"]:
        seed = private_seed(int(query["seed"]), outcomes.patient.tolist(), outcomes.time_days)
        coarse = levels[max(level, int(query["resample_level"]))]
        answer["resampled"] = resampled_sums(*data, *coarse, int(query["samples"]), seed).plain()
    return answer


def _boxes(query: Mapping[str, Any], outcomes: Outcomes, least: int) -> dict[str, Any]:
    """``boxes``, which this site cuts on ``edges`` [time edges, predicted-day edges], and ``samples`` resamples of them
    from ``seed``; None where it has fewer patients with an event, or without, than ``least``, but some.
    """
    times, days = query["edges"]
    seed = private_seed(int(query["seed"]), outcomes.patient.tolist(), outcomes.time_days)
    data = outcomes.time_days, outcomes.event, outcomes.risk, list(times), risk_edges(days)
    sums = box_sums(*data, int(query["samples"]), seed, least)
    return {"boxes": None if sums is None else sums.plain()}


def _survival(query: Mapping[str, Any], outcomes: Outcomes, least: int) -> dict[str, Any]:
    """``finest`` and ``sums`` as ``counts_on_a_level`` gives them for ``levels`` and ``level``: of all patients, or of
    those predicted more than ``cut_days`` and of the others.
    """
    cut = query["cut_days"]
    group, groups = (None, 1) if cut is None else ((outcomes.days <= float(cut)).astype(np.int64), 2)
    data = outcomes.time_days, outcomes.event, query["levels"], int(query["level"]), least
    finest, counts = counts_on_a_level(*data, group, groups)
    return {"finest": finest} | ({} if counts is None else {"sums": counts.plain()})


def _prediction_error(query: Mapping[str, Any], outcomes: Outcomes, least: int) -> dict[str, Any]:
    """Sums under one censoring ``curve``: Brier score and AUC at ``times_days``, calibration at the last of
    ``grid_days`` by groups of predicted survival (``cuts``) and D-calibration in ``bins`` (each None where a cell
    would be too small), and Uno's C up to ``tau_days`` on ``edges``, a level that this site's cells have allowed.
    """
    curve = CensoringCurve.from_plain(query["curve"])
    times, events = outcomes.time_days, outcomes.event
    predicted = outcomes.survival, outcomes.edges_days
    asked = query["times_days"]
    time_edges, days = query["edges"]
    edges = list(time_edges), risk_edges(days)
    calibration = calibration_sums(times, events, *predicted, query["cuts"], query["grid_days"])
    counts = calibration.counts
    cells = np.concatenate([counts.events, counts.censored, counts.beyond[:, None]], axis=1)
    uno = concordance_sums(times, events, outcomes.risk, *edges, uno_weights(outcomes, curve, float(query["tau_days"])))
    if uno.fewest_in_a_cell < least and uno.patients:
        raise SiteFailure("cells_too_small")
    uniform = d_calibration_sums(times, events, *predicted, int(query["bins"]))
    return {
        "brier": brier_sums(times, events, *predicted, asked, curve).plain(),
        "auc": auc_sums(times, events, outcomes.risk, asked, edges[1], curve).plain(),
        "d_calibration": None if _small(uniform.counts, least) else uniform.plain(),
        "calibration": None if _small(cells, least) else calibration.plain(),
        "uno": uno.plain(),
    }


def _small(counts: NDArray[Any], least: int) -> bool:
    """Whether a count, which may be a fraction, is less than a minimum above 1, but not 0."""
    return least > 1 and bool(((counts > 0) & (counts < least)).any())


def uno_weights(outcomes: Outcomes, curve: CensoringCurve, tau_days: float) -> NDArray[np.float64]:
    """(N,) 1/G(t)^2 of events before ``tau_days``, 0 for the rest.

    Source: Uno et al., Statistics in Medicine 30:1105 (2011).
    """
    first = (outcomes.event == 1) & (outcomes.time_days < tau_days)
    weights = np.zeros(outcomes.time_days.size)
    weights[first] = 1.0 / curve.at(outcomes.time_days[first]) ** 2
    return weights


def risk_edges(day_edges: Sequence[float]) -> list[float]:
    """Inner edges of the risk, minus predicted days, from inner edges of predicted days."""
    return [-float(day) for day in reversed(day_edges)]
