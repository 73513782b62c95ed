"""Figures: what they draw equals what the data say, and they need nothing from outside."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from synthetic_run import EDGES, SITES, events, predictions, write_examples

from adamss_fl.errors import InputError
from adamss_fl.evaluation.figures import (
    Examples,
    ForestRow,
    Palette,
    calibration_figure,
    calibration_horizon,
    forest_figure,
    gates_figure,
    kaplan_meier_figure,
    learning_figure,
    outlines_figure,
    style,
    survival_curve_figure,
)
from adamss_fl.evaluation.figures.gates import openings
from adamss_fl.evaluation.figures.learning import training_losses, validation_series
from adamss_fl.evaluation.figures.outlines import best_slice

PALETTE = Palette(SITES)


@pytest.fixture
def readable(monkeypatch):
    """Text in the SVG as text, so that tests can read it."""
    monkeypatch.setitem(style._RC, "svg.fonttype", "none")


def texts(svg):
    root = ElementTree.fromstring(svg)
    return ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_figure_is_the_same_each_time_and_names_no_outside_address():
    rows = [ForestRow("Federated", "#0072B2", 0.7, 0.65, 0.75)]
    first, second = forest_figure(rows, 0.8), forest_figure(rows, 0.8)
    assert first == second
    assert set(re.findall(r"https?://[^\"/]+", first)) == {"http://www.w3.org"}
    assert "<script" not in first


@pytest.mark.usefixtures("readable")
def test_forest_names_every_arm_its_interval_and_why_one_has_none():
    rows = [
        ForestRow("Federated", "#0072B2", 0.7, 0.65, 0.75),
        ForestRow("x alone", "#E69F00", None, None, None, "none"),
    ]
    found = texts(forest_figure(rows, 0.8123))
    assert {"Federated", "x alone", "0.700  (0.650 to 0.750)", "— none", "chance", "oracle 0.812"} <= set(found)


@pytest.mark.usefixtures("readable")
@pytest.mark.parametrize("groups", [2, 3])
def test_kaplan_meier_shows_log_rank_and_numbers_at_risk(groups):
    from lifelines.statistics import multivariate_logrank_test

    found = predictions(1.0, patients=90)
    drawn = texts(kaplan_meier_figure([("Federated", found)], groups))
    cuts = np.quantile(found.risk, np.arange(1, groups) / groups)
    label = (found.risk[:, None] > cuts).sum(axis=1)
    p = multivariate_logrank_test(found.time_days, label, found.event).p_value
    assert f"Federated · log-rank {'p < 0.001' if p < 0.001 else f'p = {p:.3f}'}" in drawn
    assert drawn.count(str(90 // groups)) >= groups  # everyone is at risk on day 0
    for group in range(groups):
        assert str(int((found.time_days[label == group] >= 2 * 365.25).sum())) in drawn


@pytest.mark.usefixtures("readable")
def test_kaplan_meier_of_equal_risks_says_why_there_is_no_test():
    found = predictions(1.0, patients=30)
    found.risk[:] = 0.0
    assert any("log-rank: fewer than two groups" in text for text in texts(kaplan_meier_figure([("One", found)])))


def test_the_horizon_leaves_a_quarter_of_the_patients_followed():
    found = predictions(0.5)
    horizon = calibration_horizon(found)
    assert horizon <= EDGES[-1]
    assert (found.time_days >= horizon).mean() >= 0.25
    assert horizon % 365.25 == 0


def test_calibration_is_left_out_where_nobody_is_followed_to_the_horizon():
    found = predictions(0.5, patients=50)
    found.time_days[:] = np.minimum(found.time_days, 300)
    found.event[:] = 0
    assert calibration_figure([("One", "#000000", found)], 2000) is None
    assert calibration_figure([("One", "#000000", found)], 200) is not None


@pytest.mark.usefixtures("readable")
def test_learning_curves_have_a_panel_for_what_was_recorded():
    log = events(SITES)
    drawn = texts(learning_figure(log, {"federated": log}, PALETTE))
    assert {"Segmentation loss (lower is better)", "Survival loss (lower is better)", *SITES} <= set(drawn)
    trained_only = [event for event in log if event["kind"] == "train"]
    drawn = texts(learning_figure(trained_only, {"federated": trained_only}, PALETTE))
    assert not any("validation" in text for text in drawn)
    assert learning_figure([], {}, PALETTE) is None


def test_a_round_that_ran_again_counts_with_its_last_figures():
    log = [
        {"kind": "train", "round": 1, "site": "a", "figures": {"loss.survival": 0.9}},
        {"kind": "train", "round": 1, "site": "a", "figures": {"loss.survival": 0.4}},
        {"kind": "validation", "round": 1, "figures": {"c_index": None, "dsc": {"tumour": 0.5, "nodes": None}}},
    ]
    assert training_losses(log, "loss.survival") == {"a": {1: 0.4}}
    assert validation_series(log, "c_index") == validation_series(log, "dsc.nodes") == {}
    assert validation_series(log, "dsc.tumour") == {1: 0.5}


@pytest.mark.usefixtures("readable")
def test_gates_are_named_by_what_they_weigh():
    drawn = " ".join(texts(gates_figure(events(SITES), PALETTE)))
    assert "early-fusion stream" in drawn
    assert "Level 5 (coarsest)" in drawn
    assert gates_figure([{"kind": "train", "round": 1, "site": "a", "figures": {}}], PALETTE) is None


def test_gate_openings_are_those_after_training():
    after = [0.1, 0.2, 0.3, 0.4, 0.5]
    log = [
        {"kind": "train", "round": 2, "site": "a", "figures": {"gate_opening": {"before": [0.5] * 5, "after": after}}}
    ]
    assert openings(log, "train") == {"a": {2: after}}
    log[0]["figures"]["gate_opening"] = after
    assert openings(log, "train") == {"a": {2: after}}


def test_slices_are_those_with_most_of_the_reference_or_else_of_the_prediction():
    empty, one = np.zeros((6, 4, 4)), np.zeros((6, 4, 4))
    one[2, :2, :2] = one[4, :3, :3] = 1
    assert best_slice(one, empty) == best_slice(empty, one) == 4
    assert best_slice(empty, empty) is None


@pytest.mark.usefixtures("readable")
def test_examples_are_drawn_from_their_file_and_missing_nodes_are_said(tmp_path):
    write_examples(tmp_path / "examples.npz", side=16)
    drawn = texts(outlines_figure(Examples.load(tmp_path / "examples.npz")))
    assert "50th percentile of tumour DSC" in drawn
    assert sum("slice with most tumour" in text for text in drawn) == 6
    assert "no nodes" in " ".join(drawn)
    (tmp_path / "broken.npz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"broken\.npz"):
        Examples.load(tmp_path / "broken.npz")


def test_a_site_has_one_colour_everywhere_and_sites_differ():
    many = Palette(tuple(f"site-{k:02d}" for k in range(16)))
    assert all(many.site(site) == many.arm(f"local:{site}") for site in many.sites)
    assert len({(many.site(site), many.dash(site)) for site in many.sites}) == 16
    assert many.arm("federated") != many.arm("pooled")


@pytest.mark.usefixtures("readable")
def test_a_patients_curve_says_whose_it_is_and_draws_every_model_behind_it():
    curve = ((0.0, 365.25, 1461.0), (1.0, 0.9, 0.4))
    alone = survival_curve_figure("P-1 & co", curve, 700.4)
    assert {"P-1 & co: restricted mean of 700 in 1461 days", "years of follow-up", "4"} <= set(texts(alone))
    assert "For research only. Not a medical device." in texts(alone)
    assert alone == survival_curve_figure("P-1 & co", curve, 700.4)
    several = survival_curve_figure("P-1", curve, 700.4, [curve, curve, curve])
    assert "each of the 3 models" in texts(several)
    assert "each of the 3 models" not in texts(alone)
