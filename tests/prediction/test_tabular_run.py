"""A cross-validated run that sees clinical columns and radiomics features, from ``train`` to ``predict``."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from adamss_fl.assembly import load_all_data, run_comparison
from adamss_fl.cli.main import main
from adamss_fl.cohort import make_phantom
from adamss_fl.config import load_config
from adamss_fl.evaluation.compare import pool
from adamss_fl.evaluation.cross_validation import make_folds
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.model import AdaMSS
from adamss_fl.prediction import TrainedRun, load_folds

pytest.importorskip("radiomics", reason="pyradiomics is not installed")

SETTINGS: dict[str, Any] = {
    "name": "tabular folds",
    "split": {"test": 0.3},
    "imaging": {"grid": [16, 16, 16], "spacing_mm": [8.0, 8.0, 8.0]},
    "augmentation": [],
    "model": {"width": 1, "bins": 3},
    "plan": {"segmentation_rounds": 4, "survival_rounds": 1},
    "stages": {"segmentation": {"batch_size": 2, "learning_rate": 1e-2}, "survival": {"batch_size": 2}},
    "tabular": {
        "clinical": [{"name": "age_years"}, {"name": "hpv", "kind": "binary"}],
        "radiomics": {"select": 2, "min_voxels": 1, "settings": {"wavelet": False}},
    },
    "runtime": {"device": "cpu", "precision": "fp32", "channels_last": False, "threads": 1},
    "evaluation": {"bootstrap": 5},
}


@dataclass(frozen=True)
class Crossed:
    """The run, the hospital it was trained on, and what ``train`` said."""

    run: Path
    hospital: Path
    said: dict[str, Any]

    @property
    def folds(self) -> tuple[TrainedRun, ...]:
        return load_folds(self.run)


@pytest.fixture(scope="module")
def crossed(tmp_path_factory: pytest.TempPathFactory) -> Crossed:
    folder = tmp_path_factory.mktemp("tabular")
    hospital = make_phantom(folder / "phantom", sites=1, patients=24, size=16, seed=3, workers=1).folders[0]
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, "sites": [{"name": "hospital", "path": str(hospital)}]}))
    assert main(["train", str(path), "--folds", "2", "--out", str(folder / "run"), "--jobs", "1"]) == 0
    return Crossed(folder / "run", hospital, json.loads((folder / "run" / "metrics.json").read_text()))


def ages(hospital: Path) -> dict[str, float]:
    (table,) = hospital.glob("*clinical*.csv")
    with table.open(newline="") as file:
        return {row["PatientID"]: float(row["Age"]) for row in csv.DictReader(file)}


def test_each_fold_learns_its_scaling_and_features_on_its_own_training_patients(crossed: Crossed) -> None:
    config = load_config(crossed.run / "config.yaml")
    data = load_all_data(config, crossed.run)
    folds = make_folds(pool(data), 2, config.split.seed)
    known, seen = ages(crossed.hospital), []
    for fold, run in zip(folds, crossed.folds, strict=True):
        trained = [known[sample.patient_id] for sample in fold.data.train]
        assert run.encoding is not None
        age = run.encoding.clinical[0]
        expected = (np.mean(trained), np.std(trained))
        assert (age.mean, age.sd) == pytest.approx(expected)
        seen.append(age.mean)
        assert run.encoding.selected
        assert run.task.model.tabular == run.encoding.length
    assert seen[0] != seen[1]


def predicted(crossed: Crossed, patient: str, out: Path, capfd: pytest.CaptureFixture[str], *clinical: str) -> Any:
    images = [crossed.hospital / "imagesTr" / f"{patient}__{kind}.nii.gz" for kind in ("PT", "CT")]
    capfd.readouterr()
    given = [word for each in clinical for word in ("--clinical", each)]
    arguments = ["predict", crossed.run, "--pet", images[0], "--ct", images[1], *given, "--out", out, "--json"]
    assert main([str(argument) for argument in arguments]) == 0
    return json.loads(capfd.readouterr().out)


def test_a_new_patient_is_encoded_as_in_evaluation(
    crossed: Crossed, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of a test patient: the ensemble's risk and curve as the run judged them, from the hospital's own files."""
    kept = Predictions.load(crossed.run / "predictions.npz")
    patient = str(kept.patient[0])
    (table,) = crossed.hospital.glob("*clinical*.csv")
    found = predicted(crossed, patient, tmp_path / "file", capfd, str(table))
    assert found["risk"] == pytest.approx(float(kept.risk[0]), rel=1e-5)
    codes = {warning["code"] for warning in found["warnings"]}
    older = predicted(
        crossed, patient, tmp_path / "older", capfd, str(table), f"age_years={ages(crossed.hospital)[patient] + 40}"
    )
    assert older["risk"] != found["risk"]
    blind = predicted(crossed, patient, tmp_path / "blind", capfd)
    assert "missing_clinical" in {warning["code"] for warning in blind["warnings"]} - codes
    assert blind["risk"] not in (found["risk"], older["risk"])


def test_the_report_shows_what_the_folds_selected(crossed: Crossed, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(crossed.run)]) == 0
    page = (crossed.run / "report.html").read_text()
    for run in crossed.folds:
        assert run.encoding is not None
        assert run.encoding.selected
        for scale in run.encoding.selected:
            assert scale.name in page


def test_a_tabular_run_is_evaluated_and_explained(crossed: Crossed, capfd: pytest.CaptureFixture[str]) -> None:
    kept = Predictions.load(crossed.run / "predictions.npz")
    capfd.readouterr()
    assert main(["evaluate", str(crossed.run), str(crossed.hospital), "--split", "test", "--json"]) == 0
    found = Predictions.load(Path(json.loads(capfd.readouterr().out)["predictions"]))
    np.testing.assert_array_equal(found.risk, kept.risk)
    assert main(["explain", str(crossed.run / "folds" / "fold-1"), "--patients", "1"]) == 0


def test_all_arms_of_a_comparison_see_the_clinical_columns(tmp_path: Path) -> None:
    """To the report's example patients, whose masks come from a network with a tabular vector."""
    hospitals = make_phantom(tmp_path / "phantom", sites=2, patients=12, size=16, seed=1, workers=1).folders
    sites = [{"name": folder.name, "path": str(folder)} for folder in hospitals]
    imaging = {**SETTINGS["imaging"], "grid": [32, 16, 16]}
    columns = {"clinical": SETTINGS["tabular"]["clinical"]}
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({**SETTINGS, "imaging": imaging, "sites": sites, "tabular": columns})
    )
    config = load_config(tmp_path / "config.yaml")
    found = run_comparison(config, load_all_data(config, tmp_path / "run"), tmp_path / "run")
    assert set(found["arms"]) == {"federated", "pooled", "local:hospital-1", "local:hospital-2"}
    for arm in ("federated", "pooled"):
        hidden = final_weights(tmp_path / "run" / "arms" / arm)[0]["survival_head.hidden.weight"]
        images = AdaMSS(config.model).survival_head.hidden.weight.shape[1]
        assert hidden.shape[1] == images + 4
    assert (tmp_path / "run" / "examples.npz").is_file()
