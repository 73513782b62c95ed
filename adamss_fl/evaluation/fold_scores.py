"""The figures of a cross-validation: per fold, out of fold, and of the ensemble on the held-out test patients."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.evaluation.cross_validation import hash_of_predicted
from adamss_fl.evaluation.ensemble import on_edges
from adamss_fl.evaluation.predictions import Predictions, join
from adamss_fl.evaluation.scores import score, score_with_sites
from adamss_fl.federation.merging import MAPS
from adamss_fl.survival import (
    Concordance,
    LogRank,
    NoComparablePairs,
    common_edges,
    concordance_counts,
    logrank,
    paired_difference,
    pooled_interval,
    risk_groups,
)


def summarize(
    folds: Sequence[Mapping[str, Any]],
    held_out: Sequence[Predictions],
    test: Sequence[Predictions],
    ensemble: Predictions | None,
    groups: int,
    bootstrap: int,
    seed: int,
) -> dict[str, Any]:
    """All figures of a cross-validation.

    folds : the ``plain`` of each; held_out : each fold's model on its own held-out patients; test : each fold's model
    on the test patients, empty where there are none; ensemble: all folds' models together on them.

    ``over_folds`` : mean and sample standard deviation (n - 1) of the folds' own figures.
    ``out_of_fold.within_folds`` : C from the summed counts of pairs whose two patients are in one fold, so that only
    risks of one model are compared; its interval resamples patients inside their folds.
    ``out_of_fold.all_pairs`` : C over all pairs, by minus the restricted mean survival time in days on the edges common
    to all folds; it also compares risks of different models.
    ``risk_groups`` : log-rank test of the groups of :func:`fold_risk_groups`.
    ``test`` : the ensemble's and each fold's figures on the test patients; None where there are none.
    """
    rows = [{**fold, **score(found, bootstrap, seed)} for fold, found in zip(folds, held_out, strict=True)]
    together = out_of_fold(held_out)
    everyone = score(together, bootstrap, seed)
    return {
        "folds": rows,
        "over_folds": _over(rows),
        "out_of_fold": {
            "patients": everyone["patients"],
            "events": everyone["events"],
            "within_folds": _within_folds(held_out, bootstrap, seed),
            "all_pairs": {
                **{name: everyone[name] for name in ("c_index", "ci_low", "ci_high", "comparable_pairs")},
                "horizon_days": float(together.edges_days[-1]),
            },
            "dsc": everyone["dsc"],
        },
        "risk_groups": _group_figures(held_out, groups),
        "test": None if ensemble is None else _test_figures(test, ensemble, bootstrap, seed),
    }


def out_of_fold(held_out: Sequence[Predictions]) -> Predictions:
    """All folds' held-out patients as one, on the edges common to all folds."""
    edges = common_edges([found.edges_days for found in held_out])
    return join([on_edges(found, edges) for found in held_out])


def fold_risk_groups(held_out: Sequence[Predictions], groups: int) -> NDArray[np.int64]:
    """Risk group (N,) of every held-out patient, in the order of :func:`out_of_fold`; 0 is the lowest risk.

    Patients are cut inside each fold, at the quantiles of the risks that its model gives to its held-out patients: no
    outcome enters, and risks of different models are never compared.
    """
    return np.concatenate([risk_groups(found.risk, groups) for found in held_out])


def ensemble_figures(models: Sequence[Predictions], ensemble: Predictions, bootstrap: int, seed: int) -> dict[str, Any]:
    """Figures of the ensemble, per site too, and each fold's own under ``folds``, on the same patients."""
    rows = [{"fold": number, **score(found, bootstrap, seed)} for number, found in enumerate(models, start=1)]
    return {**score_with_sites(ensemble, bootstrap, seed), "folds": rows, "over_folds": _over(rows)}


def out_of_fold_table(held_out: Sequence[Predictions], groups: int) -> str:
    """The out-of-fold predictions as CSV text, one row a patient (this table names patients and stays here).

    ``expected_survival_days`` is that of the fold's own model, ``days_to_common_horizon`` the same on the edges common
    to all folds.
    """
    together, label = out_of_fold(held_out), fold_risk_groups(held_out, groups)
    fold = np.repeat(np.arange(1, len(held_out) + 1), [len(found.patient) for found in held_out])
    own = np.concatenate([found.risk for found in held_out])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = {
        "patient": together.patient,
        "site": together.site,
        "fold": fold,
        "time_days": together.time_days,
        "event": together.event,
        "expected_survival_days": -own,
        "days_to_common_horizon": -together.risk,
        "risk_group": label,
    }
    writer.writerow(columns)
    writer.writerows(zip(*(column.tolist() for column in columns.values()), strict=True))
    return text.getvalue()


def _within_folds(held_out: Sequence[Predictions], bootstrap: int, seed: int) -> dict[str, Any]:
    counts = sum((concordance_counts(p.time_days, p.event, p.risk) for p in held_out), Concordance())
    low = high = None
    with suppress(NoComparablePairs):
        interval = pooled_interval([(p.time_days, p.event, p.risk) for p in held_out], bootstrap, seed)
        low, high = interval.low, interval.high
    return {
        "c_index": counts.c_index if counts.comparable_pairs else None,
        "ci_low": low,
        "ci_high": high,
        "comparable_pairs": counts.comparable_pairs,
        "concordant": counts.concordant,
        "discordant": counts.discordant,
        "tied_risk": counts.tied_risk,
    }


def _test_figures(test: Sequence[Predictions], ensemble: Predictions, bootstrap: int, seed: int) -> dict[str, Any]:
    figures = ensemble_figures(test, ensemble, bootstrap, seed)
    rows, over = figures.pop("folds"), figures.pop("over_folds")
    first = test[0]
    risks = ensemble.risk, np.stack([model.risk for model in test])
    try:
        found = paired_difference(first.time_days, first.event, *risks, bootstrap, seed)
        gain = {"difference": found.difference, "low": found.low, "high": found.high}
    except NoComparablePairs:
        gain = None
    return {
        "test_patients": len(first.patient),
        "test_patients_sha256": hash_of_predicted(first),
        "ensemble": figures,
        "folds": rows,
        "over_folds": over,
        "ensemble - mean of folds": gain,
    }


def _over(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and sample standard deviation of C and DSC over the folds that have them."""
    return {
        "c_index": _spread([row["c_index"] for row in rows]),
        "dsc": {name: _spread([row["dsc"][name] for row in rows]) for name in MAPS},
    }


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {
        "mean": float(np.mean(known)) if known else None,
        "sd": float(np.std(known, ddof=1)) if len(known) > 1 else None,
        "folds": len(known),
    }


def _group_figures(held_out: Sequence[Predictions], groups: int) -> dict[str, Any]:
    together, label = out_of_fold(held_out), fold_risk_groups(held_out, groups)
    test: LogRank | None = None
    with suppress(InputError):  # one group, or events that do not tell groups apart: there is no test
        test = logrank(*((together.time_days[label == g], together.event[label == g]) for g in np.unique(label)))
    return {
        "groups": groups,
        "patients": [int((label == group).sum()) for group in range(groups)],
        "events": [int(together.event[label == group].sum()) for group in range(groups)],
        "logrank_chi_squared": None if test is None else test.statistic,
        "logrank_p": None if test is None else test.p_value,
    }
