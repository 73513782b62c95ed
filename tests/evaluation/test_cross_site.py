"""Every model on every site, and each site's gain, against lifelines, rules by hand and direct calls."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from compared_folder import SITES, models, write_compared
from hypothesis import given
from hypothesis import strategies as st
from lifelines.utils import concordance_index

from adamss_fl.errors import InputError
from adamss_fl.evaluation.cross_site import bootstrap_p, cross_site, gains_of_sites, holm
from adamss_fl.evaluation.power import power_of_difference
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.survival import bootstrap_interval, paired_difference
from adamss_fl.survival.bootstrap import resampled_c_indices


def at(model: Predictions, site: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    own = model.site == site
    return model.time_days[own], model.event[own], model.risk[own]


def test_the_matrix_has_every_model_at_every_site_with_lifelines_c_index(tmp_path: Path) -> None:
    found = models()
    write_compared(tmp_path, found)
    said = cross_site(tmp_path)
    assert json.loads((tmp_path / "cross_site.json").read_text()) == said
    assert said["sites"] == list(SITES)
    assert list(said["matrix"]) == list(found)
    for name, model in found.items():
        for site in SITES:
            times, events, risk = at(model, site)
            cell, interval = said["matrix"][name][site], bootstrap_interval(times, events, risk, 100, 0)
            assert cell["c_index"] == pytest.approx(concordance_index(times, -risk, events))
            assert (cell["ci_low"], cell["ci_high"]) == (interval.low, interval.high)
            assert (cell["patients"], cell["events"], cell["note"]) == (times.size, events.sum(), "")
            own = model.site == site
            inter, predicted, reference = (model.overlap[own, 0, part].sum() for part in range(3))
            assert cell["dsc"]["tumour"] == pytest.approx(2 * inter / (predicted + reference))


def test_the_gain_is_the_paired_difference_with_its_verdict(tmp_path: Path) -> None:
    found = models()
    write_compared(tmp_path, found, bootstrap=200)
    said = cross_site(tmp_path)
    gains = said["gains"]
    assert (list(gains), said["family"]) == (list(SITES), 3)
    for site, gain in gains.items():
        times, events, federated = at(found["federated"], site)
        local = at(found[f"local:{site}"], site)[2]
        direct = paired_difference(times, events, federated, local, 200, 0)
        assert (gain["difference"], gain["low"], gain["high"]) == (direct.difference, direct.low, direct.high)
        told = power_of_difference(times, events, federated, local, 200, 0)
        assert gain["detectable"] == pytest.approx(told.detectable())
        assert gain["comparable_pairs"] == told.comparable_pairs
    for site, verdict in (("hospital-1", "helped"), ("hospital-2", "harmed")):
        assert gains[site]["verdict"] == gains[site]["verdict_holm"] == verdict
        assert gains[site]["p"] == pytest.approx(2 / 201)
        assert gains[site]["p_holm"] == pytest.approx(3 * 2 / 201)


def test_the_correction_takes_back_what_one_of_three_looks_gave_and_no_more() -> None:
    """100 resamples cannot show a p below 2 / 101: enough for one site, and too little for three."""
    found = models()
    for names, verdict in ((SITES, "cannot be told"), (SITES[:1], "helped")):
        chosen = {name: model for name, model in found.items() if name.removeprefix("local:") in ("federated", *names)}
        gain = gains_of_sites(chosen, 100, 0)["hospital-1"]
        assert (gain.verdict, gain.verdict_holm) == ("helped", verdict)
        assert gain.p_holm == pytest.approx(len(names) * 2 / 101)


def test_models_that_order_every_pair_alike_cannot_be_told_apart() -> None:
    found = models()
    gain = gains_of_sites({**found, "local:hospital-3": found["federated"]}, 100, 0)["hospital-3"]
    assert (gain.difference, gain.low, gain.high, gain.p) == (0.0, 0.0, 0.0, 1.0)
    assert (gain.verdict, gain.verdict_holm, gain.detectable) == ("cannot be told", "cannot be told", None)
    assert gain.note == "both models order every resample alike"


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=6), st.floats(0.001, 0.5))
def test_holms_p_is_at_most_a_level_where_his_step_down_rule_rejects_at_it(p: list[float], level: float) -> None:
    """The rule as he gave it: go up the sorted p, and stop at the first that is above level / (hypotheses left)."""
    rejected: set[int] = set()
    for index in sorted(range(len(p)), key=p.__getitem__):
        if p[index] * (len(p) - len(rejected)) > level:
            break
        rejected.add(index)
    assert {index for index, adjusted in enumerate(holm(p)) if adjusted <= level} == rejected


def test_p_counts_the_resamples_on_either_side_with_one_added() -> None:
    assert bootstrap_p(np.array([-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 * (1 + 2) / 8)
    assert bootstrap_p(-np.array([-1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0])) == pytest.approx(2 * (1 + 2) / 8)
    assert bootstrap_p(np.ones(999)) == pytest.approx(0.002)
    assert bootstrap_p(np.array([-1.0, 1.0])) == 1.0


def test_p_is_rarely_small_where_there_is_no_difference() -> None:
    """Two models of equal noise, 200 studies of 80 patients: at most about one in twenty has p below 0.05."""
    small = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        hazard = rng.normal(0, 1, 80)
        risk = hazard + rng.normal(0, 1, (2, 80))
        values = resampled_c_indices(rng.exponential(np.exp(-hazard)), np.ones(80), list(risk), 200, seed)
        small.append(bootstrap_p(values[0] - values[1]) <= 0.05)
    assert 0.0 < np.mean(small) < 0.09


def test_a_site_without_a_comparable_pair_or_with_few_says_so_and_leaves_the_family(tmp_path: Path) -> None:
    found = models()
    sites = found["federated"].site
    few = np.flatnonzero(sites == "hospital-2")[:5]
    kept = np.flatnonzero(sites != "hospital-2")
    kept = np.sort(np.concatenate([kept, few]))
    changed = {}
    for name, model in found.items():
        event = np.where(model.site == "hospital-1", 0, model.event)
        changed[name] = replace(model, event=event).subset(kept)
    write_compared(tmp_path, changed)
    said = cross_site(tmp_path)
    for row in said["matrix"].values():
        cell = row["hospital-1"]
        assert (cell["c_index"], cell["ci_low"], cell["ci_high"], cell["comparable_pairs"]) == (None, None, None, 0)
        assert cell["note"] == "no comparable pair"
    gains = said["gains"]
    assert (gains["hospital-1"]["note"], gains["hospital-1"]["difference"]) == ("no comparable pair", None)
    assert (gains["hospital-2"]["note"], gains["hospital-2"]["p"]) == ("fewer than 20 comparable pairs", None)
    assert gains["hospital-1"]["verdict"] == gains["hospital-2"]["verdict"] == "cannot be told"
    assert said["family"] == 1
    assert gains["hospital-3"]["p_holm"] == gains["hospital-3"]["p"]


def test_a_site_without_test_patients_has_a_gain_that_cannot_be_told() -> None:
    found = models()
    gain = gains_of_sites({**found, "local:hospital-4": found["pooled"]}, 50, 0)["hospital-4"]
    assert (gain.note, gain.verdict, gain.p, gain.comparable_pairs) == ("no test patient", "cannot be told", None, 0)


def test_further_arms_are_judged_and_folders_without_predictions_named(tmp_path: Path) -> None:
    """A further arm may hold the same patients in another order."""
    found = models()
    write_compared(tmp_path, found)
    order = np.random.default_rng(0).permutation(len(found["pooled"].patient))
    found["pooled"].subset(order).save(tmp_path / "arms" / "fedprox" / "predictions.npz")
    (tmp_path / "arms" / "begun").mkdir()
    said = cross_site(tmp_path)
    assert said["matrix"]["fedprox"] == said["matrix"]["pooled"]
    assert said["left_out"] == ["begun"]


def test_what_is_no_comparison_or_not_of_the_same_patients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no comparison"):
        cross_site(tmp_path)
    found = models()
    write_compared(tmp_path, found)
    path = tmp_path / "arms" / "pooled" / "predictions.npz"
    for wrong, message in (
        (found["pooled"].subset(np.arange(100)), "test patients are not those"),
        (replace(found["pooled"], time_days=found["pooled"].time_days + 1.0), "other times or events"),
    ):
        wrong.save(path)
        with pytest.raises(InputError, match=message):
            cross_site(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match="is missing"):
        cross_site(tmp_path)
    for broken in ("{", "[]", "{}", '{"arms": {"pooled": {}}, "test_patients_sha256": "x"}'):
        (tmp_path / "comparison.json").write_text(broken)
        with pytest.raises(InputError, match=r"comparison\.json"):
            cross_site(tmp_path)
    assert not (tmp_path / "cross_site.json").exists()
