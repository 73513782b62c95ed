"""Loading a cohort: what a layout finds, what is left out by name, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_hospital import Hospital

from adamss_fl.cohort import Layout, hecktor2022, load_cohort, npz
from adamss_fl.errors import InputError


def refusal(hospital: Any) -> str:
    """The one line of the InputError that loading raises."""
    with pytest.raises(InputError) as caught:
        hospital.load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_patients_are_sorted_and_carry_their_endpoints_and_files(hospital: Hospital) -> None:
    cohort = hospital.load()
    assert [p.id for p in cohort.patients] == ["P-0", "P-1", "P-2", "P-3"]
    assert [(p.time_days, p.event) for p in cohort.patients] == [(100, 0), (200, 1), (300, 0), (400, 1)]
    first = cohort.patient("P-0")
    assert (first.pet.name, first.ct.name) == ("P-0__PT.nii.gz", "P-0__CT.nii.gz")
    assert first.mask is not None
    assert first.mask.name == "P-0.nii.gz"
    assert (first.site, cohort.name, cohort.problems) == ("hospital", "hospital", ())


@pytest.mark.parametrize("suffix", ["", "_", "__"])
def test_both_spellings_of_file_names_are_found(hospital: Hospital, suffix: str) -> None:
    (hospital.root / "imagesTr/P-0__PT.nii.gz").rename(hospital.root / "imagesTr/P-0_PT.nii.gz")
    (hospital.root / "labelsTr/P-0.nii.gz").rename(hospital.root / f"labelsTr/P-0{suffix}.nii.gz")
    patient = hospital.load().patient("P-0")
    assert patient.mask is not None


def test_the_other_name_of_the_endpoint_table_is_found(hospital: Hospital) -> None:
    hospital.load()
    table = hospital.root / "hecktor2022_endpoint_training.csv"
    table.rename(hospital.root / "hecktor2022_patient_endpoint_training.csv")
    assert len(load_cohort(hospital.root, hecktor2022(), name="CHUM")) == 4


def test_clinical_values_are_typed_and_blanks_are_none(hospital: Hospital) -> None:
    hospital.clinical = {
        "P-0": {"Age": "61", "Gender": "M", "HPV status (0=-, 1=+)": "1", "Weight": " "},
        "P-1": {"Age": "n/a", "Gender": "F", "HPV status (0=-, 1=+)": "", "Weight": "70.5"},
    }
    cohort = hospital.load()
    first, second = cohort.patient("P-0").clinical, cohort.patient("P-1").clinical
    assert (first["age_years"], first["sex"], first["hpv"], first["weight_kg"]) == (61.0, "M", 1.0, None)
    assert (second["age_years"], second["hpv"], second["weight_kg"], second["tobacco"]) == (None, None, 70.5, None)


def test_a_clinical_number_that_is_no_number_is_refused_by_name(hospital: Hospital) -> None:
    hospital.clinical = {"P-0": {"Age": "old"}}
    message = refusal(hospital)
    assert all(part in message for part in ("hecktor2022_clinical_info_training.csv", "P-0", "age_years", "'old'"))


@pytest.mark.parametrize("time", ["-5", "-0.1", "soon", "inf", "1e999"])
def test_a_time_that_is_negative_or_no_number_is_refused_by_file_patient_and_value(
    hospital: Hospital, time: str
) -> None:
    hospital.rows["P-2"] = (time, 1)
    message = refusal(hospital)
    assert all(part in message for part in ("hecktor2022_endpoint_training.csv", "P-2", "RFS", repr(time)))


@pytest.mark.parametrize("event", ["2", "-1", "0.5", "yes"])
def test_an_event_that_is_not_0_or_1_is_refused_by_file_patient_and_value(hospital: Hospital, event: str) -> None:
    hospital.rows["P-2"] = (10, event)
    message = refusal(hospital)
    assert all(part in message for part in ("hecktor2022_endpoint_training.csv", "P-2", "Relapse", repr(event)))


@pytest.mark.parametrize("row", [("", 1), (10, ""), ("NA", "NA")])
def test_a_blank_endpoint_leaves_the_patient_without_one(hospital: Hospital, row: tuple[Any, Any]) -> None:
    hospital.rows["P-2"] = row
    patient = hospital.load().patient("P-2")
    assert (patient.time_days, patient.event, patient.has_endpoint) == (None, None, False)


def test_patients_without_pet_ct_or_both_are_left_out_by_name(hospital: Hospital) -> None:
    (hospital.root / "imagesTr/P-0__PT.nii.gz").unlink()
    (hospital.root / "imagesTr/P-1__CT.nii.gz").unlink()
    hospital.rows["P-9"] = (10, 1)
    cohort = hospital.load()
    assert [p.id for p in cohort.patients] == ["P-2", "P-3"]
    assert {(p.patient, p.code) for p in cohort.problems} == {("P-0", "no_pet"), ("P-1", "no_ct"), ("P-9", "no_images")}


def test_a_patient_listed_twice_is_refused(hospital: Hospital) -> None:
    hospital.load()
    with (hospital.root / "hecktor2022_endpoint_training.csv").open("a") as file:
        file.write("P-1,0,50\n")
    with pytest.raises(InputError, match="P-1 has more than one row"):
        load_cohort(hospital.root, hecktor2022())


@pytest.mark.parametrize(
    ("header", "part"), [("Patient,Relapse,RFS", "PatientID"), ("PatientID,Relapse,Time", "'RFS'")]
)
def test_a_table_without_its_columns_is_refused_by_name(hospital: Hospital, header: str, part: str) -> None:
    (hospital.root / "hecktor2022_endpoint_training.csv").write_text(f"{header}\nP-0,1,10\n")
    with pytest.raises(InputError, match=part):
        load_cohort(hospital.root, hecktor2022())


def test_a_missing_folder_table_or_image_set_is_refused(tmp_path: Path, hospital: Hospital) -> None:
    with pytest.raises(InputError, match="no such folder"):
        load_cohort(tmp_path / "nowhere", hecktor2022())
    with pytest.raises(InputError, match=r"hecktor2022_endpoint_training\.csv"):
        load_cohort(hospital.root, hecktor2022())
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/hecktor2022_endpoint_training.csv").write_text("PatientID,Relapse,RFS\n")
    with pytest.raises(InputError, match="no patient with PET"):
        load_cohort(tmp_path / "empty", hecktor2022())


def test_an_unknown_patient_is_refused_by_name(hospital: Hospital) -> None:
    with pytest.raises(InputError, match="'P-99'"):
        hospital.load().subset(["P-1", "P-99"])


def test_layouts_are_found_by_their_registered_name_and_unknown_ones_refused(hospital: Hospital) -> None:
    hospital.load()
    assert load_cohort(hospital.root, "hecktor2022").layout == hecktor2022()
    with pytest.raises(InputError, match="hecktor1999"):
        load_cohort(hospital.root, "hecktor1999")


def archive(path: Path, **changes: Any) -> None:
    rng = np.random.default_rng(0)
    arrays = {name: rng.random((4, 4, 4)) for name in ("PET", "CT", "Seg_Tumor", "Seg_Node")}
    np.savez(path, **{**arrays, "Time": np.array(120.0), "Event": np.array([1]), **changes})


def test_the_npz_layout_reads_endpoint_from_the_archive_and_clinical_from_its_table(tmp_path: Path) -> None:
    archive(tmp_path / "A1.npz")
    archive(tmp_path / "A2.npz", Event=np.array(0), Time=np.array(np.nan))
    (tmp_path / "Clinical_info.csv").write_text("Patient,Age,Event\nA1,50,1\n")
    cohort = load_cohort(tmp_path, npz())
    assert [(p.id, p.time_days, p.event) for p in cohort.patients] == [("A1", 120.0, 1), ("A2", None, None)]
    assert cohort.patient("A1").clinical["age_years"] == 50.0


@pytest.mark.parametrize(
    ("change", "part"),
    [({"Event": np.array(3)}, "'3'"), ({"Time": np.array(-1)}, "'-1'"), ({"Time": np.arange(2)}, "2 values")],
)
def test_a_bad_endpoint_in_an_archive_is_refused(tmp_path: Path, change: dict[str, Any], part: str) -> None:
    archive(tmp_path / "A1.npz", **change)
    with pytest.raises(InputError, match=part):
        load_cohort(tmp_path, npz())


def test_a_pickled_object_in_an_archive_is_never_loaded(tmp_path: Path) -> None:
    archive(tmp_path / "A1.npz", Time=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match=r"A1\.npz"):
        load_cohort(tmp_path, npz())


def test_a_layout_of_ones_own_is_one_record(tmp_path: Path, hospital: Hospital) -> None:
    hospital.load()
    own = hecktor2022()
    months = Layout(**{**vars(own), "endpoint": type(own.endpoint)(own.endpoint.table, "RFS", "Relapse", "months")})
    assert load_cohort(hospital.root, months).patients[0].time_days == pytest.approx(100 * 365.25 / 12)
