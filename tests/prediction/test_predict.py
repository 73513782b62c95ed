"""``adamss-fl predict`` on phantom patients: what it writes, and what it says of bad input in one line."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from trained_phantom import Trained

from adamss_fl.cli.main import main
from adamss_fl.cohort import load_cohort, split_cohort
from adamss_fl.evaluation.predictions import predict
from adamss_fl.imaging import prepare_arrays, prepare_cohort
from adamss_fl.imaging.settings import ImagingSettings
from adamss_fl.imaging.volumes import field_of_view, interleaved_grids, read_volume, target_grid
from adamss_fl.prediction import Predictor, Scan, average_curve, load_folds, load_run
from adamss_fl.radiomics import ClinicalColumn, TabularSettings
from adamss_fl.training import infer

Copy = Callable[..., Path]


def command(trained: Trained, out: Path, *more: str, patient: str | None = None) -> list[str]:
    patient = patient or trained.patients[0]
    images = ["--pet", str(trained.image(patient, "PT")), "--ct", str(trained.image(patient, "CT"))]
    return ["predict", str(trained.run), *images, "--out", str(out), *more]


def scan_of(trained: Trained, patient: str) -> Scan:
    return Scan(patient, *(read_volume(trained.image(patient, kind), patient, kind) for kind in ("PT", "CT")))


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


def test_the_labels_on_a_native_grid_that_is_the_models_own_are_its_predicted_masks(
    trained: Trained, tmp_path: Path
) -> None:
    """PET and CT resampled to the model's grid beforehand: nothing is left to interpolate."""
    run, patient = load_run(trained.run), trained.patients[1]
    record = load_cohort(trained.hospital).patient(patient)
    image, _ = prepare_arrays(record, load_cohort(trained.hospital).layout, run.task.imaging)

    def volume(array: np.ndarray) -> Any:
        made = sitk.GetImageFromArray(array)
        made.SetSpacing(run.task.imaging.spacing_mm[::-1])
        return made

    low, high = run.task.imaging.ct_hu_window
    scan = Scan(patient, volume(image[0] * run.task.imaging.pet_suv_max), volume(low + (high - low) * image[1]))
    found = Predictor([run], fine_masks=False)(scan)
    sample = replace(prepare_cohort(load_cohort(trained.hospital).subset([patient]), run.task.imaging, tmp_path)[0])
    masks = infer(run.model("segmentation"), [sample], run.task.runtime, keep_masks=True).masks
    assert masks is not None
    labels = sitk.GetArrayFromImage(found.pet_mask)
    union = masks[0].any(axis=0)
    assert 0 < union.sum() < union.size
    assert (labels > 0).mean() == pytest.approx(union.mean(), abs=2e-3)
    assert ((labels > 0) == union).mean() > 0.998  # a probability of 0.5 may fall on either side


def test_eight_interleaved_grids_are_every_voxel_of_the_fine_one_once() -> None:
    settings = ImagingSettings(grid=(16, 32, 48), spacing_mm=(5.0, 3.0, 2.0))
    fine, parts = interleaved_grids(settings, (10.0, -20.0, 30.0))
    counted = np.zeros(fine.GetSize()[::-1], dtype=int)
    for voxels, grid in parts:
        counted[voxels] += 1
        for index in ((0, 0, 0), (15, 7, 3)):  # x, y, z on the coarse grid
            there = [2 * place + own.start for place, own in zip(index, voxels[::-1], strict=True)]
            np.testing.assert_allclose(
                grid.TransformIndexToPhysicalPoint(index), fine.TransformIndexToPhysicalPoint(there), atol=1e-9
            )
    assert (counted == 1).all()
    coarse = target_grid(settings, (10.0, -20.0, 30.0))
    for one, other in (
        (field_of_view(fine).low, field_of_view(coarse).low),
        (fine.GetDirection(), coarse.GetDirection()),
    ):
        np.testing.assert_allclose(one, other)


def test_fine_masks_leave_the_curve_and_come_nearer_to_a_border_that_the_coarse_grid_cannot_show(
    trained: Trained,
) -> None:
    """A ball that is segmented without fault: what is left is what the grid loses."""
    run = load_run(trained.run)

    class Painter(Predictor):
        """A voxel is tumour where PET at its centre is high: PET is smooth and rises towards the ball's centre."""

        def _segment(self, model: Any, image: np.ndarray, scan: Any, report: Any) -> np.ndarray:
            hot = np.where(image[0] > 0.4, 0.99, 0.01).astype(np.float32)
            return np.stack([hot, np.full_like(hot, 0.01)])

    side, step = 64, run.task.imaging.spacing_mm[0] / 4
    axes = step * (np.arange(side) - side / 2)
    z, y, x = np.meshgrid(axes, axes, axes, indexing="ij")
    distance = np.sqrt((z - 0.7 * step) ** 2 + (y + 1.3 * step) ** 2 + (1.5 * x) ** 2) / step
    volume = np.clip(1 - distance / 32, 0, 1).astype(np.float32)

    def image(array: np.ndarray) -> Any:
        made = sitk.GetImageFromArray(array)
        made.SetSpacing([step] * 3)
        return made

    scan = Scan("ball", image(run.task.imaging.pet_suv_max * volume), image(100 * volume))
    truth = volume > 0.4

    def dice(found: Any) -> float:
        labels = sitk.GetArrayFromImage(found.ct_mask) > 0
        return 2 * (labels & truth).sum() / (labels.sum() + truth.sum())

    fine, coarse = Painter([run])(scan), Painter([run], fine_masks=False)(scan)
    assert fine.curve == coarse.curve
    assert dice(fine) > dice(coarse)
    assert dice(fine) > 0.96


@pytest.mark.parametrize("given", [False, True])
def test_a_run_centred_on_the_tumour_puts_its_box_there(given: bool, trained: Trained) -> None:
    """The box follows the mask given, or what the first pass finds; the survival it reads is that of this very box."""
    run = load_run(trained.run)
    imaging = replace(run.task.imaging, centre="tumour", grid=(16, 16, 16), spacing_mm=(4.0, 4.0, 4.0))
    run = replace(run, task=replace(run.task, imaging=imaging))
    patient = trained.patients[0]
    scan = scan_of(trained, patient)
    if given:
        mark = sitk.Image(scan.ct.GetSize(), sitk.sitkFloat32)
        mark.CopyInformation(scan.ct)
        mark[3, 4, 5] = 1
        scan = replace(scan, mask=mark)
    seen: list[Any] = []
    predictor = Predictor([run])
    curve = predictor._curve
    predictor._curve = lambda run, model, image, *rest: (seen.append(image), curve(run, model, image, *rest))[1]  # type: ignore[assignment, func-returns-value]
    predictor(scan)
    from adamss_fl.imaging.native import centre_of_findings
    from adamss_fl.imaging.samples import image_on
    from adamss_fl.imaging.volumes import covering_grid, field_of_view, overlap, target_grid
    from adamss_fl.training import sliding_window

    if given:
        centre: Any = scan.ct.TransformIndexToPhysicalPoint((3, 4, 5))
    else:
        place = covering_grid(imaging, overlap(field_of_view(scan.pet), field_of_view(scan.ct), patient))
        wide = sliding_window(
            run.model("segmentation"), image_on(place, scan.pet, scan.ct, imaging), (16,) * 3, run.task.runtime
        )
        centre = centre_of_findings(wide, place)
        assert centre is not None
    np.testing.assert_array_equal(seen[0], image_on(target_grid(imaging, centre), scan.pet, scan.ct, imaging))


def test_where_images_reach_beyond_the_box_masks_do_too_and_a_tumour_out_there_is_told(trained: Trained) -> None:
    run = load_run(trained.run)
    small = replace(run.task.imaging, spacing_mm=(2.0, 2.0, 2.0))
    run = replace(run, task=replace(run.task, imaging=small))

    class Painter(Predictor):
        """Finds the tumour wherever PET is above a fifth of the scale."""

        def _segment(self, model: Any, image: np.ndarray, scan: Any, report: Any) -> np.ndarray:
            hot = np.where(image[0] > 0.2, 0.99, 0.01).astype(np.float32)
            return np.stack([hot, np.full_like(hot, 0.01)])

    scan = scan_of(trained, trained.patients[0])
    pet = sitk.GetArrayFromImage(scan.pet) * 0 + 0.5
    pet[2:6, 2:6, 2:6] = 10.0
    image = sitk.GetImageFromArray(pet)
    image.CopyInformation(scan.pet)
    found = Painter([run])(replace(scan, pet=image))
    codes = {caution.code for caution in found.cautions}
    assert {"tumour_outside_box", "no_tumour"} <= codes
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found.pet_mask) > 0, pet > 5)


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
