"""Records of the cohort room: a patient on disk, and the patients of one hospital."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from adamss_fl.cohort.layouts import Layout
from adamss_fl.errors import InputError


@dataclass(frozen=True)
class Problem:
    """Something that the quality report says about one patient: a short ``code`` and a sentence."""

    patient: str
    code: str
    message: str


@dataclass(frozen=True)
class Patient:
    """One patient's files and facts; nothing is read from the image files yet.

    id, site : identifier within the cohort, and the cohort's name.
    pet, ct : image files (the same file where a layout keeps both in one archive).
    mask : label file of the primary tumour and the nodes, or None.
    time_days, event : days to the event or the end of follow-up, and 1 or 0; both None where unknown.
    clinical : canonical name (``age_years``, ``hpv``, ...) -> value; None where it is missing.
    """

    id: str
    site: str
    pet: Path
    ct: Path
    mask: Path | None = None
    time_days: float | None = None
    event: int | None = None
    clinical: Mapping[str, str | float | None] = field(default_factory=dict)

    @property
    def has_endpoint(self) -> bool:
        """Whether time and event are both known."""
        return self.time_days is not None and self.event is not None


@dataclass(frozen=True)
class Cohort:
    """One hospital's patients, sorted by identifier; ``problems`` names what loading had to leave out."""

    name: str
    root: Path
    layout: Layout
    patients: tuple[Patient, ...]
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        """Number of patients."""
        return len(self.patients)

    def patient(self, patient_id: str) -> Patient:
        """The patient with this identifier; an unknown one is an ``InputError``."""
        for patient in self.patients:
            if patient.id == patient_id:
                return patient
        raise InputError(
            f"{self.root}: there is no patient {patient_id!r} with PET and CT in this cohort; "
            "`adamss-fl check` lists its patients and what was left out"
        )

    def subset(self, ids: Iterable[str]) -> "Cohort":
        """The same cohort with only these patients, in the order given; an unknown one is an ``InputError``."""
        return replace(self, patients=tuple(self.patient(patient_id) for patient_id in ids), problems=())
