"""Replies without weights: a sound one passes, and every impossible figure is refused by name, unrepeated."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from synthetic import make_data, make_task

from adamss_fl import __version__
from adamss_fl.federation.messages import Instruction
from adamss_fl.federation.reply_checks import figures_problem
from adamss_fl.federation.run import initial_weights
from adamss_fl.federation.site import Site

EDGES = [0.0, 200.0, 400.0, 800.0, 1600.0]
DESCRIBE = Instruction("describe", "run", 0, 1, {"version": __version__})
EVALUATE = Instruction("evaluate", "run", 0, 1, {"split": "test", "edges_days": EDGES}, initial_weights(make_task()))
EVENT_TIMES = Instruction("statistics", "run", 0, 1, {"query": "event_times", "edges_days": EDGES})


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What a real site answers, by kind."""
    folder: Path = tmp_path_factory.mktemp("site")
    data = make_data("a")
    site = Site("a", lambda: data, make_task(), folder)
    return {order.kind: dict(site.handle(order).figures) for order in (DESCRIBE, EVALUATE, EVENT_TIMES)}


@pytest.mark.parametrize("order", [DESCRIBE, EVALUATE, EVENT_TIMES], ids=lambda order: order.kind)
def test_what_a_site_answers_is_sound(order: Instruction, sound: dict[str, dict[str, Any]]) -> None:
    assert figures_problem(order, sound[order.kind]) is None


def test_no_patients_in_the_split_is_sound() -> None:
    assert figures_problem(EVALUATE, {"patients": 0}) is None


PAIRS = {"concordant": 3, "discordant": 1, "tied_risk": 0, "tied_time": 0}


@pytest.mark.parametrize(
    ("order", "name", "value"),
    [
        (DESCRIBE, "version", 3),
        (DESCRIBE, "architecture", None),
        (DESCRIBE, "patients", {"train": 5}),
        (DESCRIBE, "patients", {"train": -5, "validation": 0, "test": 0}),
        (DESCRIBE, "events", {"train": 10**9, "validation": 0, "test": 0}),
        (DESCRIBE, "machine", "cpu"),
        (DESCRIBE, "machine", {"device": "cpu"}),
        (DESCRIBE, "machine", {"device": "cpu", "precision": "patient-7"}),
        (DESCRIBE, "machine", {"device": "cpu", "precision": ["fp32"]}),
        (DESCRIBE, "machine", {"device": {"cpu": 1}, "precision": "fp32"}),
        (DESCRIBE, "machine", {"device": "cpu", "precision": "fp32", "name": "patient-7"}),
        (DESCRIBE, "machine", {"device": "cpu", "precision": "auto"}),
        (EVENT_TIMES, "counts", [1, 2, 3]),
        (EVENT_TIMES, "counts", [1, 2, -3, 0]),
        (EVENT_TIMES, "counts", [1, 2, 0.5, 0]),
        (EVENT_TIMES, "counts", "patient-7"),
        (EVALUATE, "patients", True),
        (EVALUATE, "patients", -1),
        (EVALUATE, "events", 10**9),
        (EVALUATE, "masked", 10**9),
        (EVALUATE, "concordance", {**PAIRS, "concordant": 10**9}),
        (EVALUATE, "concordance", {**PAIRS, "tied_time": 5}),
        (EVALUATE, "concordance", {**PAIRS, "discordant": -1}),
        (EVALUATE, "concordance", {"concordant": 3}),
        (EVALUATE, "overlap", [[1, 1, 1]]),
        (EVALUATE, "overlap", [[5, 1, 9], [0, 0, 0]]),
        (EVALUATE, "overlap", [[1.5, 2, 2], [0, 0, 0]]),
        (EVALUATE, "by_patient", [{"patients": 1}]),
        (EVALUATE, "by_patient", [{"patients": -1, "dsc_total": 0.5, "surface": {}}] * 2),
        (EVALUATE, "gate_opening", [0.5] * 4),
        (EVALUATE, "gate_opening", [0.5, 0.5, float("nan"), 0.5, 0.5]),
        (EVALUATE, "loss.survival", float("inf")),
    ],
)
def test_an_impossible_figure_is_refused_by_name(
    order: Instruction, name: str, value: Any, sound: dict[str, dict[str, Any]]
) -> None:
    problem = figures_problem(order, {**sound[order.kind], name: value})
    assert problem is not None
    assert "patient-7" not in problem
    assert name.split(".")[0] in problem


@pytest.mark.parametrize("order", [DESCRIBE, EVALUATE, EVENT_TIMES], ids=lambda order: order.kind)
def test_a_missing_figure_is_refused(order: Instruction, sound: dict[str, dict[str, Any]]) -> None:
    for name in sound[order.kind]:
        if (
            name.startswith("loss.")
            or name in ("inputs", "by_patient", "machine")
            or (name == "patients" and order is EVENT_TIMES)
        ):
            continue  # these are there where they can be; that count of patients is not used
        short = {key: value for key, value in sound[order.kind].items() if key != name}
        assert figures_problem(order, short) is not None, name


def test_the_pairs_of_the_checks_are_those_of_the_concordance(sound: dict[str, dict[str, Any]]) -> None:
    from adamss_fl.survival import Concordance

    assert set(PAIRS) == set(asdict(Concordance())) == set(sound["evaluate"]["concordance"])
