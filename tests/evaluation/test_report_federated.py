"""The report's federated figures: what metrics.json says, a reason for what it lacks, never NaN or an empty plot."""

import base64
import html
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from federation.test_outcome_figures import Hospitals, hospitals, outcomes_of
from lifelines import KaplanMeierFitter
from lifelines.utils import median_survival_times
from synthetic_run import predictions

from adamss_fl.errors import InputError
from adamss_fl.evaluation.figures import auc_figure, prediction_error_figure, style
from adamss_fl.evaluation.report import build_report
from adamss_fl.federation.outcome.figures import outcome_figures

KEYS = ["federated-kaplan-meier", "federated-calibration", "federated-brier", "federated-auc"]


def write_run(run, federated, sites=("hospital-0", "hospital-1", "hospital-2")):
    """A simulated run's folder with these federated figures, as they are read back from JSON."""
    site = {"patients": 80, "events": 50, "c_index": 0.55, "comparable_pairs": 900, "dsc": {"tumour": 0.7}}
    test = site | {"c_index": 0.555, "sites": dict.fromkeys(sites, site)}
    metrics = {"name": "run", "sites": list(sites), "test": test, "c_index_pairs": "within sites"}
    run.mkdir(exist_ok=True)
    (run / "metrics.json").write_text(json.dumps(metrics | ({} if federated == "absent" else {"federated": federated})))
    return json.loads((run / "metrics.json").read_text()).get("federated")


def words(page):
    body = re.sub(r"<style>.*?</style>|<img[^>]*>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def texts(svg):
    root = ElementTree.fromstring(svg)
    return ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]


def drawing(page, key):
    data = re.search(rf'<figure id="{key}".*?base64,([^"]+)"', page, flags=re.DOTALL)
    assert data is not None
    return base64.b64decode(data[1]).decode()


def row(page, name):
    """The cells of the row that begins with ``name``."""
    found = re.search(rf"<tr><td>{re.escape(name)}[^<]*</td>(.*?)</tr>", page)
    assert found is not None, name
    return [html.unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", found[1])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Three hospitals, none with a minimum: their outcomes, the figures, and the page with text kept as text."""
    run = tmp_path_factory.mktemp("federated")
    sites = hospitals(days_on=30.0)
    found = write_run(run, outcome_figures(Hospitals(sites), 3000.0, seed=1, samples=60))
    kept = style._RC["svg.fonttype"]
    style._RC["svg.fonttype"] = "none"
    try:
        page = build_report(run).read_text()
    finally:
        style._RC["svg.fonttype"] = kept
    return sites, found, page, run


def test_the_first_answer_is_the_c_index_over_all_pairs_with_interval_and_bounds(whole):
    _, found, page, _ = whole
    text = words(page)
    c, interval, uno = found["concordance"], found["concordance"]["interval"], found["uno"]
    first = text[text.index("In short") : text.index("Do patients with a higher")]
    assert f"C-index is {c['c_index']:.3f} (95 % interval {interval['low']:.3f} to {interval['high']:.3f})" in first
    assert f"lies between {c['low']:.3f} and {c['high']:.3f} (guaranteed bounds)" in first
    assert f"left {100 * c['open_share']:.1f} % of these pairs open" in first
    assert f"follow-up, is {uno['c_index']:.3f}" in first
    assert "C-index, all pairs " + f"{c['c_index']:.3f} 95 %: {interval['low']:.3f} to {interval['high']:.3f}" in text
    assert "The C-index is 0.555" not in text
    assert "pairs inside hospitals alone" in text


def test_every_figure_has_its_row_with_patients_events_and_pairs(whole):
    _, found, page, _ = whole
    c = found["concordance"]
    assert row(page, "C-index, all pairs") == [
        f"{c['c_index']:.3f}",
        f"{c['interval']['low']:.3f} to {c['interval']['high']:.3f}",
        f"{c['low']:.3f} to {c['high']:.3f}",
        str(found["patients"]),
        str(found["events"]),
        f"{c['comparable_pairs']:,.0f}",
    ]
    assert row(page, "C-index, pairs inside hospitals")[0::5] == [
        f"{c['within_sites']:.3f}",
        f"{c['comparable_within']:,.0f}",
    ]
    for name, key in (("Brier score, mean", "integrated"), ("Brier score of the Kaplan", "reference_integrated")):
        assert row(page, name)[0] == f"{found['brier'][key]:.3f}"
    assert row(page, "AUC, mean")[0] == f"{found['auc']['mean']:.3f}"
    assert row(page, "D-calibration")[0].startswith(f"p = {found['d_calibration']['p_value']:.3f}")
    for group in found["calibration"]["groups"]:
        cells = row(page, f"{group['predicted']:.3f}")
        assert cells[2:] == [str(group["patients"]), str(group["events"])]


def test_medians_and_their_intervals_are_those_of_lifelines_on_the_grid(whole):
    sites, found, page, _ = whole
    edges = np.array(found["survival"]["all"]["edges_days"])
    times = np.concatenate([each.time_days for each in sites.values()])
    happened = np.concatenate([each.event for each in sites.values()])
    grid = np.append(edges, 1e6)
    at = grid[np.searchsorted(grid, times)]
    fitted = KaplanMeierFitter().fit(at, np.where(at > edges[-1], 0, happened))
    low, high = median_survival_times(fitted.confidence_interval_).iloc[0]
    shown = row(page, "Median time without an event, all")
    spoken = [f"{days / 365.25:.1f} years" if days >= 730.5 else f"{days / 30.4375:.0f} months" for days in (low, high)]
    assert shown[1] == " to ".join(spoken)
    assert shown[3] == str(times.size)


def test_curves_show_log_rank_and_the_numbers_at_risk_of_the_patients(whole):
    sites, found, page, _ = whole
    drawn = texts(drawing(page, KEYS[0]))
    assert "All hospitals · log-rank p < 0.001" in drawn
    edges = np.array(found["survival"]["all"]["edges_days"])
    days = np.concatenate([each.days for each in sites.values()])
    times = np.concatenate([each.time_days for each in sites.values()])
    lower = found["survival"]["groups"]["lower risk"]["at_risk"][0]
    cut = np.sort(days)[::-1][lower - 1]
    assert (days >= cut).sum() == lower, "the cut lies between patients"
    for group in (days >= cut, days < cut):
        for year in (0, 2, 4, 6):
            before = edges[edges < max(year * 365.25, 1e-9)]
            assert str(int((times[group] > (before[-1] if before.size else -1)).sum())) in drawn


def test_plots_are_on_the_page_and_in_the_folder_of_figures(whole):
    _, _, page, run = whole
    assert [key for key in re.findall(r'<figure id="([^"]+)"', page) if key.startswith("federated")] == KEYS
    assert "No plot" not in page
    for key in KEYS:
        assert (run / "figures" / f"{key}.svg").read_text() == drawing(page, key)
    assert "Brier score (lower is better)" in texts(drawing(page, "federated-brier"))
    assert set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([a-z]+):""", page)) == {"data"}


def test_the_page_says_what_left_the_hospitals_and_where_the_numbers_are(whole):
    _, found, page, _ = whole
    text = words(page)
    assert "Every number here is in metrics.json beside this page" in text
    assert f"a table of {found['time_bins']} × {found['risk_bins']} bins" in text
    assert "for 60 random resamples" in text
    assert "That is the finest grid there is" in text
    assert "the C-index over all pairs comes from tables" in text


def test_a_minimum_cell_count_is_told_with_what_it_cost(tmp_path):
    sites = hospitals()
    found = write_run(tmp_path, outcome_figures(Hospitals(sites, dict.fromkeys(sites, 5)), 3000.0, 1, 20))
    text = words(build_report(tmp_path).read_text())
    assert f"They have {found['time_bins']} × {found['risk_bins']} bins" in text
    assert f"no cell holds fewer than {found['fewest_in_a_cell']}, unless it is empty" in text
    c = found["concordance"]
    assert c["high"] - c["low"] > 0.1
    assert "Bounds this wide mean that the figure leans on the pairs inside hospitals" in text


def test_hospitals_that_are_left_out_are_named_with_the_reason(tmp_path):
    def spoil(query, figures):
        return {**figures, "brier": {"patients": -1}} if query == "prediction_error" else figures

    sites = {**hospitals((60, 40)), "hospital-8": None, "hospital-9": outcomes_of(9, 3)}
    ask = Hospitals(sites, {"hospital-9": 5}, {"hospital-1": spoil})
    write_run(tmp_path, outcome_figures(ask, 3000.0, 1, 20), tuple(sites))
    page = build_report(tmp_path).read_text()
    text = words(page)
    assert "hospital-9 (every table has cells of fewer patients than its minimum cell count)" in text
    assert "hospital-8 (no test patients, or no answer)" in text
    assert "Not in the Brier score: hospital-1 (Brier sums" in text
    assert row(page, "Brier score, mean over time (without hospital-1)")[3:5] == ["60", "—"]
    assert row(page, "D-calibration")[3] == "100"


@pytest.mark.parametrize("happened", [0, 1])
def test_one_event_or_none_gives_reasons_and_no_empty_plot(tmp_path, happened):
    sites = {name: replace(each, event=np.zeros_like(each.event)) for name, each in hospitals((20, 20)).items()}
    if happened:
        sites["hospital-0"].event[int(np.argmin(sites["hospital-0"].time_days))] = 1
    write_run(tmp_path, outcome_figures(Hospitals(sites), 3000.0, 1, 20), tuple(sites))
    page = build_report(tmp_path).read_text()
    assert not re.search(r"\b(nan|NaN|null|None(?!: every))\b", words(page))
    assert ("No C-index can be given: concordance: no comparable pair" in words(page)) == (not happened)
    assert ("With fewer than 10 events" in words(page)) == bool(happened)
    for key in KEYS:
        figure = re.search(rf'<figure id="{key}".*?</figure>', page, flags=re.DOTALL)
        assert ("base64" in figure[0]) != ("No plot: " in figure[0])


def test_tables_with_one_bin_of_follow_up_give_that_as_the_reason_for_all_that_needs_more(tmp_path, whole):
    everyone = {"edges_days": [0.0], "median_days": None, "at_risk": [250], "events": [0], "censored": [0]}
    everyone |= {name: [1.0] for name in ("survival", "ci_low", "ci_high")}
    survival = {"all": everyone, "groups": None, "reason": "predicted risks lie in one bin"}
    weighted = ("uno", "brier", "auc", "calibration", "d_calibration")
    missing = {name: {"reason": "too few are followed"} for name in weighted}
    write_run(tmp_path, whole[1] | missing | {"time_bins": 1, "risk_bins": 2, "survival": survival})
    page = build_report(tmp_path).read_text()
    assert page.count("No plot: the hospitals’ counts have one bin of follow-up.") == 4
    assert row(page, "Brier score, mean over time") == ["— the hospitals’ counts have one bin of follow-up"]


@pytest.mark.parametrize(
    ("federated", "told"),
    [
        ("absent", None),
        (None, None),
        (
            {"reason": "round 4: 1 of 3 sites answered"},
            "There are no figures over all hospitals’ test patients: round 4",
        ),
        ({"sites": [], "excluded": {"hospital-1": "bad table"}, "patients": 0}, "hospital-1 (bad table)"),
    ],
)
def test_runs_without_federated_figures_keep_their_report(tmp_path, federated, told):
    write_run(tmp_path, federated)
    page = build_report(tmp_path).read_text()
    text = words(page)
    assert "The C-index is 0.555, counted over 900 pairs" in text
    assert 'id="federated"' not in page
    assert told in text if told else "over all hospitals" not in text


def test_a_run_that_keeps_its_predictions_keeps_its_own_c_index_first(tmp_path):
    found = write_run(tmp_path, outcome_figures(Hospitals(hospitals((60,))), 3000.0, 1, 20), ("hospital-0",))
    kept = predictions(0.5, patients=60)
    kept.save(tmp_path / "predictions.npz")
    text = words(build_report(tmp_path).read_text())
    assert text.count("How well does the model put patients in order of risk?") == 1
    assert f"C-index, all pairs {found['concordance']['c_index']:.3f}" in text
    assert "Are its predicted probabilities right?" in text
    assert "of two hospitals are counted from tables" not in text


def test_figures_that_lack_something_are_refused_in_one_line(tmp_path, whole):
    found = json.loads(json.dumps(whole[1]))
    del found["calibration"]["groups"][0]["observed"]
    write_run(tmp_path, found)
    with pytest.raises(InputError, match=r"metrics\.json: its federated figures lack something"):
        build_report(tmp_path)
    found = json.loads(json.dumps(whole[1]))
    found["brier"]["integrated_ipa"] = found["auc"]["auc"][0] = float("nan")
    write_run(tmp_path, found)
    assert not re.search(r"\bnan\b", words(build_report(tmp_path).read_text()), flags=re.IGNORECASE)


def test_figures_over_time_leave_gaps_and_are_none_without_a_value():
    assert prediction_error_figure([100, 200], [None, None], [0.1, 0.2], [None, None]) is None
    assert auc_figure([100, 200], [None, None], [None, None], [None, None]) is None
    assert auc_figure([], [], [], []) is None
    assert auc_figure([100, 200], [None, 0.7], [None, 0.6], [None, 0.8]) is not None
    alone = prediction_error_figure([100], [0.1], [0.0], [None])
    assert alone is not None
    assert alone == prediction_error_figure([100], [0.1], [0.0], [None])
