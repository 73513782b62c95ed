"""What a trained network looks at: maps on disk and a figure per patient, and figures over all patients."""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from adamss_fl.cohort import Cohort, Patient, load_cohort, split_cohort
from adamss_fl.cohort.settings import CohortSettings, SplitSettings
from adamss_fl.errors import InputError
from adamss_fl.evaluation.figures import FocusPicture, focus_figure
from adamss_fl.evaluation.focus import REGIONS, PatientFocus, measure
from adamss_fl.evaluation.focus_summary import GATE_MEANING, summarize
from adamss_fl.federation.files import write_atomically, write_json
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample, model_grid, prepare_cohort, read_patient
from adamss_fl.imaging.volumes import Image, simpleitk
from adamss_fl.model import AdaMSS, autocast
from adamss_fl.model.maps import ATTENTION_LEVELS, GATE_LEVELS, focus_maps
from adamss_fl.training.stage import as_inputs
from adamss_fl.training.tensors import as_batch, device_of

Progress = Callable[[str, int, int], None]
Maps = dict[str, NDArray[Any]]

NOTES = (
    "Spread is the effective part of the body that holds the attention, exp(entropy) over the body's volume: 1 where "
    "attention is uniform.",
    "Intervals are percentile bootstrap over patients for these weights. They cover chance in the patients and not in "
    "training: any further training moves weights, so a change says that the network looks differently, and not that "
    "the change predicts better.",
    "Attention multiplies features on their way to the decoder; it is no measure of what decides a patient's risk.",
)


@dataclass(frozen=True)
class StageModel:
    """A stage's network: ``key`` for file names, ``title`` for people; ``make`` builds it when it is needed."""

    key: str
    title: str
    make: Callable[[], AdaMSS]


def same_weights(first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> bool:
    """Whether a run has one model for both stages, since its last round trained both, or it trained one stage only."""
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def cohorts_to_explain(
    sites: Sequence[CohortSettings], split: SplitSettings, cohort: Path | None, layout: str
) -> list[Cohort]:
    """The patients that are explained: the test patients of the run's own sites, or all of another cohort.

    cohort : a folder; where it is one of the run's sites, its test patients. Raises InputError where nobody is left.
    """
    own = {Path(site.path).resolve(): site for site in sites}
    if cohort is None:
        found = [split_cohort(load_cohort(Path(s.path), s.layout, s.name), split).test for s in sites]
    elif cohort.resolve() in own:
        site = own[cohort.resolve()]
        found = [split_cohort(load_cohort(cohort, site.layout, site.name), split).test]
    else:
        found = [load_cohort(cohort, layout)]
    found = [part for part in found if len(part)]
    if not found:
        raise InputError("split.test is 0, so the run has no test patients; give another cohort with --cohort")
    return found


def explain(
    stages: Sequence[StageModel],
    cohorts: Sequence[Cohort],
    task: Task,
    out: Path,
    *,
    cache: Path,
    draw: int | str = 5,
    bootstrap: int = 1000,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write maps, figures and numbers to ``out``; returns what ``focus.json`` holds.

    stages : one network, or stage I and stage II in this order. draw : the identifier of one patient, or how many of
    the first ones get maps and a figure (spread over the sites in turn). The figures over patients rest on all.

    ``out`` then has ``focus.json`` and ``example.svg`` (without names), and, to stay on this machine, ``patients.csv``
    and ``patients/SITE-PATIENT/{attention-L,opening-L}-STAGE.nii.gz`` and ``figure.svg``. Raises InputError where the
    patient asked for is not among the cohorts'.
    """
    drawn = _drawn(cohorts, draw)
    torch.set_num_threads(task.runtime.threads)
    samples = [sample for cohort in cohorts for sample in prepare_cohort(cohort, task.imaging, cache)]
    figures: dict[str, list[PatientFocus]] = {}
    kept: dict[tuple[str, str], dict[str, Maps]] = {key: {} for key in drawn}
    for stage in stages:
        model = stage.make()
        measured = []
        for done, sample in enumerate(samples, start=1):
            maps = _maps_of(model, sample, task)
            measured.append(_measure(maps, sample, task))
            key = (sample.site, sample.patient_id)
            if key in kept:
                kept[key][stage.key] = maps
            if progress is not None:
                progress(stage.title, done, len(samples))
        figures[stage.title] = measured
    by_key = {(sample.site, sample.patient_id): sample for sample in samples}
    pictures = {}
    for key, (patient, cohort) in drawn.items():
        grid = model_grid(read_patient(patient, cohort.layout), task.imaging, patient.id)
        folder = out / "patients" / _file_name(f"{patient.site}-{patient.id}")
        pictures[key] = _write_patient(folder, by_key[key], kept[key], grid, stages)
    example = _example([by_key[key] for key in drawn])
    write_atomically(out / "example.svg", pictures[example].encode())
    _write_table(out / "patients.csv", samples, figures)
    found = {
        "stages": [stage.title for stage in stages],
        "sites": sorted({sample.site for sample in samples}),
        **summarize(figures, bootstrap, task.seed),
        "bootstrap": bootstrap,
        "without_reference": sum(not sample.has_mask for sample in samples),
        "gate_meaning": GATE_MEANING,
        "notes": list(NOTES),
    }
    write_json(out / "focus.json", found)
    return found


def to_full_grid(values: NDArray[Any], grid: Sequence[int]) -> NDArray[np.float32]:
    """A level's map (d, h, w) at the voxel centres of ``grid`` (D, H, W): linear between the cells' centres."""
    tensor = torch.from_numpy(np.asarray(values, np.float32))[None, None]
    full = functional.interpolate(tensor, size=tuple(grid), mode="trilinear", align_corners=False)
    return np.asarray(full[0, 0].numpy(), dtype=np.float32)


def _drawn(cohorts: Sequence[Cohort], draw: int | str) -> dict[tuple[str, str], tuple[Patient, Cohort]]:
    """The patients that get maps and a figure, by site and identifier."""
    everyone = [(patient, cohort) for cohort in cohorts for patient in cohort.patients]
    if isinstance(draw, str):
        chosen = [pair for pair in everyone if pair[0].id == draw]
        if not chosen:
            raise InputError(f"patient {draw!r} is none of the {len(everyone)} patients to explain; name one of them")
    else:
        longest = max(len(cohort) for cohort in cohorts)
        turns = [(c.patients[turn], c) for turn in range(longest) for c in cohorts if turn < len(c)]
        chosen = turns[:draw]
    return {(patient.site, patient.id): (patient, cohort) for patient, cohort in chosen}


@torch.no_grad()
def _maps_of(model: AdaMSS, sample: Sample, task: Task) -> Maps:
    """Maps (d, h, w) by name, ``attention-4`` to ``attention-1`` and ``opening-1`` to ``opening-5``."""
    device = device_of(task.runtime)
    image = as_batch([sample], device).image
    with autocast(device, task.runtime.precision):
        found = focus_maps(model, *as_inputs(image, task.runtime))
    names = [f"attention-{level}" for level in ATTENTION_LEVELS] + [f"opening-{level}" for level in GATE_LEVELS]
    return dict(zip(names, map(_to_array, (*found.attention, *found.gate_opening)), strict=True))


def _to_array(values: Tensor) -> NDArray[Any]:
    return np.asarray(values[0, 0].cpu().numpy())


def _measure(maps: Maps, sample: Sample, task: Task) -> PatientFocus:
    return measure(
        [maps[f"attention-{level}"] for level in ATTENTION_LEVELS],
        [maps[f"opening-{level}"] for level in GATE_LEVELS],
        np.asarray(sample.image),
        np.asarray(sample.mask) if sample.has_mask else None,
        task.imaging.spacing_mm,
    )


def _write_patient(
    folder: Path, sample: Sample, maps: Mapping[str, Maps], grid: Image, stages: Sequence[StageModel]
) -> str:
    """Write a patient's maps and figure; returns the figure."""
    sides = sample.image.shape[1:]
    full = {key: {name: to_full_grid(values, sides) for name, values in own.items()} for key, own in maps.items()}
    for key, own in full.items():
        for name, values in own.items():
            write_map(folder / f"{name}-{key}.nii.gz", values, grid)
    picture = FocusPicture(
        pet=np.asarray(sample.image)[0],
        ct=np.asarray(sample.image)[1],
        mask=np.asarray(sample.mask),
        attention={s.title: [full[s.key][f"attention-{n}"] for n in sorted(ATTENTION_LEVELS)] for s in stages},
        opening={s.title: [full[s.key][f"opening-{n}"] for n in GATE_LEVELS] for s in stages},
    )
    svg = focus_figure(picture)
    write_atomically(folder / "figure.svg", svg.encode())
    return svg


def write_map(path: Path, values: NDArray[Any], grid: Image) -> None:
    """Write (D, H, W) float32 ``values`` as NIfTI with the geometry of ``grid``, whole or not at all."""
    sitk = simpleitk()

    image = sitk.GetImageFromArray(np.ascontiguousarray(values, dtype=np.float32))
    image.CopyInformation(grid)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{os.getpid()}.part-{path.name}")
    sitk.WriteImage(image, str(beside), useCompression=True, compressionLevel=1)
    beside.replace(path)


def _example(samples: Sequence[Sample]) -> tuple[str, str]:
    """The first patient with both tumour and nodes in the reference, else the first."""
    both = [sample for sample in samples if all(np.asarray(mask).any() for mask in sample.mask)]
    first = (both or list(samples))[0]
    return first.site, first.patient_id


def _write_table(path: Path, samples: Sequence[Sample], figures: Mapping[str, Sequence[PatientFocus]]) -> None:
    """One row per patient, stage and level; what is not defined is blank."""
    rows = io.StringIO()
    columns = ["site", "patient", "stage", "map", "level", "spread"]
    columns += [f"{figure}_{region}" for figure in ("share", "volume", "enrichment", "opening") for region in REGIONS]
    writer = csv.DictWriter(rows, [*columns, "opening_whole"], lineterminator="\n")
    writer.writeheader()
    for stage, patients in figures.items():
        for sample, found in zip(samples, patients, strict=True):
            own = {"site": sample.site, "patient": sample.patient_id, "stage": stage}
            for index, level in enumerate(ATTENTION_LEVELS):
                row: dict[str, Any] = {**own, "map": "attention", "level": level, "spread": _cell(found.spread[index])}
                for name in ("share", "volume", "enrichment"):
                    values = getattr(found, name)[index]
                    row |= {f"{name}_{region}": _cell(value) for region, value in zip(REGIONS, values, strict=True)}
                writer.writerow(row)
            for index, level in enumerate(GATE_LEVELS):
                values = found.opening[index]
                row = {**own, "map": "gate", "level": level, "opening_whole": _cell(found.whole[index])}
                row |= {f"opening_{region}": _cell(value) for region, value in zip(REGIONS, values, strict=True)}
                writer.writerow(row)
    write_atomically(path, rows.getvalue().encode())


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def _file_name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "_", text)
