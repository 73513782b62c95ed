"""``adamss-fl phantom``: synthetic hospitals, and the C-index that the true hazard reaches on their test patients."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from adamss_fl.cli.shell import JsonOption, emit, following
from adamss_fl.cohort.settings import SplitSettings
from adamss_fl.errors import InputError


def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to make, with one folder a hospital.")],
    sites: Annotated[int, typer.Option(help="Number of hospitals.")] = 3,
    patients: Annotated[int, typer.Option(help="Patients per hospital, on average.")] = 60,
    size: Annotated[int, typer.Option(help="Voxels a side of the CT at the reference spacing.")] = 48,
    seed: Annotated[int, typer.Option(help="The same seed makes the same bytes.")] = 0,
    test: Annotated[float, typer.Option(help="Share of test patients behind the printed oracle C-index.")] = 0.2,
    json: JsonOption = False,
) -> None:
    """Make synthetic PET/CT hospitals with a known survival hazard, in the HECKTOR 2022 layout, one folder a hospital.

    Example: adamss-fl phantom demo/phantom --sites 3 --patients 60 --size 48
    """
    from adamss_fl.cohort import make_phantom

    if not 0 < test < 1:
        raise InputError(f"--test: must be between 0 and 1, not {test}")
    with following("phantom patients", one_task=True) as report:
        summary = make_phantom(out, sites=sites, patients=patients, size=size, seed=seed, progress=report)
    result = {"sites": summary.sites, "patients": summary.patients, "events": summary.events}
    emit(result | {"oracle_c_index": oracle_c_index(out, summary.folders, SplitSettings(test=test))}, json)


def oracle_c_index(out: Path, folders: Sequence[Path], split: SplitSettings) -> float | None:
    """Harrell's C of the true log hazard over the test patients of all hospitals; None where no pair is comparable."""
    import numpy as np

    from adamss_fl.cohort import load_cohort, read_truth, split_cohort
    from adamss_fl.survival import NoComparablePairs, concordance

    tests = [split_cohort(load_cohort(folder), split).test for folder in folders]
    patients = [patient for test in tests for patient in test.patients]
    log_hazard = read_truth(out)
    try:
        return concordance(
            np.array([patient.time_days for patient in patients], dtype=float),
            np.array([patient.event for patient in patients], dtype=float),
            np.array([log_hazard[patient.id] for patient in patients]),
        ).c_index
    except NoComparablePairs:
        return None
