"""All patients of a folder, one after the other; who cannot be predicted is named and passed over."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adamss_fl.cohort import Cohort, load_cohort
from adamss_fl.errors import InputError
from adamss_fl.imaging import read_patient
from adamss_fl.prediction.outputs import describe_model, make_folder, write_prediction, write_table
from adamss_fl.prediction.patient import Predictor, Report, Scan
from adamss_fl.prediction.trained_run import TrainedRun


def predict_cohort(
    run: Path,
    members: Sequence[TrainedRun],
    cohort: Path,
    layout: str,
    out: Path,
    report: Report | None = None,
    fine_masks: bool = True,
) -> dict[str, Any]:
    """Predict every patient with PET and CT of a cohort; endpoints and masks in it are not read.

    Writes ``predictions.csv`` and one folder a patient below ``out/patients``. Returns ``predicted``, ``refused``
    [{patient, reason}] and the path of the table. Raises InputError where nobody can be predicted.
    """
    loaded = load_cohort(cohort, layout, endpoints=False)
    make_folder(out / "patients")
    predictor, model = Predictor(members, fine_masks), describe_model(run, members)
    refused = {problem.patient: problem.message for problem in loaded.problems}
    rows = []
    for done, (patient, folder) in enumerate(_folders(loaded), 1):
        try:
            said = write_prediction(predictor(_scan(loaded, patient)), model, out / "patients" / folder)
        except InputError as error:
            refused[patient] = str(error)
        else:
            codes = " ".join(dict.fromkeys(warning["code"] for warning in said["warnings"]))
            rows.append(
                {
                    "patient": patient,
                    "risk": repr(said["risk"]),
                    "survival_days": repr(said["survival_days"]),
                    "warnings": codes,
                }
            )
        if report is not None:
            report(patient, done, len(loaded))
    if not rows:
        patient, reason = min(refused.items())
        raise InputError(f"{cohort}: no patient can be predicted; {patient}: {reason}")
    rows += [{"patient": patient, "warnings": f"refused: {reason}"} for patient, reason in refused.items()]
    write_table(sorted(rows, key=lambda row: row["patient"]), out / "predictions.csv")
    return {
        "predicted": len(rows) - len(refused),
        "refused": [{"patient": patient, "reason": reason} for patient, reason in sorted(refused.items())],
        "predictions": out / "predictions.csv",
    }


def _scan(cohort: Cohort, patient_id: str) -> Scan:
    patient = replace(cohort.patient(patient_id), mask=None)
    volumes = read_patient(patient, cohort.layout)
    return Scan(patient.id, volumes.pet, volumes.ct, clinical=patient.clinical)


def _folders(cohort: Cohort) -> Iterator[tuple[str, str]]:
    """Each patient's identifier and a folder name of its own, of plain characters."""
    taken: set[str] = set()
    for patient in cohort.patients:
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", patient.id).lstrip(".") or "_"
        name, number = plain, 1
        while name in taken:
            number += 1
            name = f"{plain}-{number}"
        taken.add(name)
        yield patient.id, name
