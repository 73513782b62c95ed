"""The report of a cross-validation says what its files say, and draws the groups that were cut inside the folds."""

import html
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lifelines.statistics import logrank_test
from synthetic_run import SITES, predictions

from adamss_fl.errors import InputError
from adamss_fl.evaluation.cross_validation import hash_of_predicted
from adamss_fl.evaluation.ensemble import average
from adamss_fl.evaluation.figures import style
from adamss_fl.evaluation.fold_scores import summarize
from adamss_fl.evaluation.report import build_report


def write_cross_validation(run: Path, tested: bool = True) -> dict[str, Any]:
    """A finished cross-validation of three folds of 30 patients; returns what cross_validation.json holds."""
    held_out = [predictions(0.6 + 0.3 * k, patients=90).subset(np.arange(k, 90, 3)) for k in range(3)]
    test = [predictions(noise, patients=60, seed=9) for noise in (0.5, 1.0, 2.0)] if tested else []
    folds = []
    for number, found in enumerate(held_out, start=1):
        found.save(run / "folds" / f"fold-{number}" / "predictions.npz")
        facts = {"fold": number, "label": f"fold {number}", "trained_on": 60}
        folds.append({**facts, "held_out_sha256": hash_of_predicted(found)})
    (run / "folds" / "folds.json").write_text(json.dumps({"folds": folds}))
    head = {"scheme": "3 folds, stratified by event and centre", "split_seed": 7}
    ensemble = average(test, test[0].overlap) if tested else None
    said = {**head, **summarize(folds, held_out, test, ensemble, 2, 20, 0)}
    metrics: dict[str, Any] = {"name": "three <folds>", "sites": ["pooled"], "folds": 3, "test": {"patients": 0}}
    if ensemble is not None:
        metrics["test"] = said["test"]["ensemble"]
        ensemble.save(run / "predictions.npz")
    (run / "cross_validation.json").write_text(json.dumps(said))
    (run / "metrics.json").write_text(json.dumps(metrics))
    return said


def words(page: str) -> str:
    body = re.sub(r"<style>.*?</style>|<img[^>]*>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def cell(scores: dict[str, Any]) -> str:
    return f"{scores['c_index']:.3f} ({scores['ci_low']:.3f} to {scores['ci_high']:.3f})"


def test_every_fold_and_their_summary_are_in_the_table(tmp_path: Path) -> None:
    said = write_cross_validation(tmp_path)
    text = words(build_report(tmp_path).read_text())
    for fold in said["folds"]:
        counts = f"Fold {fold['fold']} 60 {fold['patients']} ({fold['events']})"
        overlap = f"{fold['dsc']['tumour']:.3f} {fold['dsc']['nodes']:.3f}"
        assert f"{counts} {cell(fold)} {fold['comparable_pairs']:,} {overlap}" in text
    spread, found = said["over_folds"]["c_index"], said["out_of_fold"]
    assert f"Mean (standard deviation) of the folds {spread['mean']:.3f} ({spread['sd']:.3f})" in text
    held_out = f"90 ({found['events']})"
    for name, label in (("within_folds", "pairs within folds"), ("all_pairs", "all pairs, by expected days")):
        figures = found[name]
        assert f"All held out, {label} {held_out} {cell(figures)} {figures['comparable_pairs']:,}" in text
    assert "3 folds, stratified by event and centre" in text
    assert "seed of the folds 7" in text


def test_test_patients_show_the_ensemble_and_each_folds_model(tmp_path: Path) -> None:
    said = write_cross_validation(tmp_path)
    page = build_report(tmp_path).read_text()
    text = words(page)
    assert f"All test patients 60 patients, {said['test']['ensemble']['events']} with an event" in text
    for row in said["test"]["folds"]:
        assert f"Model of fold {row['fold']} 60 {cell(row)}" in text
    assert f"Ensemble of the folds 90 {said['test']['ensemble']['c_index']:.3f}" in text
    assert all(f"{site} " in text for site in SITES)
    gain = said["test"]["ensemble - mean of folds"]
    assert f"The difference is {gain['difference']:+.3f} (95 % interval" in text.replace("\N{MINUS SIGN}", "-")
    assert "<folds>" not in page
    assert not re.search(r"\b(nan|none|null)\b", text, flags=re.IGNORECASE)
    assert "secret-" not in page


def test_the_curves_are_of_the_groups_cut_inside_the_folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the page as text: lifelines' log-rank test and numbers at risk."""
    import base64

    monkeypatch.setitem(style._RC, "svg.fonttype", "none")
    said = write_cross_validation(tmp_path)
    page = build_report(tmp_path).read_text()
    found = re.search(r'<figure id="out-of-fold">.*?base64,([^"]+)"', page, flags=re.DOTALL)
    assert found is not None
    svg = base64.b64decode(found[1]).decode()
    parts = [predictions(0.6 + 0.3 * k, patients=90).subset(np.arange(k, 90, 3)) for k in range(3)]
    high = np.concatenate([part.risk > np.median(part.risk) for part in parts])
    t, e = (np.concatenate([getattr(part, name) for part in parts]) for name in ("time_days", "event"))
    p = logrank_test(t[high], t[~high], e[high], e[~high]).p_value
    assert said["risk_groups"]["logrank_p"] == pytest.approx(p)
    assert f"Out of fold · log-rank {'p &lt; 0.001' if p < 0.001 else f'p = {p:.3f}'}" in svg
    for group in (high, ~high):
        assert f">{int((t[group] >= 2 * 365.25).sum())}</text>" in svg


def test_without_test_patients_the_page_says_so_and_has_no_test_table(tmp_path: Path) -> None:
    write_cross_validation(tmp_path, tested=False)
    page = build_report(tmp_path).read_text()
    text = words(page)
    assert "Not tested: no patients were held out of all folds (split.test is 0)" in text
    assert "Model of fold" not in text
    assert "ensemble forms no mask" not in text
    assert re.findall(r'<figure id="([^"]+)"', page) == ["out-of-fold"]


@pytest.mark.parametrize("broken", ["unfinished", "figures", "folds", "patients"])
def test_a_broken_cross_validation_is_refused(tmp_path: Path, broken: str) -> None:
    said = write_cross_validation(tmp_path)
    summary = tmp_path / "cross_validation.json"
    if broken == "unfinished":
        summary.unlink()
    elif broken == "figures":
        summary.write_text(json.dumps({key: value for key, value in said.items() if key != "over_folds"}))
    elif broken == "folds":
        (tmp_path / "folds/fold-2/predictions.npz").unlink()
    else:
        (tmp_path / "folds/fold-1/predictions.npz").replace(tmp_path / "folds/fold-2/predictions.npz")
        predictions(1.0, patients=30).save(tmp_path / "folds/fold-1/predictions.npz")
    message = {
        "unfinished": "not finished",
        "figures": "lacks figures",
        "folds": "fold-2/predictions.npz: holds no predictions",
        "patients": "other patients",
    }[broken]
    with pytest.raises(InputError, match=message):
        build_report(tmp_path)
