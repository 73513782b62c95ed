"""Dividing a cohort into training, validation and test patients."""

import hashlib
from dataclasses import dataclass

from adamss_fl.cohort.records import Cohort, Patient
from adamss_fl.cohort.settings import SplitSettings
from adamss_fl.errors import InputError


@dataclass(frozen=True)
class Split:
    """Three disjoint parts that together are the cohort's patients with an endpoint."""

    train: Cohort
    validation: Cohort
    test: Cohort


def split_cohort(cohort: Cohort, settings: SplitSettings) -> Split:
    """Divide the patients with an endpoint, stratified by event.

    A patient's place depends on the seed, the patient's identifier and who else is in the cohort, never on the order of
    files. Each stratum is rounded by itself, so a part's share of events is that of the cohort to within one patient.

    Raises ``InputError`` where a part that was asked for has no patient with an event.
    """
    strata: dict[int, list[Patient]] = {0: [], 1: []}
    for patient in cohort.patients:
        if patient.time_days is not None and patient.event is not None:
            strata[patient.event].append(patient)
    chosen: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for stratum in strata.values():
        order = sorted(stratum, key=lambda p: (_draw(settings.seed, p.id), p.id))
        test = round(settings.test * len(order))
        validation = round((settings.test + settings.validation) * len(order)) - test
        chosen["test"] += [p.id for p in order[:test]]
        chosen["validation"] += [p.id for p in order[test : test + validation]]
        chosen["train"] += [p.id for p in order[test + validation :]]
    parts = {name: cohort.subset(sorted(ids)) for name, ids in chosen.items()}
    for name, asked in (("train", 1.0), ("validation", settings.validation), ("test", settings.test)):
        if asked > 0 and not any(patient.event for patient in parts[name].patients):
            raise InputError(
                f"{cohort.name}: the {name} part would have {len(parts[name])} patients and none with an event "
                f"({len(strata[1])} events in all); change the split's fractions or add patients"
            )
    return Split(**parts)


def _draw(seed: int, patient_id: str) -> str:
    """A fixed pseudo-random key of this patient under this seed, the same on every machine."""
    return hashlib.sha256(f"{seed}:{patient_id}".encode()).hexdigest()
