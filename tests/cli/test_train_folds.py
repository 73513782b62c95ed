"""``train --folds`` as a user types it: in processes, then ``evaluate`` and ``report`` on what it wrote."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lifelines.utils import concordance_index

from adamss_fl.cli.main import main
from adamss_fl.cohort import make_phantom
from adamss_fl.evaluation.ensemble import average
from adamss_fl.evaluation.predictions import Predictions

SETTINGS: dict[str, Any] = {
    "name": "folds",
    "cache": "cache",
    "split": {"test": 0.34},
    "imaging": {"grid": [16, 16, 16], "spacing_mm": [8.0, 8.0, 8.0]},
    "augmentation": [],
    "model": {"width": 1, "bins": 2},
    "plan": {"segmentation_rounds": 1, "survival_rounds": 1},
    "stages": {stage: {"batch_size": 4} for stage in ("segmentation", "survival")},
    "runtime": {"device": "cpu", "precision": "fp32", "channels_last": False, "threads": 1},
    "evaluation": {"bootstrap": 5},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    make_phantom(folder / "phantom", sites=2, patients=10, size=16, seed=1)
    sites = [{"name": f"hospital-{k}", "path": str(folder / f"phantom/hospital-{k}")} for k in (1, 2)]
    (folder / "config.yaml").write_text(yaml.safe_dump({**SETTINGS, "sites": sites}))
    make_phantom(folder / "other", sites=1, patients=10, size=16, seed=2)
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json"]) == 0, capsys.readouterr().err
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_folds_in_processes_one_by_one_evaluation_and_report(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = ("train", place / "config.yaml", "--folds", "centre")
    at_once = said(capsys, *train, "--out", place / "run", "--jobs", 2)
    in_turn = said(capsys, *train, "--out", place / "again", "--jobs", 1)
    assert {**at_once, "run": ""} == {**in_turn, "run": ""}
    assert [fold["label"] for fold in at_once["folds"]] == ["centre 1", "centre 2"]
    assert at_once["c_index"] == at_once["out_of_fold"]["within_folds"]["c_index"]

    other = place / "other/hospital-1"
    found = said(capsys, "evaluate", place / "run", other)
    kept = Predictions.load(Path(found["predictions"]))
    assert found["c_index"] == pytest.approx(concordance_index(kept.time_days, -kept.risk, kept.event))
    assert found["pairs"] == found["comparable_pairs"]
    alone = []
    for fold in (1, 2):
        one = said(capsys, "evaluate", place / f"run/folds/fold-{fold}", other)
        assert one["c_index"] == found["folds"][fold - 1]["c_index"]
        alone.append(Predictions.load(Path(one["predictions"])))
    np.testing.assert_array_equal(kept.risk, average(alone, kept.overlap).risk)
    assert main(["evaluate", str(place / "run"), str(place / "phantom/hospital-1")]) == 2
    assert "use --split test" in capsys.readouterr().err

    page = Path(said(capsys, "report", place / "run")["report"]).read_text()
    assert "Leave one centre out (2 centres)" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--folds", "many"), "--folds: 'many' is neither a number nor 'centre'"),
        (("--folds", "1"), "folds: 1 asked for; ask for 2 or more"),
        (("--folds", "99"), "folds: 99 asked for and"),
        (("--folds", "centre", "--site", "hospital-1"), "the only centre is '1'"),
        (("--jobs", "2"), "--jobs: one run is trained in one process"),
    ],
)
def test_folds_that_cannot_be_made_are_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    assert main(["train", str(place / "config.yaml"), "--out", str(tmp_path / "run"), *options]) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: ")
    assert message in err
    assert not (tmp_path / "run" / "config.yaml").exists()
