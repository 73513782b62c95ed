"""Phantom hospitals: synthetic PET/CT cohorts whose hazard is known, to hold a C-index against."""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adamss_fl.cohort.phantom_anatomy import make_anatomy
from adamss_fl.cohort.phantom_hazard import Hazard, censor, draw_traits
from adamss_fl.cohort.phantom_scanner import SiteProfile, acquire_ct, acquire_pet, ct_grid, pet_grid, site_profile
from adamss_fl.cohort.phantom_writing import (
    TRUTH,
    PhantomPatient,
    draw_clinical,
    read_made_with,
    write_tables,
    write_truth,
    write_volume,
)
from adamss_fl.errors import InputError

Progress = Callable[[str, int, int], None]

FEWEST_PATIENTS, SMALLEST_SIZE = 4, 16
CENSORED = (0.4, 0.6)
# Streams of random numbers: one per use, so that a change to the images never moves a survival time.
TRAITS, SCANNER, IMAGES = 0, 1, 2


@dataclass(frozen=True)
class PhantomSummary:
    """What ``make_phantom`` wrote: sites, patients, events, share of censored patients, the hospitals' folders."""

    sites: int
    patients: int
    events: int
    censored_fraction: float
    folders: tuple[Path, ...]


def make_phantom(
    out: Path,
    sites: int = 3,
    patients: int = 60,
    size: int = 48,
    seed: int = 0,
    progress: Progress | None = None,
    hazard: Hazard | None = None,
    workers: int | None = None,
) -> PhantomSummary:
    """Write ``sites`` hospitals of ``patients`` each on average below ``out``, in HECKTOR 2022's layout.

    ``out/hospital-1`` ... hold the cohorts, ``out/truth`` what only the maker knows (``read_truth``). The same
    arguments give the same bytes, whatever ``workers`` is; ``out`` appears only when it is complete.

    size : voxels a side of the CT at the reference spacing (the field of view is 128 mm whatever the size).
    progress : called with (patient, done, total) after each patient.
    hazard : another log hazard than the written-down one. workers : threads (default: the machine's cores, at most 8).

    Raises ``InputError`` for numbers too small to make a cohort, and where ``out`` already holds something.
    """
    out = Path(out)
    _check(out, sites, patients, size)
    hazard = hazard or Hazard()
    profiles, cohorts = _draw_sites(sites, patients, seed, hazard)
    everyone = [patient for cohort in cohorts for patient in cohort]

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for cohort in cohorts:
            folder = partial / cohort[0].site
            (folder / "imagesTr").mkdir(parents=True)
            (folder / "labelsTr").mkdir()
            write_tables(folder, cohort)
        made_with = {"sites": sites, "patients": patients, "size": size, "seed": seed}
        write_truth(partial / TRUTH, everyone, hazard, made_with)
        jobs = [(p, i, k, profiles[i]) for i, cohort in enumerate(cohorts) for k, p in enumerate(cohort)]
        with ThreadPoolExecutor(workers or min(os.cpu_count() or 1, 8)) as pool:
            drawn = pool.map(lambda job: _write_patient(partial, *job, size=size, seed=seed), jobs)
            for done, patient_id in enumerate(drawn, start=1):
                if progress is not None:
                    progress(patient_id, done, len(jobs))
        partial.chmod(0o755)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    events = sum(patient.event for patient in everyone)
    return PhantomSummary(
        sites=sites,
        patients=len(everyone),
        events=events,
        censored_fraction=1 - events / len(everyone),
        folders=tuple(out / cohort[0].site for cohort in cohorts),
    )


def true_pet_label(out: Path, patient_id: str) -> NDArray[np.uint8]:
    """A patient's label (D, H, W; 1 primary tumour, 2 nodes) drawn in the voxels of its PET.

    The label on disk is the same anatomy drawn in the voxels of the CT. Neither is resampled from the other.
    Raises ``InputError`` where ``out`` is not a phantom's folder or holds no such patient.
    """
    made = read_made_with(out)
    profiles, cohorts = _draw_sites(made["sites"], made["patients"], made["seed"], Hazard())
    for site, cohort in enumerate(cohorts):
        for index, patient in enumerate(cohort):
            if patient.id == patient_id:
                rng = np.random.default_rng([made["seed"], IMAGES, site, index])
                return make_anatomy(rng, patient.traits, pet_grid(profiles[site])).label
    raise InputError(f"{out}: holds no phantom patient {patient_id}; give one of its identifiers")


def _check(out: Path, sites: int, patients: int, size: int) -> None:
    limits = {"sites": (sites, 1), "patients": (patients, FEWEST_PATIENTS), "size": (size, SMALLEST_SIZE)}
    for name, (value, least) in limits.items():
        if value < least:
            raise InputError(f"phantom: {name} is {value}; it must be at least {least}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: already there and not empty; delete it or choose another folder for the phantom")


def _draw_sites(
    sites: int, patients: int, seed: int, hazard: Hazard
) -> tuple[list[SiteProfile], list[list[PhantomPatient]]]:
    """Every hospital's profile and patients."""
    profiles = [site_profile(site, np.random.default_rng([seed, SCANNER, site])) for site in range(sites)]
    counts = _site_sizes([profile.weight for profile in profiles], sites * patients)
    return profiles, [_draw_site(i, n, seed, profiles[i], hazard) for i, n in enumerate(counts)]


def _site_sizes(weights: Sequence[float], total: int) -> list[int]:
    """Whole numbers of patients in proportion to ``weights`` that add up to ``total``."""
    ends = np.rint(np.cumsum(weights) / np.sum(weights) * total).astype(int)
    return [int(n) for n in np.diff(ends, prepend=0)]


def _draw_site(index: int, count: int, seed: int, profile: SiteProfile, hazard: Hazard) -> list[PhantomPatient]:
    """Traits, clinical data and survival of one hospital's patients; no images yet."""
    rng = np.random.default_rng([seed, TRAITS, index])
    traits = [draw_traits(rng) for _ in range(count)]
    log_hazards = [hazard.log_hazard(t) for t in traits]
    survival = [hazard.survival_days(eta, 1.0 - rng.random()) for eta in log_hazards]
    entry = rng.uniform(0.5, 1.5, count)  # patients enter at different times, so follow-up differs threefold
    low, high = math.ceil((1 - CENSORED[1]) * count), math.floor((1 - CENSORED[0]) * count)
    fraction = profile.event_fraction
    if low <= high:
        fraction = min(max(round(fraction * count), low), high) / count
    days, events = censor(survival, [float(e) for e in entry], fraction)
    clinical = [draw_clinical(rng, t, index) for t in traits]
    return [
        PhantomPatient(
            id=f"H{index + 1}-{k + 1:03d}",
            site=f"hospital-{index + 1}",
            traits=traits[k],
            log_hazard=log_hazards[k],
            survival_days=survival[k],
            time_days=int(days[k]),
            event=int(events[k]),
            clinical=clinical[k],
        )
        for k in range(count)
    ]


def _write_patient(
    out: Path, patient: PhantomPatient, site: int, index: int, profile: SiteProfile, *, size: int, seed: int
) -> str:
    """Draw and write one patient's PET, CT and labels; the patient's own random stream makes the order irrelevant."""
    rng = np.random.default_rng([seed, IMAGES, site, index])
    fine, coarse = ct_grid(profile, size), pet_grid(profile)
    anatomy = make_anatomy(rng, patient.traits, fine)
    folder = out / patient.site
    pet, ct = acquire_pet(rng, anatomy, fine, coarse, profile), acquire_ct(rng, anatomy, profile)
    write_volume(folder / "imagesTr" / f"{patient.id}__PT.nii.gz", pet, coarse)
    write_volume(folder / "imagesTr" / f"{patient.id}__CT.nii.gz", ct, fine)
    write_volume(folder / "labelsTr" / f"{patient.id}.nii.gz", anatomy.label, fine)
    return patient.id
