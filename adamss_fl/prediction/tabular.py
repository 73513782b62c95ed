"""The tabular vector of a new patient, made as the run made it in training."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from adamss_fl.cohort import Layout, parse_clinical
from adamss_fl.errors import InputError
from adamss_fl.plugins import suggest
from adamss_fl.prediction.trained_run import TrainedRun
from adamss_fl.radiomics.features import RadiomicsExtraction

Clinical = Mapping[str, str | float | None]


def columns_of(run: TrainedRun) -> tuple[str, ...]:
    """Canonical names of the clinical columns that the run's model uses."""
    return tuple(column.name for column in run.task.tabular.clinical)


def missing_columns(run: TrainedRun, clinical: Clinical) -> list[str]:
    """The model's columns of which the patient's value is not known."""
    return [name for name in columns_of(run) if clinical.get(name) is None]


def refuse_clinical_for_images(run: TrainedRun) -> None:
    """Raise InputError where the run's model uses no clinical values, so that none given is silently left out."""
    if not columns_of(run):
        raise InputError(f"--clinical: {run.folder} was trained without clinical values; leave --clinical out")


def read_pairs(run: TrainedRun, pairs: Mapping[str, str], layout: Layout) -> dict[str, str | float | None]:
    """Clinical values from ``name=value`` texts. Raises InputError for a name that the model does not use."""
    refuse_clinical_for_images(run)
    known = columns_of(run)
    values: dict[str, str | float | None] = {}
    for name, text in pairs.items():
        if name not in known:
            raise InputError(f"--clinical: the model has no column {name!r}; {suggest(name, known, 'columns')}")
        try:
            values[name] = parse_clinical(text, name, layout)
        except InputError as error:
            raise InputError(f"--clinical: {error}") from error
    return values


def tabular_vector(
    run: TrainedRun, patient: str, clinical: Clinical, image: NDArray[np.float32], masks: NDArray[np.bool_]
) -> NDArray[np.float32] | None:
    """The vector (r,) of one patient, or None where the model sees images alone.

    image : (2, D, H, W) on the run's box; masks : bool (2, D, H, W), predicted on it by the run itself, which radiomics
    features are computed in where the run uses them.
    """
    if run.encoding is None:
        return None
    settings, features = run.task.tabular.radiomics, None
    if settings is not None:
        features = RadiomicsExtraction(settings, run.task.imaging).of(patient, image, masks).mapping()
    known = {name: clinical.get(name) for name in columns_of(run)}
    return run.encoding.encode(known, features)
