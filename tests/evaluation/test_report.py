"""The report: it says what the run's files say, leaves out what they lack, and needs nothing from outside."""

import base64
import html
import json
import re
import shutil

import numpy as np
import pytest
from synthetic_run import SITES, events, predictions, write_comparison, write_events

from adamss_fl.errors import InputError
from adamss_fl.evaluation.report import build_report
from adamss_fl.evaluation.report_answers import Gap, answers, signed, with_interval
from adamss_fl.evaluation.report_inputs import Scores, read_run


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison, its folder, and its page."""
    run = tmp_path_factory.mktemp("comparison")
    comparison = write_comparison(run, patients=90, bootstrap=50)
    return run, comparison, build_report(run).read_text()


def words(page):
    """The page's text without tags, style and figures."""
    body = re.sub(r"<style>.*?</style>|<img[^>]*>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def drawings(page):
    return [base64.b64decode(data).decode() for data in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)]


def test_every_arm_and_site_is_in_the_table_with_its_figures(compared):
    _, comparison, page = compared
    text = words(page)
    for arm in comparison["arms"].values():
        for figures in (arm, *arm["sites"].values()):
            interval = f"{figures['c_index']:.3f} ({figures['ci_low']:.3f} to {figures['ci_high']:.3f})"
            dsc = f"{figures['dsc']['tumour']:.3f} {figures['dsc']['nodes']:.3f}"
            assert f"{interval} {figures['comparable_pairs']:,} {dsc}" in text
    for site in SITES:
        own = comparison["arms"]["federated"]["sites"][site]
        assert f"{site} {own['patients']} patients, {own['events']} with an event" in text


def test_the_first_answers_are_the_gaps_with_their_intervals(compared):
    _, comparison, page = compared
    text = words(page)
    for name in ("federated - pooled", "federated - mean local"):
        assert str(Gap.read(comparison["gaps"][name])) in text
    for site in SITES:
        assert Gap.read(comparison["gaps"]["own_patients"][f"federated - local:{site}"]).short in text
    assert text.index("What does training together cost") < text.index("Comparable pairs")


def test_all_figures_are_drawn_and_also_kept_as_files(compared):
    run, _, page = compared
    keys = ["c-index", "kaplan-meier", "calibration", "outlines", "learning", "gates"]
    assert re.findall(r'<figure id="([^"]+)"', page) == keys
    assert len(drawings(page)) == len(keys)
    assert sorted(path.stem for path in (run / "figures").glob("*.svg")) == sorted(keys)


def test_the_page_fetches_nothing_and_runs_nothing(compared):
    page = compared[2]
    assert set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([a-z]+):""", page)) == {"data"}
    assert "<script" not in page
    for content in (page, *drawings(page)):
        assert set(re.findall(r"https?://[^\"'/ <]+", content)) <= {"http://www.w3.org"}


def test_no_patient_is_named(compared):
    run, _, page = compared
    kept = [path.read_text() for path in (run / "figures").glob("*.svg")]
    assert not any("secret-" in content for content in (page, *kept, *drawings(page)))


def test_text_from_the_configuration_is_escaped(compared):
    page = compared[2]
    assert "<demo>" not in page
    assert "&lt;demo&gt;" in page


def test_the_methods_say_plan_budget_seed_and_research_use(compared):
    text = words(compared[2])
    assert "12 epochs of segmentation, 12 epochs of survival" in text
    assert "6 x segmentation (2 epochs), then 6 x survival (2 epochs)" in text
    assert "50 resamples" in text
    assert "Seed 0" in text
    assert "begins 0123456789ab" in text
    assert "research use only" in text


def test_undefined_figures_are_dashes_with_a_reason_and_never_nan(tmp_path):
    comparison = write_comparison(tmp_path, patients=12, bootstrap=20)
    (tmp_path / "examples.npz").unlink()
    for name, arm in comparison["arms"].items():
        arm.update(c_index=None, ci_low=None, ci_high=float("nan"), comparable_pairs=0, dsc={"tumour": None})
        (tmp_path / "arms" / name.replace(":", "-") / "predictions.npz").unlink()
        (tmp_path / "arms" / name.replace(":", "-") / "events.jsonl").unlink()
    comparison["gaps"] = {}
    (tmp_path / "comparison.json").write_text(json.dumps(comparison))
    page = build_report(tmp_path).read_text()
    text = words(page)
    assert "— (no comparable pair)" in text
    assert "— (no such outline)" in text
    assert "— (not evaluated)" in text
    assert not re.search(r"\b(nan|none|null)\b", text, flags=re.IGNORECASE)
    assert "<figure" not in page


def test_a_simulated_run_is_reported_from_its_metrics_without_patients(tmp_path):
    site = {"patients": 20, "events": 9, "c_index": 0.61, "comparable_pairs": 80, "dsc": {"tumour": 0.7, "nodes": None}}
    test = site | {"patients": 40, "sites": {"a": site, "b": site | {"c_index": None, "comparable_pairs": 0}}}
    metrics = {"name": "two", "sites": ["a", "b"], "plan": "2 x survival (1 epoch)", "seed": 3, "test": test}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics | {"c_index_pairs": "within sites"}))
    write_events(tmp_path / "events.jsonl", events(("a", "b"), rounds=4))
    page = build_report(tmp_path).read_text()
    text = words(page)
    assert "The C-index is 0.610, counted over 80 pairs" in text
    assert "Pairs are counted inside each hospital only" in text
    assert "b in round 3 (deadline)" in text
    assert re.findall(r'<figure id="([^"]+)"', page) == ["learning", "gates"]
    assert "pooled" not in text.lower()
    assert build_report(tmp_path).read_text() == page, "the same run gives the same page"


def test_a_run_with_predictions_gets_their_c_index_and_interval(tmp_path):
    from lifelines.utils import concordance_index

    found = predictions(0.5, patients=60)
    found.save(tmp_path / "predictions.npz")
    record = read_run(tmp_path)
    expected = concordance_index(found.time_days, -found.risk, found.event)
    assert record.main.overall.c_index == pytest.approx(expected, abs=1e-12)
    assert record.main.overall.low < expected < record.main.overall.high
    assert set(record.main.sites) == set(SITES)


@pytest.mark.parametrize(
    ("gap", "verdict"),
    [
        ((-0.05, -0.08, -0.02), "Federation costs some accuracy here"),
        ((0.05, 0.02, 0.08), "The federated model is the better one here"),
        ((-0.01, -0.031, 0.02), "no cost is shown; a loss of up to 0.031 is not ruled out"),
    ],
)
def test_the_verdict_follows_the_interval(compared, tmp_path, gap, verdict):
    comparison = json.loads(json.dumps(compared[1]))
    comparison["gaps"]["federated - pooled"] = dict(zip(("difference", "low", "high"), gap, strict=True))
    (tmp_path / "comparison.json").write_text(json.dumps(comparison))
    assert verdict in answers(read_run(tmp_path))[0].text


def test_differences_have_a_sign_and_zero_has_none():
    assert [signed(value) for value in (0.0123, -0.0123, 0.0001, -0.0001)] == ["+0.012", "−0.012", "0.000", "0.000"]
    assert with_interval(Scores(c_index=0.7)) == "0.700"


def test_a_folder_that_is_no_run_and_broken_files_are_named_in_one_line(tmp_path):
    with pytest.raises(InputError, match="is no run"):
        build_report(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is no run"):
        build_report(tmp_path)
    (tmp_path / "comparison.json").write_text('{"arms": {')
    with pytest.raises(InputError, match=r"comparison\.json: is no readable JSON"):
        build_report(tmp_path)
    (tmp_path / "comparison.json").write_text('{"arms": {}}')
    with pytest.raises(InputError, match="names no arms"):
        build_report(tmp_path)
    (tmp_path / "comparison.json").unlink()
    np.savez(tmp_path / "predictions.npz", risk=np.zeros(3))
    with pytest.raises(InputError, match=r"predictions\.npz") as error:
        build_report(tmp_path)
    assert "\n" not in str(error.value)


def test_the_command_prints_the_path_of_the_page(tmp_path, capsys):
    from adamss_fl.cli.report import report

    write_events(tmp_path / "events.jsonl", [])
    report(tmp_path, json=True)
    assert json.loads(capsys.readouterr().out) == {"report": str(tmp_path / "report.html")}
    assert (tmp_path / "report.html").exists()


def test_the_methods_name_what_the_survival_head_saw_beside_the_images() -> None:
    from adamss_fl.evaluation.report_methods import beside_the_images

    places = ["age_years", "age_years.missing", "radiomics.place-1", "radiomics.missing"]
    events = [
        {"kind": "tabular", "figures": {"places": places}},
        {"kind": "radiomics", "figures": {"selected": ["tumour.pet.original.firstorder.Mean"]}},
    ]
    text = beside_the_images(events)
    assert "age_years, age_years.missing." in text
    assert "tumour.pet.original.firstorder.Mean" in text
    assert "place-1" not in text
    assert beside_the_images([{"kind": "round_start"}]) == ""


MASKS = {
    "tumour": {"dsc_mean": 0.7123, "patients": 40, "hd95_mean_mm": 6.25, "hd95_patients": 38},
    "nodes": {"dsc_mean": None, "patients": 0, "hd95_mean_mm": None, "hd95_patients": 0},
}


def test_outlines_patient_by_patient_are_those_of_the_metrics_with_the_missed_ones(tmp_path):
    site = {"patients": 40, "events": 9, "c_index": 0.61, "comparable_pairs": 80, "dsc": {"tumour": 0.7, "nodes": None}}
    metrics = {"name": "two", "sites": ["a", "b"], "test": site | {"sites": {"a": site, "b": site}}}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert "patient by patient" not in build_report(tmp_path).read_text()
    metrics["test"]["masks_by_patient"] = MASKS
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    text = words(build_report(tmp_path).read_text())
    assert "Primary tumour 0.712 40 6.2 38 2" in text
    assert "Nodes — no such outline, reference or predicted, in any test patient" in text
    assert "Not measured for" not in text
    metrics["test"]["masks_by_patient"] = MASKS | {
        "tumour": MASKS["tumour"] | {"hd95_mean_mm": None, "hd95_patients": 0}
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert "Primary tumour 0.712 40 — 0 40" in words(build_report(tmp_path).read_text())


def test_arms_that_their_hospitals_evaluated_have_outlines_patient_by_patient(compared, tmp_path):
    run, _, page = compared
    assert "patient by patient" not in page
    shutil.copytree(run, tmp_path / "run")
    arm = tmp_path / "run" / "arms" / "federated" / "metrics.json"
    arm.write_text(json.dumps({"test": {"masks_by_patient": MASKS}}))
    text = words(build_report(tmp_path / "run").read_text())
    assert "Federated Primary tumour 0.712 40 6.2 38 2" in text
    assert "Not measured for: Pooled, hospital-1 alone, hospital-2 alone, hospital-3 alone." in text
