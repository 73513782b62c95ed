"""The report of a study: it quotes study.json, and the interval that counts each patient once where there is one."""

import html
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from compared_folder import models
from scipy.stats import ttest_1samp

from adamss_fl.errors import InputError
from adamss_fl.evaluation.arms import NULL, folder_name
from adamss_fl.evaluation.report import build_report
from adamss_fl.evaluation.report_answers import Gap
from adamss_fl.evaluation.scores import score_with_sites
from adamss_fl.evaluation.study import run_study

KINDS = {"fedbn": "strategy", NULL: "null"}


def of_seed(seed, patients):
    rng = np.random.default_rng(seed)
    found = models(patients)
    found["fedbn"] = replace(found["pooled"])
    found[NULL] = replace(found["pooled"], risk=np.zeros(patients))
    return {name: replace(each, risk=each.risk + rng.normal(0, 0.7, patients)) for name, each in found.items()}


def write_study(run, seeds=(0, 4), same=True):
    """A study's folder; where not ``same`` each seed has other test patients."""

    def compare_seed(seed, folder):
        arms, patients = {}, 60 if same else 60 + 6 * seed
        for name, found in of_seed(seed, patients).items():
            found.save(folder / "arms" / folder_name(name) / "predictions.npz")
            arms[name] = {"kind": KINDS.get(name, name.partition(":")[0]), **score_with_sites(found, 10, seed)}
        arms[NULL]["holds_half"] = seed != 4
        facts = {"config_name": "<demo>", "plan": "2 x survival", "budget": {}, "oracle_c_index": 0.8}
        return {**facts, "test_patients": patients, "test_patients_sha256": str(patients), "arms": arms}

    return run_study(seeds, run, compare_seed, bootstrap=60, split_by_seed=not same)


def words(page):
    body = re.sub(r"<style>.*?</style>|<img[^>]*>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.fixture(scope="module", params=[True, False], ids=["same patients", "split by seed"])
def reported(request, tmp_path_factory):
    run = tmp_path_factory.mktemp("study")
    study = write_study(run, same=request.param)
    return run, study, build_report(run).read_text(), request.param


def test_every_arm_has_mean_sd_and_each_seeds_figure(reported):
    _, study, page, _ = reported
    text = words(page)
    for name, label in (("federated", "Federated the configured federation"), ("local:hospital-2", "hospital-2 alone")):
        values = study["arms"][name]["c_index"]["by_seed"]
        figures = [np.mean(values), np.std(values, ddof=1), *values]
        assert f"{label} {' '.join(f'{value:.3f}' for value in figures)}" in text
    assert "Model Mean sd Seed 0 Seed 4" in text
    assert "FedBN FedAvg with each site's own norm statistics" in text


def test_differences_quote_the_interval_that_counts_each_patient_once(reported):
    _, study, page, same = reported
    text = words(page)
    shown = study["differences"]
    own = {f"At hospital-{n}: federated minus its own": f"federated - local:hospital-{n}" for n in (1, 2, 3)}
    everyone = {"Federated minus pooled": "federated - pooled", "FedBN minus federated": "fedbn - federated"}
    for label, key in {**everyone, **own}.items():
        found = shown["own_patients"][key] if label in own else shown[key]
        bounds = found["same_patients"] if same else found
        quoted = Gap(found["difference"], bounds["low"], bounds["high"]).short
        line = re.search(rf"{re.escape(label)} {re.escape(quoted)} (.*?) (the same patients|patients of each)", text)
        assert line is not None, label
        assert (line[2] == "the same patients") == same
        training = found["training"]
        again = Gap(found["difference"], training["low"], training["high"])
        lowest, highest = min(bounds["low"], again.low), max(bounds["high"], again.high)
        expected = "the first is higher" if lowest > 0 else "cannot be told"
        assert line[1] == f"{again.interval} {'the second is higher' if highest < 0 else expected}"
    assert ("so that each counts once and not once a seed" in text) == same


def test_the_null_run_and_what_a_seed_changes_are_told(reported):
    _, study, page, same = reported
    text = words(page)
    c_index = study["arms"][NULL]["c_index"]["by_seed"]
    over_seeds = ttest_1samp(c_index, 0).confidence_interval(0.95)
    numbers = f"{np.mean(c_index):.3f} ({over_seeds.low:.3f} to {over_seeds.high:.3f} over seeds)".replace("-", "−")
    assert f"With shuffled outcomes C is {numbers} on average; " in text
    assert "the interval of a seed’s own test patients holds 0.5 in 1 of 2 seeds." in text
    assert ("A seed keeps split into training" in text) == same
    assert "An oracle that knows the true hazard of the synthetic patients reaches 0.800" in text


def test_the_page_is_one_file_with_the_forest_plot_and_escapes_text(reported):
    run, _, page, _ = reported
    assert set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([a-z]+):""", page)) == {"data"}
    assert "<script" not in page
    assert "<demo>" not in page
    assert (run / "figures" / "differences.svg").read_text().startswith("<svg")
    assert build_report(run).read_text() == page


def test_undefined_figures_are_dashes_and_one_seed_has_no_sd(tmp_path):
    study = write_study(tmp_path, seeds=(0,))
    study["arms"]["pooled"]["c_index"] = {"mean": None, "sd": None, "by_seed": [float("nan")]}
    study["arms"][NULL]["c_index"]["mean"] = None
    study["differences"] = {"federated - pooled": {"difference": float("nan"), "low": 0.0, "high": 0.1}}
    (tmp_path / "study.json").write_text(json.dumps(study))
    page = build_report(tmp_path).read_text()
    text = words(page)
    assert "Pooled trained on all patients in one place — — —" in text
    assert not re.search(r"\b(nan|None)\b", text)
    assert "<figure" not in page
    assert re.search(r"Federated the configured federation 0\.\d{3} — 0\.\d{3}", text)


def test_an_unfinished_study_and_a_broken_file_are_named_in_one_line(tmp_path):
    (tmp_path / "seed-0").mkdir()
    with pytest.raises(InputError, match=r"study\.json is missing; run 'compare --seeds' again"):
        build_report(tmp_path)
    for broken in ({}, {"seeds": [0], "differences": {}, "arms": {"federated": {}}}, {"seeds": 3}):
        (tmp_path / "study.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match=r"study\.json: lacks something") as error:
            build_report(tmp_path)
        assert "\n" not in str(error.value)
