"""The quality report: which patients of a cohort can be used, and what is wrong with the others."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adamss_fl.cohort.records import Cohort, Patient, Problem
from adamss_fl.errors import InputError

if TYPE_CHECKING:
    from adamss_fl.imaging.settings import ImagingSettings

# These are worth saying, but leave the patient usable: stage I skips the masks, stage II needs none.
REMARKS = frozenset({"no_mask", "empty_mask", "no_primary", "primary_cut", "no_centre"})
KEPT_SHARE = 0.95


@dataclass(frozen=True)
class QualityReport:
    """Patients seen (on disk or in a table), patients usable for training (images and endpoint), and every problem."""

    patients: int
    usable: int
    problems: tuple[Problem, ...]


def check_cohort(
    cohort: Cohort,
    settings: "ImagingSettings | None" = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> QualityReport:
    """Read every patient's volumes and report what is wrong, patient by patient; bad patients raise nothing.

    settings : with them, primary tumours of which the grid would keep less than 95 % are named too, and patients
        without the mask that the grid is to be centred on.
    progress : (patient, done, total).

    Codes: ``no_pet``, ``no_ct``, ``no_images``, ``no_endpoint``, ``unreadable``, ``no_overlap`` leave a patient out;
    ``no_mask``, ``empty_mask``, ``no_primary``, ``primary_cut``, ``no_centre`` are remarks.
    """
    problems = list(cohort.problems)
    for done, patient in enumerate(cohort.patients, start=1):
        problems += _check_patient(patient, cohort, settings)
        if progress is not None:
            progress(patient.id, done, len(cohort))
    unusable = {problem.patient for problem in problems if problem.code not in REMARKS}
    return QualityReport(
        patients=len({p.id for p in cohort.patients} | {problem.patient for problem in cohort.problems}),
        usable=sum(patient.id not in unusable for patient in cohort.patients),
        problems=tuple(sorted(problems, key=lambda problem: (problem.patient, problem.code))),
    )


def _check_patient(patient: Patient, cohort: Cohort, settings: "ImagingSettings | None") -> list[Problem]:
    from adamss_fl.imaging.samples import grid_centre, read_patient, tumour_box
    from adamss_fl.imaging.volumes import field_of_view, overlap, resample, simpleitk, target_grid

    problems = []
    if not patient.has_endpoint:
        problems.append(Problem(patient.id, "no_endpoint", "left out of training: time or event is not known"))
    try:
        volumes = read_patient(patient, cohort.layout)
    except InputError as error:
        return [*problems, Problem(patient.id, "unreadable", str(error))]
    try:
        overlap(field_of_view(volumes.pet), field_of_view(volumes.ct), patient.id)
    except InputError as error:
        return [*problems, Problem(patient.id, "no_overlap", str(error))]
    if settings is not None and settings.centre == "tumour" and tumour_box(volumes) is None:
        text = "no mask to centre the grid on: it is centred on what PET and CT have in common"
        problems.append(Problem(patient.id, "no_centre", text))
    if volumes.primary is None or volumes.nodes is None:
        return [*problems, Problem(patient.id, "no_mask", "no label file: not used where the segmentation is trained")]
    sitk = simpleitk()
    primary, nodes = (int(sitk.GetArrayViewFromImage(mask).sum()) for mask in (volumes.primary, volumes.nodes))
    if not primary and not nodes:
        problems.append(Problem(patient.id, "empty_mask", "the label file marks neither primary tumour nor nodes"))
    elif not primary:
        problems.append(Problem(patient.id, "no_primary", "the label file marks nodes but no primary tumour"))
    elif settings is not None:
        grid = target_grid(settings, grid_centre(volumes, settings, patient.id))
        kept = resample(volumes.primary, grid, 0, nearest=True).sum()
        share = float(kept) * _voxel_mm3(settings.spacing_mm) / (primary * _voxel_mm3(volumes.primary.GetSpacing()))
        if share < KEPT_SHARE:
            text = f"the grid keeps {share:.0%} of the primary tumour; choose a larger grid or finer spacing"
            problems.append(Problem(patient.id, "primary_cut", text))
    return problems


def _voxel_mm3(spacing_mm: tuple[float, ...]) -> float:
    volume = 1.0
    for step in spacing_mm:
        volume *= step
    return volume
