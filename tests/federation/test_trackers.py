"""Trackers against the events they were given."""

import builtins
import csv
import importlib.util
import sqlite3

import pytest

from adamss_fl.errors import InputError
from adamss_fl.federation.trackers import CsvTracker, MlflowTracker, figures_of

EVENTS = [
    {
        "time": "2026-01-01T00:00:00",
        "kind": "train",
        "round": 1,
        "site": "north",
        "loss.dice": 0.1,
        "gate_opening": [0.5, 0.25],
    },
    {"time": "2026-01-01T00:00:01", "kind": "train", "round": 1, "site": "south", "loss.dice": 1 / 3, "balanced": True},
    {
        "time": "2026-01-01T00:00:02",
        "kind": "validation",
        "round": 1,
        "c_index": 0.625,
        "dsc": {"tumour": 0.75},
        "note": "x",
    },
]


def test_figures_are_the_numbers_of_an_event_under_dotted_names():
    found = dict(figures_of({"kind": "k", "round": 3, "a": {"b": [1, {"c": 2.5}]}, "t": "text", "f": True, "n": None}))
    assert found == {"a.b.0": 1, "a.b.1.c": 2.5}


def test_csv_holds_every_figure_exactly_and_a_resumed_run_goes_on(tmp_path):
    for part in (EVENTS[:1], EVENTS[1:]):
        tracker = CsvTracker()
        tracker.start(tmp_path / "run", {"seed": 1})
        for event in part:
            tracker.log(event)
        tracker.finish()
    with (tmp_path / "run/metrics.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    found = [(row["kind"], int(row["round"]), row["site"], row["figure"], float(row["value"])) for row in rows]
    assert found == [
        ("train", 1, "north", "loss.dice", 0.1),
        ("train", 1, "north", "gate_opening.0", 0.5),
        ("train", 1, "north", "gate_opening.1", 0.25),
        ("train", 1, "south", "loss.dice", 1 / 3),
        ("validation", 1, "", "c_index", 0.625),
        ("validation", 1, "", "dsc.tumour", 0.75),
    ]


def test_without_mlflow_the_message_says_how_to_install_it(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_mlflow(name, *args, **kwargs):
        if name.split(".")[0] == "mlflow":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_mlflow)
    with pytest.raises(InputError, match=r"pip install 'adamss-fl\[mlflow\]'"):
        MlflowTracker().start(tmp_path, {})


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="needs the extra mlflow")
def test_mlflow_gets_settings_and_figures_in_one_run_even_when_resumed(tmp_path):
    for part in (EVENTS[:1], EVENTS[1:]):
        tracker = MlflowTracker()
        tracker.start(tmp_path / "run", {"seed": 7, "stages": {"segmentation": {"learning_rate": 0.001}}})
        for event in part:
            tracker.log(event)
        tracker.finish()
    with sqlite3.connect(tmp_path / "run/mlflow.db") as database:
        metrics = database.execute("select key, value, step from metrics").fetchall()
        params = dict(database.execute("select key, value from params").fetchall())
        runs = database.execute("select status from runs").fetchall()
    assert ("north/train/loss.dice", 0.1, 1) in metrics
    assert ("south/train/loss.dice", 1 / 3, 1) in metrics
    assert ("validation/dsc.tumour", 0.75, 1) in metrics
    assert params == {"seed": "7", "stages.segmentation.learning_rate": "0.001"}
    assert runs == [("FINISHED",)]
