"""The figures of a cross-validation against lifelines and counting by hand."""

import csv
import io
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from lifelines import KaplanMeierFitter
from lifelines.statistics import logrank_test
from lifelines.utils import concordance_index
from synthetic_run import predictions

from adamss_fl.errors import InputError
from adamss_fl.evaluation.cross_validation import hash_of_predicted
from adamss_fl.evaluation.ensemble import average
from adamss_fl.evaluation.fold_scores import (
    ensemble_figures,
    fold_risk_groups,
    out_of_fold,
    out_of_fold_table,
    summarize,
)
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.survival import kaplan_meier, paired_difference

PATIENTS, FOLDS = 90, 3


@pytest.fixture(scope="module")
def held_out() -> list[Predictions]:
    """Three models, each on its third of the patients; the second one's risks are on another scale and grid."""
    found = []
    for fold in range(FOLDS):
        one = predictions(0.6 + 0.3 * fold, patients=PATIENTS).subset(np.arange(fold, PATIENTS, FOLDS))
        edges = one.edges_days * (0.8 if fold == 1 else 1.0)
        found.append(Predictions(**{**one.__dict__, "edges_days": edges, "risk": -(one.survival @ np.diff(edges))}))
    return found


@pytest.fixture(scope="module")
def said(held_out: list[Predictions]) -> dict[str, Any]:
    plain = [{"fold": k, "label": f"fold {k}"} for k in range(1, FOLDS + 1)]
    test = [predictions(noise, patients=60, seed=9) for noise in (0.5, 1.0, 2.0)]
    return summarize(plain, held_out, test, average(test, test[1].overlap), groups=2, bootstrap=30, seed=1)


def counted(found: Predictions) -> tuple[float, int]:
    """(right pairs, comparable pairs) of one model, pair by pair."""
    right, pairs = 0.0, 0
    for i, j in combinations(range(len(found.patient)), 2):
        first, second = (i, j) if found.time_days[i] <= found.time_days[j] else (j, i)
        if found.time_days[i] == found.time_days[j]:
            if found.event[i] == found.event[j]:
                continue
            first, second = (i, j) if found.event[i] else (j, i)
        if not found.event[first]:
            continue
        pairs += 1
        right += float(found.risk[first] > found.risk[second]) + 0.5 * float(found.risk[first] == found.risk[second])
    return right, pairs


def test_each_folds_c_is_that_of_lifelines(said: dict[str, Any], held_out: list[Predictions]) -> None:
    for row, found in zip(said["folds"], held_out, strict=True):
        assert row["c_index"] == pytest.approx(concordance_index(found.time_days, -found.risk, found.event), abs=1e-12)
    values = [row["c_index"] for row in said["folds"]]
    spread = said["over_folds"]["c_index"]
    assert spread["mean"] == pytest.approx(sum(values) / 3)
    assert spread["sd"] == pytest.approx(np.sqrt(sum((v - sum(values) / 3) ** 2 for v in values) / 2))


def test_pairs_within_folds_are_counted_one_by_one(said: dict[str, Any], held_out: list[Predictions]) -> None:
    right, pairs = np.sum([counted(found) for found in held_out], axis=0)
    within = said["out_of_fold"]["within_folds"]
    assert within["comparable_pairs"] == pairs
    assert within["c_index"] == pytest.approx(right / pairs, abs=1e-12)
    assert within["concordant"] + 0.5 * within["tied_risk"] == right
    assert within["ci_low"] < within["c_index"] < within["ci_high"]


def test_all_pairs_are_ordered_by_days_on_the_common_grid_as_lifelines_counts(
    said: dict[str, Any], held_out: list[Predictions]
) -> None:
    grid = np.unique(np.concatenate([found.edges_days for found in held_out]))
    grid = grid[grid <= min(found.edges_days[-1] for found in held_out)]
    days = np.concatenate(
        [
            [np.interp(grid[1:], found.edges_days, [1, *curve]) @ np.diff(grid) for curve in found.survival]
            for found in held_out
        ]
    )
    times, events = (np.concatenate([getattr(found, name) for found in held_out]) for name in ("time_days", "event"))
    everyone = said["out_of_fold"]["all_pairs"]
    assert everyone["c_index"] == pytest.approx(concordance_index(times, days, events), abs=1e-9)
    assert everyone["comparable_pairs"] > said["out_of_fold"]["within_folds"]["comparable_pairs"]
    assert everyone["ci_low"] < everyone["c_index"] < everyone["ci_high"]
    assert everyone["horizon_days"] == grid[-1]


def test_risk_groups_are_halves_of_each_fold_and_their_log_rank_is_lifelines(
    said: dict[str, Any], held_out: list[Predictions]
) -> None:
    together, label = out_of_fold(held_out), fold_risk_groups(held_out, 2)
    by_hand = np.concatenate([found.risk > np.median(found.risk) for found in held_out])
    np.testing.assert_array_equal(label, by_hand)
    t, e = together.time_days, together.event
    test = logrank_test(t[by_hand], t[~by_hand], e[by_hand], e[~by_hand])
    groups = said["risk_groups"]
    assert groups["patients"] == [45, 45]
    assert groups["logrank_chi_squared"] == pytest.approx(test.test_statistic)
    assert groups["logrank_p"] == pytest.approx(test.p_value)
    fitted = KaplanMeierFitter().fit(t[by_hand], e[by_hand])
    ours = kaplan_meier(t[label == 1], e[label == 1])
    np.testing.assert_allclose(ours.survival, fitted.survival_function_.iloc[:, 0])


def test_the_groups_do_not_change_where_a_folds_risks_are_scaled(held_out: list[Predictions]) -> None:
    """Risks of different models are never compared."""
    scaled = [Predictions(**{**found.__dict__, "risk": found.risk * (1 + k)}) for k, found in enumerate(held_out)]
    np.testing.assert_array_equal(fold_risk_groups(held_out, 3), fold_risk_groups(scaled, 3))


def test_the_test_patients_are_judged_by_each_model_and_the_ensemble(said: dict[str, Any]) -> None:
    models = [predictions(noise, patients=60, seed=9) for noise in (0.5, 1.0, 2.0)]
    together, test = average(models, models[1].overlap), said["test"]
    t, e = together.time_days, together.event
    assert test["test_patients"] == test["ensemble"]["patients"] == 60
    assert test["test_patients_sha256"] == hash_of_predicted(models[0])
    assert test["ensemble"]["c_index"] == pytest.approx(concordance_index(t, -together.risk, e))
    expected = [concordance_index(t, -model.risk, e) for model in models]
    assert [row["c_index"] for row in test["folds"]] == pytest.approx(expected)
    assert test["over_folds"]["c_index"]["mean"] == pytest.approx(np.mean(expected))
    direct = paired_difference(t, e, together.risk, np.stack([model.risk for model in models]), 30, 1)
    assert test["ensemble - mean of folds"]["difference"] == direct.difference
    assert test["ensemble - mean of folds"]["difference"] == pytest.approx(
        test["ensemble"]["c_index"] - np.mean(expected)
    )
    inter, found, reference = models[1].overlap.sum(axis=0)[0]
    assert test["ensemble"]["dsc"]["tumour"] == pytest.approx(2 * inter / (found + reference))


def test_without_test_patients_there_is_no_test(held_out: list[Predictions]) -> None:
    plain = [{"fold": k} for k in range(1, FOLDS + 1)]
    assert summarize(plain, held_out, [], None, groups=2, bootstrap=5, seed=0)["test"] is None


def test_folds_without_a_comparable_pair_are_left_out_of_the_mean(held_out: list[Predictions]) -> None:
    last = int(held_out[0].time_days.argmax())
    alone = Predictions(**{**held_out[0].__dict__, "event": (np.arange(30) == last).astype(np.int64)})
    plain = [{"fold": k} for k in (1, 2)]
    found = summarize(plain, [alone, held_out[1]], [], None, groups=2, bootstrap=5, seed=0)
    assert found["folds"][0]["c_index"] is None
    assert found["over_folds"]["c_index"] == {"mean": found["folds"][1]["c_index"], "sd": None, "folds": 1}
    assert found["out_of_fold"]["within_folds"]["c_index"] == found["folds"][1]["c_index"]


def test_the_table_has_every_patient_with_fold_days_and_group(held_out: list[Predictions]) -> None:
    rows = list(csv.DictReader(io.StringIO(out_of_fold_table(held_out, 2))))
    assert [row["patient"] for row in rows] == [name for found in held_out for name in found.patient]
    assert [int(row["fold"]) for row in rows] == [k for k in (1, 2, 3) for _ in range(30)]
    np.testing.assert_allclose(
        [float(row["expected_survival_days"]) for row in rows], -np.concatenate([found.risk for found in held_out])
    )
    c = concordance_index(
        [float(row["time_days"]) for row in rows],
        [float(row["days_to_common_horizon"]) for row in rows],
        [int(row["event"]) for row in rows],
    )
    assert c == pytest.approx(summarize([{}] * 3, held_out, [], None, 2, 5, 0)["out_of_fold"]["all_pairs"]["c_index"])


def test_figures_of_the_ensemble_come_with_each_folds() -> None:
    models = [predictions(noise, patients=30) for noise in (0.5, 1.5)]
    found = ensemble_figures(models, average(models, models[0].overlap), 10, 0)
    assert [row["fold"] for row in found["folds"]] == [1, 2]
    assert set(found["sites"]) == set(models[0].site)
    with pytest.raises(InputError, match="differ in patient"):
        average([models[0], predictions(0.5, patients=29)], models[0].overlap)
