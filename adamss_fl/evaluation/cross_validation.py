"""The folds of a cross-validation with their patients, and what their models say about patients."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamss_fl.cohort.folds import Fold, Member, centre_folds, members_of, stratified_folds
from adamss_fl.errors import InputError
from adamss_fl.evaluation.compare import hash_of_names, hash_of_patients
from adamss_fl.evaluation.ensemble import EnsembleMember
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.federation.finished_run import final_weights
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample

CENTRE = "centre"
"""The scheme of one fold a centre; the other schemes are numbers of folds."""

SUMMARY = "cross_validation.json"
"""The file of all figures in a cross-validated run's folder."""


@dataclass(frozen=True)
class FoldData:
    """A fold with its patients: those its model learns from, and those held out (``test`` of ``data``)."""

    number: int
    label: str
    data: SiteData

    @property
    def plain(self) -> dict[str, Any]:
        """Number, label, counts, and the hashes of the two parts (see ``compare.hash_of_patients``)."""
        held_out, train = self.data.test, self.data.train
        return {
            "fold": self.number,
            "label": self.label,
            "trained_on": len(train),
            "patients": len(held_out),
            "events": sum(sample.event for sample in held_out),
            "held_out_sha256": hash_of_patients(held_out),
            "trained_on_sha256": hash_of_patients(train),
        }


def fold_folder(run: Path, number: int) -> Path:
    """Where fold ``number`` (from 1) of a cross-validated run lies, itself a finished run."""
    return run / "folds" / f"fold-{number}"


def folds_file(run: Path) -> Path:
    """What decides a cross-validation, written before its first fold is trained."""
    return run / "folds" / "folds.json"


def is_cross_validated(run: Path) -> bool:
    """Whether a folder is that of a cross-validated run, finished or not."""
    return folds_file(run).exists()


def read_identity(run: Path) -> Mapping[str, Any]:
    """What decided a cross-validated run. Raises InputError where its file is missing or broken."""
    path = folds_file(run)
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: is no readable JSON ({type(error).__name__}); give another folder") from error
    if not isinstance(kept, Mapping) or not isinstance(kept.get("folds"), list):
        raise InputError(f"{path}: names no folds; give another folder")
    return kept


def make_folds(data: SiteData, scheme: int | str, seed: int) -> tuple[FoldData, ...]:
    """Divide the training and validation patients of ``data``; its test patients are in no fold.

    scheme : a number of folds, stratified by event and centre, or ``centre`` for one fold a centre.
    Raises InputError where the patients do not allow the scheme, or an identifier belongs to several patients.
    """
    inside = sorted((*data.train, *data.validation), key=lambda sample: (sample.site, sample.patient_id))
    known = {sample.patient_id for sample in inside}
    leaked = sorted(sample.patient_id for sample in data.test if sample.patient_id in known)
    if leaked:
        raise InputError(
            f"{len(leaked)} test patients are also among those to divide into folds, the first {leaked[0]!r}; "
            "give the sites' patients distinct identifiers"
        )
    members = members_of([(s.patient_id, s.site, s.event, s.clinical) for s in inside])
    folds = _folds(members, scheme, seed)
    return tuple(
        FoldData(number, fold.label, _without(inside, set(fold.ids))) for number, fold in enumerate(folds, start=1)
    )


def _folds(members: Sequence[Member], scheme: int | str, seed: int) -> tuple[Fold, ...]:
    if scheme == CENTRE:
        return centre_folds(members)
    if not isinstance(scheme, int):
        raise InputError(f"folds: {scheme!r} is no scheme; give a number of folds, or {CENTRE!r}")
    return stratified_folds(members, scheme, seed)


def _without(samples: Sequence[Sample], held_out: set[str]) -> SiteData:
    return SiteData(
        train=tuple(sample for sample in samples if sample.patient_id not in held_out),
        test=tuple(sample for sample in samples if sample.patient_id in held_out),
    )


def describe_scheme(scheme: int | str, folds: int) -> str:
    """A scheme in words."""
    if scheme == CENTRE:
        return f"leave one centre out ({folds} centres)"
    return f"{folds} folds, stratified by event and centre"


def held_out_predictions(run: Path, folds: Sequence[Mapping[str, Any]]) -> list[Predictions]:
    """Each fold's predictions of its own held-out patients; folds : the ``plain`` of each.

    Raises InputError where a file is missing or broken, or holds other patients than the
    fold's recorded ones.
    """
    found = []
    for fold in folds:
        path = fold_folder(run, fold["fold"]) / "predictions.npz"
        read = Predictions.load(path)
        if hash_of_predicted(read) != fold["held_out_sha256"]:
            raise InputError(f"{path}: holds other patients than fold {fold['fold']}'s; train that fold again")
        found.append(read)
    return found


def members_of_run(task: Task, run: Path) -> list[EnsembleMember]:
    """The model of every fold of a cross-validated run. Raises InputError where one is not finished."""
    folders = [fold_folder(run, number) for number in range(1, len(read_identity(run)["folds"]) + 1)]
    return [EnsembleMember(task, *final_weights(folder), folder / "features") for folder in folders]


def hash_of_predicted(found: Predictions) -> str:
    """SHA-256 over the patients of predictions, as ``compare.hash_of_patients``."""
    return hash_of_names(zip(found.site.tolist(), found.patient.tolist(), strict=True))
