"""Cohort layouts: how users keep their patients on disk, as one declarative mapping each.

A layout says where the files are, what the columns are called and which values mean "missing"; ``reading`` holds the
one reader that serves them all. A new layout is a new function here, or in a plugin, that returns a ``Layout``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Column:
    """One clinical variable: the column names it goes by, and whether its values are numbers or text."""

    names: tuple[str, ...]
    kind: Literal["number", "text"] = "number"


@dataclass(frozen=True)
class Table:
    """A CSV file with one row per patient.

    files : candidate paths below the cohort's folder; the first one that exists is read.
    id_columns : candidate names of the column that holds the patient identifier.
    missing : values that mean "not known", compared after trimming and without regard to case.
    """

    files: tuple[str, ...]
    id_columns: tuple[str, ...] = ("PatientID",)
    missing: tuple[str, ...] = ("", "na", "n/a", "nan", "unknown")


@dataclass(frozen=True)
class Endpoint:
    """Where time and event are: columns of ``table``, or arrays of the patient's archive where ``table`` is None."""

    table: Table | None
    time: str
    event: str
    unit: Literal["days", "months", "years"] = "days"


@dataclass(frozen=True)
class Arrays:
    """Names of the arrays in a patient's ``.npz`` archive, and the voxel spacing (D, H, W) that it does not hold."""

    pet: str
    ct: str
    primary: str
    nodes: str
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Layout:
    """One way to keep a cohort on disk.

    pet, ct, mask : candidate path patterns below the cohort's folder; ``{id}`` stands for the patient identifier.
        A file belongs to the first pattern that it matches, so the most particular one comes first.
    mask_labels : voxel values of the primary tumour (GTVp) and of the nodes (GTVn) in a label image.
    arrays : set where ``pet``, ``ct`` and ``mask`` are one ``.npz`` archive per patient.
    """

    name: str
    pet: tuple[str, ...]
    ct: tuple[str, ...]
    mask: tuple[str, ...]
    endpoint: Endpoint
    clinical_table: Table | None = None
    clinical: Mapping[str, Column] = field(default_factory=dict)
    mask_labels: tuple[int, int] = (1, 2)
    arrays: Arrays | None = None


HECKTOR_CLINICAL: Mapping[str, Column] = {
    "age_years": Column(("Age",)),
    "sex": Column(("Gender", "Gender (1=M,0=F)"), "text"),
    "weight_kg": Column(("Weight",)),
    "tobacco": Column(("Tobacco", "Tobacco Consumption")),
    "alcohol": Column(("Alcohol", "Alcohol Consumption")),
    "performance_status": Column(("Performance status", "Performance Status")),
    "hpv": Column(("HPV status (0=-, 1=+)", "HPV Status")),
    "surgery": Column(("Surgery",)),
    "chemotherapy": Column(("Chemotherapy",)),
    "centre": Column(("CenterID",), "text"),
}


def hecktor2022() -> Layout:
    """HECKTOR 2022: NIfTI below imagesTr and labelsTr, clinical and endpoint CSV files."""
    return Layout(
        name="hecktor2022",
        pet=("imagesTr/{id}__PT.nii.gz", "imagesTr/{id}_PT.nii.gz"),
        ct=("imagesTr/{id}__CT.nii.gz", "imagesTr/{id}_CT.nii.gz"),
        mask=("labelsTr/{id}__.nii.gz", "labelsTr/{id}_.nii.gz", "labelsTr/{id}.nii.gz"),
        endpoint=Endpoint(
            table=Table(("hecktor2022_endpoint_training.csv", "hecktor2022_patient_endpoint_training.csv")),
            time="RFS",
            event="Relapse",
        ),
        clinical_table=Table(("hecktor2022_clinical_info_training.csv",)),
        clinical=HECKTOR_CLINICAL,
    )


def npz() -> Layout:
    """The reference repository's layout: one .npz archive per patient, with Clinical_info.csv."""
    archive = ("{id}.npz", "data/{id}.npz")
    return Layout(
        name="npz",
        pet=archive,
        ct=archive,
        mask=archive,
        endpoint=Endpoint(table=None, time="Time", event="Event"),
        clinical_table=Table(("Clinical_info.csv",), id_columns=("Patient", "PatientID", "ID")),
        clinical=HECKTOR_CLINICAL,
        arrays=Arrays(pet="PET", ct="CT", primary="Seg_Tumor", nodes="Seg_Node"),
    )
