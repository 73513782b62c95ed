"""The report of a comparison: each model at each hospital, gains, further arms, power, and the round taken."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from compared_folder import SITES, models, write_compared
from lifelines.utils import concordance_index

from adamss_fl.errors import InputError
from adamss_fl.evaluation.arms import NULL
from adamss_fl.evaluation.differences import gaps
from adamss_fl.evaluation.report import build_report
from adamss_fl.evaluation.report_answers import Gap
from adamss_fl.evaluation.report_arms import label_of_arm, label_of_difference, meaning_of_arm
from adamss_fl.evaluation.report_differences import FIRST_QUESTION, null_sentence
from adamss_fl.evaluation.report_inputs import Scores
from adamss_fl.evaluation.scores import score_with_sites
from adamss_fl.evaluation.strategies import STRATEGIES

LABELS = {
    "federated": "Federated",
    "pooled": "Pooled",
    "local:hospital-1": "hospital-1 alone",
    "fedprox": "FedProx",
    "personal": "Personal models",
    NULL: "Shuffled outcomes",
}
KINDS = {"fedprox": "strategy", "personal": "strategy", NULL: "null"}


def all_models(patients=120):
    """Those of ``compared_folder`` with two strategies and a null run."""
    found = models(patients)
    rng = np.random.default_rng(1)
    for name, noise in (("fedprox", 0.5), ("personal", 1.0)):
        found[name] = replace(found["pooled"], risk=found["pooled"].risk + rng.normal(0, noise, patients))
    found[NULL] = replace(found["pooled"], risk=rng.normal(0, 1, patients))
    return found


def write_run(run, found, bootstrap=100):
    """A comparison's folder as ``compare`` leaves it, with the figures that the report reads."""
    write_compared(run, found, bootstrap)
    comparison = json.loads((run / "comparison.json").read_text())
    for name, model in found.items():
        figures = score_with_sites(model, bootstrap, 0)
        comparison["arms"][name] = {"kind": KINDS.get(name, name.partition(":")[0]), **figures, "test_patients": 120}
    comparison |= {"gaps": gaps(found, bootstrap, 0), "test_patients": 120, "plan": "2 x survival (1 epoch)"}
    comparison["test_events"] = int(found["pooled"].event.sum())
    (run / "comparison.json").write_text(json.dumps(comparison))
    return comparison


def words(page):
    body = re.sub(r"<style>.*?</style>|<img[^>]*>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def section(page, key):
    found = re.search(rf'<section id="{key}">.*?</section>', page, flags=re.DOTALL)
    assert found is not None, key
    return found[0]


def rows(part):
    """Cells of every row of a section, as text, by the row's first cell."""
    lines = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", part)]
    texts = [[" ".join(html.unescape(re.sub(r"<[^>]+>", " ", cell)).split()) for cell in row] for row in lines if row]
    return {row[0]: row[1:] for row in texts}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    run = tmp_path_factory.mktemp("compared")
    found = all_models()
    comparison = write_run(run, found)
    taken = {"rounds": 9, "selected": {"round": 7, "reason": "the best of 3 validated rounds", "c_index": 0.7}}
    (run / "arms/federated/metrics.json").write_text(json.dumps(taken))
    (run / "arms/pooled/metrics.json").write_text(json.dumps({"rounds": 9}))
    return run, found, comparison, build_report(run).read_text()


def test_the_matrix_has_every_model_at_every_site_with_interval_and_pairs(compared):
    run, found, comparison, page = compared
    table = rows(section(page, "cross-site"))
    assert set(LABELS.values()) <= set(table)
    for name, model in found.items():
        for site, cell in zip(SITES, table[LABELS.get(name, f"{name[6:]} alone")], strict=True):
            at = model.site == site
            c = concordance_index(model.time_days[at], -model.risk[at], model.event[at])
            own = comparison["arms"][name]["sites"][site]
            interval = f"{own['ci_low']:.3f} to {own['ci_high']:.3f}"
            assert cell == f"{c:.3f} {interval} · {own['comparable_pairs']:,} pairs"
    assert page.count('<td class="own">') == len(SITES)
    assert (run / "cross_site.json").exists()


def test_gains_have_holms_verdict_and_p(compared):
    run, _, _, page = compared
    gains = json.loads((run / "cross_site.json").read_text())["gains"]
    table = rows(section(page, "cross-site"))
    raw = sorted((gains[site]["p"], site) for site in SITES)
    expected, largest = {}, 0.0
    for rank, (p, site) in enumerate(raw):
        largest = max(largest, min(1.0, (3 - rank) * p))
        expected[site] = largest
    for site in SITES:
        pairs, gain, p, _, verdict = table[site]
        assert p == f"p = {expected[site]:.3f}"
        assert pairs == f"{gains[site]['comparable_pairs']:,}"
        assert gain.startswith(f"{gains[site]['difference']:+.3f}".replace("-", "\N{MINUS SIGN}"))
        clear = "helped" if gains[site]["difference"] > 0 else "harmed"
        assert verdict == (clear if expected[site] <= 0.05 else "cannot be told")


def test_with_enough_resamples_the_perfect_model_helped_and_the_reversed_one_harmed(tmp_path):
    found = models()
    write_run(tmp_path, found, 400)
    page = build_report(tmp_path).read_text()
    table = rows(section(page, "cross-site"))
    assert (table[SITES[0]][-1], table[SITES[1]][-1]) == ("helped", "harmed")
    text = words(page)
    first = text[text.index("In short") : text.index("What does training together cost")]
    assert FIRST_QUESTION in first
    assert "The federation helped hospital-1 and harmed hospital-2." in first
    assert "For hospital-3 it cannot be told" in first
    difference = json.loads((tmp_path / "comparison.json").read_text())["gaps"]["federated - pooled"]
    side = "above" if difference["difference"] > 0 else "below"
    assert f"C-index lies {abs(difference['difference']):.3f} {side} that of pooled training" in first
    luck = "could" if difference["low"] <= 0 <= difference["high"] else "would hardly"
    assert f"who the test patients are {luck} make such a difference" in first


def test_the_power_sentence_is_beside_the_difference_and_agrees_with_a_bootstrap_by_hand(compared):
    _, found, comparison, page = compared
    first, second = found["federated"], found["pooled"]
    rng, differences = np.random.default_rng(5), []
    for _ in range(150):
        drawn = rng.integers(0, 120, 120)
        one, other = (concordance_index(m.time_days[drawn], -m.risk[drawn], m.event[drawn]) for m in (first, second))
        differences.append(one - other)
    text = words(page)
    part = text[text.index(FIRST_QUESTION) : text.index("What does training together cost")]
    said = re.search(r"With 120 test patients, (\d+) events and .*? a difference of (\S+) in", part)
    assert said is not None
    assert int(said[1]) == comparison["test_events"]
    assert float(said[2]) == pytest.approx(2.802 * np.std(differences, ddof=1), rel=0.25)


def test_further_arms_are_in_the_table_of_differences_in_words(compared):
    _, _, comparison, page = compared
    table = rows(section(page, "differences"))
    assert list(table) == [
        "Federated minus pooled",
        "Federated minus the hospitals alone, on average",
        "FedProx minus pooled",
        "FedProx minus federated",
        "Personal models minus pooled",
        "Personal models minus federated",
    ]
    gap = comparison["gaps"]["fedprox - pooled"]
    meaning, shown, told = table["FedProx minus pooled"]
    assert meaning == "FedAvg with a pull to the global model"
    assert shown == Gap.read(gap).short
    below, above = gap["high"] < 0, gap["low"] > 0
    assert told == ("the second is higher" if below else "the first is higher" if above else "cannot be told")


def test_the_null_run_says_whether_its_interval_holds_one_half(compared):
    _, _, comparison, page = compared
    null = comparison["arms"][NULL]
    assert f"With shuffled outcomes C is {null['c_index']:.3f}, its interval ({null['ci_low']:.3f} to" in words(page)
    assert "holds 0.5" in null_sentence(Scores(c_index=0.52, low=0.44, high=0.6))
    assert "does not hold 0.5" in null_sentence(Scores(c_index=0.62, low=0.51, high=0.7))
    assert "no C-index can be given: no comparable pair" in null_sentence(Scores(patients=3, pairs=0))


def test_the_round_that_an_arm_selected_is_told_and_no_other(compared, tmp_path):
    run, _, _, page = compared
    assert "Federated: The model is that of round 7, the best of 3 validated rounds." in words(page)
    assert "Pooled: The model" not in words(page)
    taken = json.loads((run / "arms/federated/metrics.json").read_text())
    site = {"patients": 20, "events": 9, "c_index": 0.61, "comparable_pairs": 80, "sites": {}}
    (tmp_path / "metrics.json").write_text(json.dumps({**taken, "test": site, "sites": ["a", "b"]}))
    assert "The model is that of round 7" in words(build_report(tmp_path).read_text())
    (tmp_path / "metrics.json").write_text(json.dumps({"rounds": 9, "test": site, "sites": ["a", "b"]}))
    assert "The model is that of" not in words(build_report(tmp_path).read_text())
    (tmp_path / "metrics.json").write_text(json.dumps({"selected": {"round": 7}, "test": site, "sites": ["a"]}))
    with pytest.raises(InputError, match="does not say which round"):
        build_report(tmp_path)


def test_patients_other_than_the_comparisons_give_a_reason_and_absent_predictions_no_section(tmp_path):
    comparison = write_run(tmp_path, models(), 20)
    (tmp_path / "comparison.json").write_text(json.dumps(comparison | {"test_patients_sha256": "0" * 64}))
    page = build_report(tmp_path).read_text()
    assert "No table: arms/federated/predictions.npz: its test patients are not those" in words(page)
    assert str(tmp_path) not in page
    (tmp_path / "arms/local-hospital-2/predictions.npz").unlink()
    page = build_report(tmp_path).read_text()
    assert 'id="cross-site"' not in page
    assert 'id="differences"' in page


def test_a_site_without_a_comparable_pair_has_dashes_and_a_reason(tmp_path):
    found = models()
    quiet = {name: replace(m, event=np.where(m.site == SITES[2], 0, m.event)) for name, m in found.items()}
    write_run(tmp_path, quiet, 20)
    page = build_report(tmp_path).read_text()
    table = rows(section(page, "cross-site"))
    assert table["Federated"][2] == "— no comparable pair"
    assert table[SITES[2]] == ["0", "—", "—", "—", "cannot be told no comparable pair"]
    assert not re.search(r"\b(nan|None|null)\b", words(page))


def test_no_patient_is_named(compared):
    assert not re.search(r"\bp-\d{3}\b", compared[3])


def test_every_strategy_has_words_of_its_own():
    labels = [label_of_arm(name) for name in STRATEGIES]
    assert len(set(labels)) == len(STRATEGIES)
    assert all(meaning_of_arm(name) for name in STRATEGIES)
    assert label_of_difference("federated - local:a - b") == "Federated minus a - b alone"
