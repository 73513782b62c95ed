"""The quality report names every patient that cannot be used, with the reason, and raises nothing."""

from dataclasses import replace

import numpy as np
import pytest
from small_hospital import Hospital

from adamss_fl.cohort import check_cohort
from adamss_fl.imaging import ImagingSettings

SOUND = np.random.default_rng(0).random((6, 6, 6), dtype=np.float32)


def codes(hospital: Hospital, settings: ImagingSettings | None = None) -> set[tuple[str, str]]:
    return {(p.patient, p.code) for p in check_cohort(hospital.load(), settings).problems}


def test_a_sound_cohort_has_no_problems(hospital: Hospital) -> None:
    report = check_cohort(hospital.load(), ImagingSettings(grid=(16, 16, 16)))
    assert (report.patients, report.usable, report.problems) == (4, 4, ())


def with_nan() -> np.ndarray:
    voxels = SOUND.copy()
    voxels[1, 2, 3] = np.nan
    return voxels


@pytest.mark.parametrize(
    ("file", "voxels", "word"),
    [
        ("imagesTr/P-1__PT.nii.gz", np.full((6, 6, 6), 3.0), "PET is constant"),
        ("imagesTr/P-1__CT.nii.gz", np.zeros((6, 6, 6)), "CT is constant"),
        ("imagesTr/P-1__CT.nii.gz", with_nan(), "P-1__CT.nii.gz: has voxels that are NaN"),
        ("imagesTr/P-1__PT.nii.gz", np.where(SOUND > 0.9, np.inf, SOUND), "P-1__PT.nii.gz: has voxels that are NaN"),
    ],
)
def test_unusable_volumes_are_left_out_by_name(hospital: Hospital, file: str, voxels: np.ndarray, word: str) -> None:
    hospital.volume(file, voxels)
    report = check_cohort(hospital.load())
    assert report.usable == 3
    (problem,) = report.problems
    assert (problem.patient, problem.code) == ("P-1", "unreadable")
    assert word in problem.message


def test_a_file_that_is_no_image_is_left_out_by_name(hospital: Hospital) -> None:
    (hospital.root / "imagesTr/P-2__CT.nii.gz").write_bytes(b"not an image")
    assert codes(hospital) == {("P-2", "unreadable")}


def test_pet_and_ct_that_do_not_overlap_are_left_out_by_name(hospital: Hospital) -> None:
    hospital.volume("imagesTr/P-3__PT.nii.gz", SOUND, origin=(500, 0, 0))
    assert codes(hospital) == {("P-3", "no_overlap")}


def test_missing_files_and_endpoints_are_counted_and_named(hospital: Hospital) -> None:
    hospital.rows["P-0"] = ("", "")
    hospital.rows["P-7"] = (3, 1)
    (hospital.root / "imagesTr/P-1__CT.nii.gz").unlink()
    report = check_cohort(hospital.load())
    assert (report.patients, report.usable) == (5, 2)
    assert [(p.patient, p.code) for p in report.problems] == [
        ("P-0", "no_endpoint"),
        ("P-1", "no_ct"),
        ("P-7", "no_images"),
    ]


def test_masks_that_are_absent_or_empty_are_remarks_and_leave_the_patient_usable(hospital: Hospital) -> None:
    (hospital.root / "labelsTr/P-0.nii.gz").unlink()
    hospital.volume("labelsTr/P-1.nii.gz", np.zeros((6, 6, 6), np.uint8))
    hospital.volume("labelsTr/P-2.nii.gz", np.where(SOUND > 0.9, 2, 0).astype(np.uint8))
    report = check_cohort(hospital.load())
    assert report.usable == 4
    assert [p.code for p in report.problems] == ["no_mask", "empty_mask", "no_primary"]


def test_patients_without_a_mask_to_centre_on_are_remarked_where_it_matters(hospital: Hospital) -> None:
    (hospital.root / "labelsTr/P-0.nii.gz").unlink()
    hospital.volume("labelsTr/P-1.nii.gz", np.zeros((6, 6, 6), np.uint8))
    grid = ImagingSettings(grid=(16, 16, 16))
    centred = {("P-0", "no_centre"), ("P-1", "no_centre")}
    others = {("P-0", "no_mask"), ("P-1", "empty_mask")}
    assert codes(hospital, grid) == others
    assert codes(hospital, replace(grid, centre="tumour")) == others | centred
    assert check_cohort(hospital.load(), replace(grid, centre="tumour")).usable == 4


def test_a_grid_centred_on_the_tumour_keeps_a_tumour_that_the_overlap_would_cut(hospital: Hospital) -> None:
    label = np.zeros((40, 6, 6), np.uint8)
    label[36:, 2:4, 2:4] = 1
    tall = np.random.default_rng(1).random((40, 6, 6), dtype=np.float32)
    for name, voxels in (("imagesTr/P-0__PT", tall), ("imagesTr/P-0__CT", tall), ("labelsTr/P-0", label)):
        hospital.volume(f"{name}.nii.gz", voxels)
    assert codes(hospital, ImagingSettings(grid=(32, 16, 16), centre="tumour")) == set()


def test_a_primary_tumour_outside_the_grid_is_remarked(hospital: Hospital) -> None:
    label = np.zeros((40, 6, 6), np.uint8)
    label[36:, 2:4, 2:4] = 1
    tall = np.random.default_rng(1).random((40, 6, 6), dtype=np.float32)
    for name, voxels in (("imagesTr/P-0__PT", tall), ("imagesTr/P-0__CT", tall), ("labelsTr/P-0", label)):
        hospital.volume(f"{name}.nii.gz", voxels)
    assert codes(hospital, ImagingSettings(grid=(32, 16, 16))) == {("P-0", "primary_cut")}
    assert codes(hospital, ImagingSettings(grid=(96, 16, 16))) == set()
