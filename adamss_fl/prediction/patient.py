"""One patient's risk, survival curve and masks from a finished run, or from all folds of a cross-validated one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.federation.inputs import ranges_of
from adamss_fl.imaging.figures import image_figures, tumour_figures
from adamss_fl.imaging.native import as_image, centre_of_findings, label_map
from adamss_fl.imaging.samples import image_on
from adamss_fl.imaging.volumes import (
    Image,
    box_round,
    check_volume,
    covering_grid,
    field_of_view,
    interleaved_grids,
    overlap,
    target_grid,
)
from adamss_fl.model import AdaMSS, autocast, keep_freed_memory
from adamss_fl.prediction.cautions import Caution, clinical_cautions, range_cautions, scan_cautions
from adamss_fl.prediction.curves import Curve, average_curve
from adamss_fl.prediction.tabular import missing_columns, tabular_vector
from adamss_fl.prediction.trained_run import TrainedRun
from adamss_fl.survival import TimeGrid
from adamss_fl.training import sliding_window
from adamss_fl.training.stage import as_inputs
from adamss_fl.training.tensors import device_of

Report = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""

Maps = NDArray[np.float32]


@dataclass(frozen=True)
class Scan:
    """What is known about one patient: PET in SUV and CT in HU as read, a mask where there is one, clinical values.

    clinical : canonical name -> value; None or absent where it is not known.
    """

    patient: str
    pet: Image
    ct: Image
    mask: Image | None = None
    clinical: Mapping[str, str | float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Prediction:
    """What a run says about one patient; pet_mask, ct_mask are label images (1 tumour, 2 nodes) in native geometry.

    member_curves : the curve of each model behind the mean, as (days, survival).
    """

    patient: str
    curve: Curve
    member_curves: tuple[Curve, ...]
    pet_mask: Image
    ct_mask: Image
    cautions: tuple[Caution, ...]

    @property
    def survival_days(self) -> float:
        """Restricted mean survival time in days up to the horizon, every bin counted at the survival at its end."""
        return self.curve.restricted_mean_days

    @property
    def risk(self) -> float:
        """Minus ``survival_days``: higher means an earlier event."""
        return -self.survival_days


class Predictor:
    """Applies one run, or the folds of one, to patients.

    runs : as ``load_folds`` gives them. Masks and curves are means over them.
    fine_masks : segment the box eight times on grids half a voxel apart, which together are a grid of half the spacing,
        so that less is lost on the way into PET's and CT's own voxels. The curve does not depend on it.
    """

    def __init__(self, runs: Sequence[TrainedRun], fine_masks: bool = True) -> None:
        self.runs = tuple(runs)
        self.fine_masks = fine_masks
        self.task = self.runs[0].task
        self.imaging = self.task.imaging

    @cached_property
    def models(self) -> tuple[tuple[AdaMSS, AdaMSS], ...]:
        """(segmentation, survival) of every run; one network where both are the same weights."""
        keep_freed_memory()
        pairs = []
        for run in self.runs:
            survival = run.model("survival")
            same = run.segmentation_weights is run.survival_weights
            pairs.append((survival if same else run.model("segmentation"), survival))
        return tuple(pairs)

    def __call__(self, scan: Scan, report: Report | None = None) -> Prediction:
        """Predict one patient. Raises InputError naming the patient where PET or CT cannot be used.

        The box is the one of training: centred on what PET and CT have in common or, where the run's is centred on the
        tumour, on the mask given, else on what a first pass over the whole of both images finds. Inside the box the
        masks are the model's answer on grids of the box's extent; where the images reach further, outside the box, they
        are the first pass's. Survival is read from the box.
        """
        torch.set_num_threads(self.task.runtime.threads)
        check_volume(scan.pet, scan.patient, "PET")
        check_volume(scan.ct, scan.patient, "CT")
        shared = overlap(field_of_view(scan.pet), field_of_view(scan.ct), scan.patient)
        cautions = scan_cautions(scan.pet, scan.ct, self.imaging)
        wide_grid = covering_grid(self.imaging, shared)
        size = tuple(int(side) for side in wide_grid.GetSize())[::-1]
        beyond = any(side > own for side, own in zip(size, self.imaging.grid, strict=True))
        on_tumour = self.imaging.centre != "overlap"
        lesions = None if scan.mask is None or not on_tumour else box_round(scan.mask)
        marked = None if lesions is None else lesions.centre
        if marked is not None and not shared.holds(marked):
            raise InputError(f"patient {scan.patient}: the mask lies outside PET and CT; give the mask of this patient")
        wide: Maps | None = None
        if beyond or (on_tumour and marked is None):
            wide = self._mean_maps(image_on(wide_grid, scan.pet, scan.ct, self.imaging), scan, report)
        centre = shared.centre
        if on_tumour:
            centre = marked or (centre_of_findings(wide, wide_grid) if wide is not None else None) or centre
        elif scan.mask is not None:
            cautions.append(Caution("mask_unused", "the run's box is not centred on the tumour: the mask is not used"))
        grid = target_grid(self.imaging, centre)
        image = image_on(grid, scan.pet, scan.ct, self.imaging)
        maps = [self._segment(model, image, scan, report) for model, _ in self.models]
        curves = [
            self._curve(run, model, image, own, scan)
            for run, (_, model), own in zip(self.runs, self.models, maps, strict=True)
        ]
        box: Maps = np.mean(maps, axis=0)
        cautions += self._box_cautions(scan, image, box, grid, wide, wide_grid)
        if self.fine_masks:
            box, grid = self._finely(centre, scan, report)
        return Prediction(
            patient=scan.patient,
            curve=average_curve([run.edges_days for run in self.runs], curves),
            member_curves=tuple(
                average_curve([run.edges_days], [curve]) for run, curve in zip(self.runs, curves, strict=True)
            ),
            pet_mask=as_image(label_map(box, grid, scan.pet, wide, wide_grid), scan.pet),
            ct_mask=as_image(label_map(box, grid, scan.ct, wide, wide_grid), scan.ct),
            cautions=tuple(cautions),
        )

    def _finely(self, centre: Sequence[float], scan: Scan, report: Report | None) -> tuple[Maps, Image]:
        """Mean probabilities of all models on the box at half the spacing, and that grid."""
        fine, parts = interleaved_grids(self.imaging, centre)
        maps = np.empty((2, *reversed(fine.GetSize())), dtype=np.float32)
        for voxels, grid in parts:
            image = image_on(grid, scan.pet, scan.ct, self.imaging)
            maps[(slice(None), *voxels)] = self._mean_maps(image, scan, report)
        return maps, fine

    def _mean_maps(self, image: Maps, scan: Scan, report: Report | None) -> Maps:
        """Mean probabilities of all models; however many they are, two of their results are in memory at once."""
        total = self._segment(self.models[0][0], image, scan, report)
        for model, _ in self.models[1:]:
            total += self._segment(model, image, scan, report)
        total /= len(self.models)
        return total

    def _segment(self, model: AdaMSS, image: Maps, scan: Scan, report: Report | None) -> Maps:
        on_window = None if report is None else lambda done, total: report(f"{scan.patient}: windows", done, total)
        return sliding_window(model, image, self.imaging.grid, self.task.runtime, on_window=on_window)

    @torch.inference_mode()
    def _curve(self, run: TrainedRun, model: AdaMSS, image: Maps, maps: Maps, scan: Scan) -> NDArray[np.float64]:
        """Survival (K,) of one model at its own upper edges, float64."""
        runtime = run.task.runtime
        device = device_of(runtime)
        vector = tabular_vector(run, scan.patient, scan.clinical, image, maps > 0.5)
        tabular = None if vector is None else torch.from_numpy(vector)[None].to(device)
        with autocast(device, runtime.precision):
            inputs = as_inputs(torch.from_numpy(image)[None].to(device), runtime)
            logits = model(*inputs, tabular, heads=("survival",)).survival
        if not bool(torch.isfinite(logits).all()):
            raise InputError(f"patient {scan.patient}: the model's answer is not finite; check the images' values")
        curve: Any = TimeGrid(run.edges_days).survival_curve(logits.double().cpu())[0].numpy()
        return np.asarray(curve, dtype=np.float64)

    def _box_cautions(
        self, scan: Scan, image: Maps, box: Maps, grid: Image, wide: Maps | None, wide_grid: Image
    ) -> list[Caution]:
        """Cautions about the box and what was found in it and beside it."""
        voxels = int(np.count_nonzero((box[0] > 0.5) & (box[0] >= box[1])))
        figures = image_figures(image, self.imaging) | tumour_figures(voxels, self.imaging)
        found = range_cautions(figures, ranges_of(self.runs[0].state.get("trained_on", {})))
        found += clinical_cautions(missing_columns(self.runs[0], scan.clinical))
        if not voxels:
            found.append(Caution("no_tumour", "no primary tumour was found in the box that survival is read from"))
        centre = None if wide is None else centre_of_findings(wide, wide_grid)
        if centre is not None and _outside(grid, centre):
            found.append(
                Caution("tumour_outside_box", "most of what was found lies outside the box that survival is read from")
            )
        return found


def _outside(grid: Image, point: tuple[float, ...]) -> bool:
    index = grid.TransformPhysicalPointToContinuousIndex(point)
    return any(not -0.5 <= place <= side - 0.5 for place, side in zip(index, grid.GetSize(), strict=True))
