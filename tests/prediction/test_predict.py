"""``adamss-fl predict`` on phantom patients: what it writes, and what it says of bad input in one line."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from trained_phantom import Trained, scan_of

from adamss_fl.cli.main import main
from adamss_fl.cohort import load_cohort, split_cohort
from adamss_fl.evaluation.predictions import predict
from adamss_fl.imaging import prepare_cohort
from adamss_fl.prediction import Predictor, average_curve, load_folds, load_run
from adamss_fl.radiomics import ClinicalColumn, TabularSettings

Copy = Callable[..., Path]


def command(trained: Trained, out: Path, *more: str, patient: str | None = None) -> list[str]:
    patient = patient or trained.patients[0]
    images = ["--pet", str(trained.image(patient, "PT")), "--ct", str(trained.image(patient, "CT"))]
    return ["predict", str(trained.run), *images, "--out", str(out), *more]


def refused(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    capfd.readouterr()
    code = main(arguments)
    out, err = capfd.readouterr()
    assert (code, out) == (2, ""), err
    *progress, line = err.splitlines()
    assert all(each.startswith("predict: ") for each in progress), err
    assert line.startswith("error: ")
    return line


def test_a_patient_gets_the_evaluations_risk_and_masks_in_both_geometries(
    trained: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(command(trained, tmp_path / "out", "--json")) == 0
    out, err = capfd.readouterr()
    assert "not a medical device" in err
    said = json.loads(out)
    assert set(said) == {"risk", "survival_days", "curve", "masks", "warnings"}
    run, patient = load_run(trained.run), trained.patients[0]
    samples = prepare_cohort(load_cohort(trained.hospital).subset([patient]), run.task.imaging, tmp_path / "cache")
    expected = predict(run.task, run.survival_weights, run.segmentation_weights, samples, run.edges_days)
    assert said["risk"] == pytest.approx(float(expected.risk[0]), rel=1e-5)
    assert said["survival_days"] == -said["risk"]
    np.testing.assert_allclose([p for _, p in said["curve"]], [1.0, *expected.survival[0]], rtol=1e-5)
    assert [day for day, _ in said["curve"]] == list(run.edges_days)
    kept = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert (kept["patient"], kept["risk"], kept["horizon_days"]) == (patient, said["risk"], run.edges_days[-1])
    assert "research only" in kept["research_use_only"]
    trained_on = len(split_cohort(load_cohort(trained.hospital), run.config.split).train)
    (member,) = kept["model"]["members"]
    assert (member["rounds"], member["seed"], member["training_patients"]) == (2, 0, trained_on)
    assert member["sha256"] == run.digests()
    assert (tmp_path / "out" / "survival.svg").read_text().startswith("<svg")
    for kind, name in (("PT", "pet"), ("CT", "ct")):
        native, mask = sitk.ReadImage(str(trained.image(patient, kind))), sitk.ReadImage(said["masks"][name])
        assert mask.GetSize() == native.GetSize()
        for fact in ("GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(mask, fact)() == pytest.approx(getattr(native, fact)())
        assert set(np.unique(sitk.GetArrayFromImage(mask))) <= {0, 1, 2}


def test_folds_give_the_mean_of_their_curves_and_probabilities(trained: Trained, copied: Copy, tmp_path: Path) -> None:
    run = tmp_path / "crossed"
    for number in (1, 2):
        shutil.copytree(copied(f"copy-{number}"), run / "folds" / f"fold-{number}")
    (run / "metrics.json").write_text("{}")
    folds = load_folds(run)
    weights = {name: array.copy() for name, array in folds[1].survival_weights.items()}
    weights["survival_head.output.bias"] += 1.0
    folds = (folds[0], replace(folds[1], survival_weights=weights))
    scan = scan_of(trained, trained.patients[0])
    both, each = Predictor(folds)(scan), [Predictor([fold])(scan) for fold in folds]
    assert each[0].survival_days != pytest.approx(each[1].survival_days, rel=1e-3)
    assert both.survival_days == pytest.approx(np.mean([one.survival_days for one in each]))
    np.testing.assert_allclose(both.curve.survival, np.mean([one.curve.survival for one in each], axis=0))
    assert len(both.member_curves) == 2
    np.testing.assert_array_equal(sitk.GetArrayFromImage(both.ct_mask), sitk.GetArrayFromImage(each[0].ct_mask))


def test_curves_of_unlike_time_bins_are_joined_up_to_the_nearer_horizon() -> None:
    """Closed form: S falls from 1 to 0 in a straight line over 100 and over 200 days."""
    found = average_curve([(0, 50, 100), (0, 200)], [np.array([0.5, 0.0]), np.array([0.0])])
    assert found.days == (0, 50, 100)
    np.testing.assert_allclose(found.survival, [1.0, (0.5 + 0.75) / 2, (0.0 + 0.5) / 2])
    assert found.restricted_mean_days == pytest.approx((0.5 + 0.75) / 2 * 50 + 0.5 / 2 * 50)


def test_a_cohort_is_predicted_without_endpoints_and_who_cannot_be_is_named(
    trained: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hospital, first, second, third = tmp_path / "hospital", *trained.patients[:3]
    (hospital / "imagesTr").mkdir(parents=True)
    for patient in (first, second, third):
        for kind in ("PT", "CT"):
            shutil.copy(trained.image(patient, kind), hospital / "imagesTr")
    (hospital / "imagesTr" / f"{second}__CT.nii.gz").unlink()
    pet = hospital / "imagesTr" / f"{third}__PT.nii.gz"
    moved = sitk.ReadImage(str(pet))
    moved.SetOrigin([5000.0, 0.0, 0.0])
    sitk.WriteImage(moved, str(pet))
    assert main(["predict", str(trained.run), "--cohort", str(hospital), "--out", str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    assert said["predicted"] == 1
    assert [each["patient"] for each in said["refused"]] == [second, third]
    with open(said["predictions"], newline="") as file:
        rows = {row["patient"]: row for row in csv.DictReader(file)}
    kept = json.loads((tmp_path / "out" / "patients" / first / "prediction.json").read_text())
    assert float(rows[first]["risk"]) == kept["risk"]
    assert "no CT" in rows[second]["warnings"]
    assert "do not overlap" in rows[third]["warnings"]
    assert rows[third]["risk"] == ""
    (hospital / "imagesTr" / f"{first}__CT.nii.gz").unlink()
    line = refused(["predict", str(trained.run), "--cohort", str(hospital), "--out", str(tmp_path / "none")], capfd)
    assert f"no patient can be predicted; {first}: left out: there is a PET but no CT" in line


def test_bad_input_is_one_line_and_nothing_is_written(
    trained: Trained, copied: Copy, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, pet, ct = (str(trained.run), *(str(trained.image(trained.patients[0], kind)) for kind in ("PT", "CT")))
    far = sitk.ReadImage(ct)
    far.SetOrigin([3000.0, 0.0, 0.0])
    sitk.WriteImage(far, str(tmp_path / "far.nii.gz"))
    (tmp_path / "torn.nii.gz").write_bytes(b"no image")
    table = tmp_path / "clinical.csv"
    table.write_text("PatientID,Age\nsomeone,50\n")
    torn = copied("torn")
    model = torn / "checkpoints" / "round-0002" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-5])
    out = ["--out", str(tmp_path / "out")]
    cases = {
        "--pet: is missing": [run, "--ct", ct],
        "--ct: is missing": [run, "--pet", pet],
        "PET and CT do not overlap": [run, "--pet", pet, "--ct", str(tmp_path / "far.nii.gz")],
        "there is no such file": [run, "--pet", str(tmp_path / "none.nii.gz"), "--ct", ct],
        "cannot be read as an image": [run, "--pet", pet, "--ct", str(tmp_path / "torn.nii.gz")],
        "trained without clinical values": [run, "--pet", pet, "--ct", ct, "--clinical", "hpv=1"],
        "was trained without clinical": [run, "--pet", pet, "--ct", ct, "--clinical", str(table)],
        "--patient: cannot be given with --cohort": [run, "--cohort", str(trained.hospital), "--patient", "x"],
        "config.yaml is missing": [str(tmp_path), "--pet", pet, "--ct", ct],
        "truncated or altered": [str(torn), "--pet", pet, "--ct", ct],
        "there is no such folder": [run, "--cohort", str(tmp_path / "nowhere")],
    }
    for words, arguments in cases.items():
        assert words in refused(["predict", *arguments, *out], capfd)
        assert not (tmp_path / "out").exists()


def test_clinical_values_come_from_pairs_or_the_patients_row(trained: Trained, tmp_path: Path) -> None:
    from adamss_fl.cohort import hecktor2022, read_clinical
    from adamss_fl.errors import InputError
    from adamss_fl.prediction.tabular import missing_columns, read_pairs

    columns = TabularSettings((ClinicalColumn("age_years"), ClinicalColumn("sex", "categorical")))
    run = load_run(trained.run)
    run = replace(run, task=replace(run.task, tabular=columns))
    assert read_pairs(run, {"age_years": "61", "sex": "M"}, hecktor2022()) == {"age_years": 61.0, "sex": "M"}
    assert missing_columns(run, {"age_years": None, "weight_kg": 70.0}) == ["age_years", "sex"]
    for pairs, words in (({"hpv": "1"}, "no column 'hpv'"), ({"age_years": "old"}, "must be a number")):
        with pytest.raises(InputError, match=words):
            read_pairs(run, pairs, hecktor2022())
    table = tmp_path / "clinical.csv"
    table.write_text("PatientID,Age,sex,Weight\nP-1,61,F,\nP-2,70,M,80\n")
    found = read_clinical(table, hecktor2022(), "P-1")
    assert (found["age_years"], found["sex"], found["weight_kg"], found["hpv"]) == (61.0, "F", None, None)
    with pytest.raises(InputError, match=r"there is no patient 'P-3' \(it has P-1, P-2\)"):
        read_clinical(table, hecktor2022(), "P-3")


def test_what_is_unusual_about_a_scan_is_told(trained: Trained) -> None:
    run = load_run(trained.run)
    scan = scan_of(trained, trained.patients[0])
    assert not {"pet_not_suv", "ct_not_hu", "outside_training"} & {c.code for c in Predictor([run])(scan).cautions}
    becquerel = sitk.ShiftScale(scan.pet, 0.0, 5000.0)
    shifted = sitk.ShiftScale(scan.ct, 1024.0, 1.0)
    cautions = Predictor([run])(replace(scan, pet=becquerel, ct=shifted)).cautions
    assert {"pet_not_suv", "ct_not_hu", "outside_training"} <= {c.code for c in cautions}
    told = " ".join(c.message for c in cautions if c.code == "outside_training")
    assert "mean CT number" in told
    assert "mean SUV" in told
