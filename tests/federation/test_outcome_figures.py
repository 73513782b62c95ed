"""Figures over all sites' test patients: against lifelines, scikit-survival and the pooled patients."""

from dataclasses import replace

import numpy as np
import pytest

from adamss_fl.errors import InputError
from adamss_fl.federation.messages import Reply, SiteFailure
from adamss_fl.federation.outcome.figures import outcome_figures
from adamss_fl.federation.outcome.outcomes import Outcomes
from adamss_fl.federation.outcome.queries import answer_outcomes
from adamss_fl.federation.outcome.table import common_grid
from adamss_fl.survival import concordance_counts, kaplan_meier

EDGES = np.linspace(0, 3000, 11)


def outcomes_of(site, patients, seed=0, days_on=1.0, events=True):
    """Outcomes of one hospital; times and predicted days lie on a grid of ``days_on``."""
    rng = np.random.default_rng([seed, site])
    log_hazard = rng.normal(size=patients)
    died = rng.exponential(size=patients) * np.exp(-log_hazard) * 1200
    lost = rng.uniform(100, 3500, size=patients)
    guess = np.clip(1500 - 500 * log_hazard + 300 * rng.normal(size=patients), 1, 2999)
    curve = np.exp(-EDGES[1:] / guess[:, None])
    return Outcomes(
        round=4,
        patient=np.array([f"p{site}-{k}" for k in range(patients)]),
        time_days=np.ceil(np.minimum(died, lost) / days_on) * days_on,
        event=(died <= lost).astype(np.int64) if events else np.zeros(patients, dtype=np.int64),
        days=np.ceil(guess / days_on) * days_on,
        survival=curve,
        edges_days=EDGES,
    )


class Hospitals:
    """Sites that answer outcome queries, as ``Rounds.ask`` would give their replies."""

    def __init__(self, sites, least=None, spoil=None):
        self.sites, self.least, self.spoil = sites, least or {}, spoil or {}
        self.asked = []

    def __call__(self, query):
        self.asked.append(query["query"])
        replies = []
        for name, outcomes in sorted(self.sites.items()):
            figures = {"patients": 0}
            if outcomes is not None:
                settings = {**query, "round": 4, "least": self.least.get(name, 1)}
                try:
                    figures = answer_outcomes(settings, outcomes)
                except SiteFailure:
                    continue
            figures = self.spoil.get(name, lambda _, given: given)(query["query"], figures)
            replies.append(Reply("statistics", name, "run", 4, 1, figures))
        return replies


def hospitals(sizes=(120, 80, 50), **more):
    return {f"hospital-{k}": outcomes_of(k, size, **more) for k, size in enumerate(sizes)}


def pooled(sites):
    kept = [each for each in sites.values() if each is not None]
    return [np.concatenate([getattr(each, name) for each in kept]) for name in ("time_days", "event", "risk")]


def test_the_c_index_over_all_pairs_its_bounds_and_interval() -> None:
    sites = hospitals()
    ask = Hospitals(sites)
    found = outcome_figures(ask, 3000.0, seed=1)
    t, e, r = pooled(sites)
    c = found["concordance"]
    truth = concordance_counts(t, e, r).c_index
    assert c["c_index"] == pytest.approx(truth, abs=0.002)
    assert c["low"] <= truth <= c["high"]
    assert c["interval"]["low"] < c["c_index"] < c["interval"]["high"]
    within = sum(
        (concordance_counts(s.time_days, s.event, s.risk) for s in sites.values()), start=concordance_counts([], [], [])
    )
    assert c["within_sites"] == pytest.approx(within.c_index, abs=1e-12)
    assert found["patients"] == 250
    assert found["events"] == int(e.sum())
    assert found["excluded"] == {}
    assert ask.asked == ["outcome_cells", "concordance", "prediction_error"]


def test_survival_curves_equal_lifelines_on_the_same_grid() -> None:
    sites = hospitals(days_on=250.0)
    found = outcome_figures(Hospitals(sites), 3000.0, seed=1, samples=0)["survival"]
    t, e, _ = pooled(sites)
    edges = found["all"]["edges_days"]
    grid = np.append(edges, 1e6)
    rounded = grid[np.searchsorted(grid, t)]
    curve = kaplan_meier(rounded, np.where(rounded > edges[-1], 0, e))
    for edge, mine in zip(edges, found["all"]["survival"], strict=True):
        assert mine == pytest.approx(curve.survival[np.searchsorted(curve.times, edge, side="right") - 1], abs=1e-12)
    assert found["groups"]["lower risk"]["survival"][-1] > found["groups"]["higher risk"]["survival"][-1]
    assert found["log_rank"]["p_value"] < 0.001
    assert found["log_rank_within_sites"]["degrees_of_freedom"] == 1


def test_weighted_figures_come_near_scikit_survivals() -> None:
    from sksurv.metrics import brier_score, concordance_index_ipcw, cumulative_dynamic_auc
    from sksurv.util import Surv

    sites = hospitals((300, 200, 100))
    found = outcome_figures(Hospitals(sites), 3000.0, seed=1, samples=0)
    t, e, r = pooled(sites)
    outcome = Surv.from_arrays(e == 1, t)
    assert found["uno"]["c_index"] == pytest.approx(
        concordance_index_ipcw(outcome, outcome, r, found["uno"]["tau_days"])[0], abs=0.01
    )
    times = found["auc"]["times_days"]
    assert found["auc"]["auc"] == pytest.approx(cumulative_dynamic_auc(outcome, outcome, r, times)[0], abs=0.01)
    survival = np.concatenate([each.survival for each in sites.values()])
    knots = np.concatenate([np.ones((t.size, 1)), survival], axis=1)
    predicted = np.stack([np.array([np.interp(day, EDGES, row) for row in knots]) for day in times], axis=1)
    scores = brier_score(outcome, outcome, predicted, times)[1]
    assert found["brier"]["score"] == pytest.approx(scores, abs=0.01)
    assert 0 <= found["d_calibration"]["p_value"] <= 1
    assert sum(group["patients"] for group in found["calibration"]["groups"]) == 600
    assert found["median_follow_up_days"] > 0


def test_a_minimum_cell_count_widens_the_cells_and_the_bounds() -> None:
    sites = hospitals()
    asked_once = Hospitals(sites)
    fine = outcome_figures(asked_once, 3000.0, seed=1, samples=200)
    least = dict.fromkeys(sites, 5)
    ask = Hospitals(sites, least)
    coarse = outcome_figures(ask, 3000.0, seed=1, samples=200)
    assert fine["fewest_in_a_cell"] == 1
    assert coarse["fewest_in_a_cell"] >= 5
    assert coarse["time_bins"] < fine["time_bins"]
    truth = concordance_counts(*pooled(sites)).c_index
    c = coarse["concordance"]
    assert c["low"] <= truth <= c["high"]
    assert c["high"] - c["low"] > fine["concordance"]["high"] - fine["concordance"]["low"]
    assert c["c_index"] == pytest.approx(truth, abs=0.01)
    width = fine["concordance"]["interval"]["high"] - fine["concordance"]["interval"]["low"]
    assert c["interval"]["high"] - c["interval"]["low"] == pytest.approx(width, rel=0.25)
    assert len(fine["d_calibration"]["proportions"]) == 10
    assert len(coarse["d_calibration"]["proportions"]) == 5
    assert c["boxes"] > 3 * 2 * 2
    assert c["fewest_in_a_box"] >= 5
    assert "boxes" not in fine["concordance"]
    assert not {"concordance_boxes", "outcome_survival"} & set(asked_once.asked)


def test_survival_keeps_more_steps_than_the_table_that_a_minimum_allows() -> None:
    sites = hospitals((900, 700, 500))
    found = outcome_figures(Hospitals(sites, dict.fromkeys(sites, 5)), 3000.0, seed=1, samples=0)
    curve = found["survival"]["all"]
    assert len(curve["edges_days"]) > found["time_bins"]
    t, e, _ = pooled(sites)
    exact = kaplan_meier(t, e)
    for edge, mine in zip(curve["edges_days"], curve["survival"], strict=True):
        assert mine == pytest.approx(exact.survival[np.searchsorted(exact.times, edge, side="right") - 1], abs=0.05)
    groups = found["survival"]["groups"]
    assert groups["lower risk"]["survival"][-1] > groups["higher risk"]["survival"][-1]
    assert sum(groups[name]["at_risk"][0] for name in groups) == t.size
    assert found["survival"]["log_rank"]["p_value"] < 0.001
    assert "score" in found["brier"]


@pytest.mark.parametrize("query", ["concordance_boxes", "outcome_survival"])
def test_a_site_that_forbids_a_finer_answer_leaves_the_table(query) -> None:
    def forbid(asked, figures):
        return {"patients": figures["patients"], "least": 5} if asked == query else figures

    sites = hospitals()
    least = dict.fromkeys(sites, 5)
    whole = outcome_figures(Hospitals(sites, least), 3000.0, seed=1, samples=20)
    found = outcome_figures(Hospitals(sites, least, {"hospital-1": forbid}), 3000.0, seed=1, samples=20)
    assert found["sites"] == whole["sites"]
    assert ("boxes" in found["concordance"]) == (query != "concordance_boxes")
    assert found["concordance"]["patients"] == 250
    assert found["survival"]["all"]["at_risk"][0] == 250


def test_no_answer_under_a_minimum_has_a_smaller_cell() -> None:
    """Every table of every answer, as it leaves the site."""
    sites = hospitals()
    seen = []

    def watch(query, figures):
        seen.append((query, figures))
        return figures

    outcome_figures(Hospitals(sites, dict.fromkeys(sites, 5), dict.fromkeys(sites, watch)), 3000.0, 1, 50)
    tables = []
    for query, figures in seen:
        if query == "outcome_cells":
            tables += [figures[what]["counts"] for what in ("follow_up", "predicted_days")]
        elif query == "concordance" and "sums" in figures:
            tables.append(figures["sums"]["table"])
        elif query == "concordance_boxes":
            tables.append(figures["boxes"]["boxes"]["patients"])
        elif query == "outcome_survival" and "sums" in figures:
            tables += [figures["sums"][what] for what in ("events", "censored", "beyond")]
        elif query == "prediction_error":
            tables.append(figures["uno"]["table"])
            tables.append(figures["auc"]["controls"])
            tables += [figures["d_calibration"]["counts"]] if figures["d_calibration"] else []
    assert len(tables) >= 15
    for table in tables:
        held = np.asarray(table)
        assert not ((held > 0) & (held < 5)).any()


def test_a_site_too_small_for_any_table_is_left_out_by_name() -> None:
    sites = {**hospitals(), "hospital-9": outcomes_of(9, 3)}
    found = outcome_figures(Hospitals(sites, {"hospital-9": 5}), 3000.0, seed=1, samples=0)
    assert found["sites"] == ["hospital-0", "hospital-1", "hospital-2"]
    assert "minimum cell count" in found["excluded"]["hospital-9"]


def test_a_site_that_is_left_out_of_the_table_has_no_say_in_finer_answers() -> None:
    sites = hospitals()
    least = dict.fromkeys([*sites, "hospital-9"], 5)
    alone = outcome_figures(Hospitals(sites, least), 3000.0, seed=1, samples=20)
    found = outcome_figures(Hospitals({**sites, "hospital-9": outcomes_of(9, 3)}, least), 3000.0, seed=1, samples=20)
    assert "minimum cell count" in found["excluded"]["hospital-9"]
    assert found["concordance"]["boxes"] == alone["concordance"]["boxes"]
    assert found["concordance"]["patients"] == found["survival"]["all"]["at_risk"][0] == 250


def test_a_site_without_test_patients_is_no_part_of_it() -> None:
    sites = {**hospitals(), "hospital-9": None}
    found = outcome_figures(Hospitals(sites), 3000.0, seed=1, samples=0)
    assert found["sites"] == ["hospital-0", "hospital-1", "hospital-2"]
    assert outcome_figures(Hospitals({"a": None}), 3000.0, 1) == {"sites": [], "excluded": {}, "patients": 0}


@pytest.mark.parametrize("what", ["table", "comparable_within"])
def test_an_impossible_table_is_left_out_by_name(what) -> None:
    def spoil(query, figures):
        if query != "concordance":
            return figures
        table = np.asarray(figures["sums"]["table"])
        table[0, 0, 0] -= 1000
        wrong = {"table": table.tolist(), "comparable_within": 1e9}[what]
        return {**figures, "sums": {**figures["sums"], what: wrong}}

    sites = hospitals()
    found = outcome_figures(Hospitals(sites, spoil={"hospital-1": spoil}), 3000.0, seed=1, samples=0)
    assert found["sites"] == ["hospital-0", "hospital-2"]
    assert "concordance table" in found["excluded"]["hospital-1"]
    expected = concordance_counts(*pooled({k: v for k, v in sites.items() if k != "hospital-1"})).c_index
    assert found["concordance"]["c_index"] == pytest.approx(expected, abs=0.003)


def test_wrong_weighted_sums_cost_one_figure_alone() -> None:
    def spoil(query, figures):
        return {**figures, "brier": {"patients": -1}} if query == "prediction_error" else figures

    found = outcome_figures(Hospitals(hospitals(), spoil={"hospital-1": spoil}), 3000.0, seed=1, samples=0)
    assert list(found["brier"]["left_out"]) == ["hospital-1"]
    assert "left_out" not in found["auc"]


@pytest.mark.parametrize("events", [0, 1])
def test_one_event_or_none_gives_reasons_and_never_nan(events) -> None:
    sites = {name: replace(each, event=np.zeros_like(each.event)) for name, each in hospitals((20, 20)).items()}
    if events:
        sites["hospital-0"].event[int(np.argmin(sites["hospital-0"].time_days))] = 1
    found = outcome_figures(Hospitals(sites), 3000.0, seed=1, samples=20)
    assert found["events"] == events
    assert ("reason" in found["concordance"]) == (not events)
    assert "nan" not in repr(found).lower()


def test_edges_are_nested_and_common() -> None:
    grid = common_grid(Hospitals(hospitals()), 3000.0, {})
    assert grid is not None
    assert max(grid.bins(0)) <= 64
    assert grid.bins(len(grid.levels) - 1) == (1, 1)
    for finer, coarser in zip(grid.levels, grid.levels[1:], strict=False):
        assert set(coarser[0]) <= set(finer[0])
        assert set(coarser[1]) <= set(finer[1])


def test_outcomes_of_another_round_and_unknown_queries_are_refused(tmp_path) -> None:
    outcomes = outcomes_of(0, 10)
    with pytest.raises(SiteFailure, match="no_outcomes"):
        answer_outcomes({"query": "outcome_cells", "round": 3}, outcomes)
    with pytest.raises(SiteFailure, match="unknown_query"):
        answer_outcomes({"query": "rows", "round": 4}, outcomes)
    with pytest.raises(InputError, match="whole number"):
        answer_outcomes({"query": "outcome_cells", "round": 4, "least": 0}, outcomes)
    path = tmp_path / "outcomes.npz"
    outcomes.save(path)
    assert np.array_equal(Outcomes.load(path).survival, outcomes.survival)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match="holds no outcomes"):
        Outcomes.load(path)
