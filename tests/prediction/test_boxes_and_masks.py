"""Where the box lies that survival is read from, and masks from the model's grid in the scanners' own voxels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from trained_phantom import Trained, scan_of

from adamss_fl.cohort import load_cohort
from adamss_fl.imaging import prepare_arrays, prepare_cohort
from adamss_fl.imaging.settings import ImagingSettings
from adamss_fl.imaging.volumes import field_of_view, interleaved_grids, target_grid
from adamss_fl.prediction import Predictor, Scan, load_run
from adamss_fl.training import infer


def test_the_labels_on_a_native_grid_that_is_the_models_own_are_its_predicted_masks(
    trained: Trained, tmp_path: Path
) -> None:
    """PET and CT resampled to the model's grid beforehand: nothing is left to interpolate."""
    run, patient = load_run(trained.run), trained.patients[1]
    record = load_cohort(trained.hospital).patient(patient)
    image = prepare_arrays(record, load_cohort(trained.hospital).layout, run.task.imaging).image

    def volume(array: np.ndarray) -> Any:
        made = sitk.GetImageFromArray(array)
        made.SetSpacing(run.task.imaging.spacing_mm[::-1])
        return made

    low, high = run.task.imaging.ct_hu_window
    scan = Scan(patient, volume(image[0] * run.task.imaging.pet_suv_max), volume(low + (high - low) * image[1]))
    found = Predictor([run], fine_masks=False)(scan)
    sample = replace(prepare_cohort(load_cohort(trained.hospital).subset([patient]), run.task.imaging, tmp_path)[0])
    masks = infer(run.model("segmentation"), [sample], run.task.runtime, keep_masks=True).masks
    assert masks is not None
    labels = sitk.GetArrayFromImage(found.pet_mask)
    union = masks[0].any(axis=0)
    assert 0 < union.sum() < union.size
    assert (labels > 0).mean() == pytest.approx(union.mean(), abs=2e-3)
    assert ((labels > 0) == union).mean() > 0.998  # a probability of 0.5 may fall on either side


def test_eight_interleaved_grids_are_every_voxel_of_the_fine_one_once() -> None:
    settings = ImagingSettings(grid=(16, 32, 48), spacing_mm=(5.0, 3.0, 2.0))
    fine, parts = interleaved_grids(settings, (10.0, -20.0, 30.0))
    counted = np.zeros(fine.GetSize()[::-1], dtype=int)
    for voxels, grid in parts:
        counted[voxels] += 1
        for index in ((0, 0, 0), (15, 7, 3)):  # x, y, z on the coarse grid
            there = [2 * place + own.start for place, own in zip(index, voxels[::-1], strict=True)]
            np.testing.assert_allclose(
                grid.TransformIndexToPhysicalPoint(index), fine.TransformIndexToPhysicalPoint(there), atol=1e-9
            )
    assert (counted == 1).all()
    coarse = target_grid(settings, (10.0, -20.0, 30.0))
    for one, other in (
        (field_of_view(fine).low, field_of_view(coarse).low),
        (fine.GetDirection(), coarse.GetDirection()),
    ):
        np.testing.assert_allclose(one, other)


def test_fine_masks_leave_the_curve_and_come_nearer_to_a_border_that_the_coarse_grid_cannot_show(
    trained: Trained,
) -> None:
    """A ball that is segmented without fault: what is left is what the grid loses."""
    run = load_run(trained.run)

    class Painter(Predictor):
        """A voxel is tumour where PET at its centre is high: PET is smooth and rises towards the ball's centre."""

        def _segment(self, model: Any, image: np.ndarray, scan: Any, report: Any) -> np.ndarray:
            hot = np.where(image[0] > 0.4, 0.99, 0.01).astype(np.float32)
            return np.stack([hot, np.full_like(hot, 0.01)])

    side, step = 64, run.task.imaging.spacing_mm[0] / 4
    axes = step * (np.arange(side) - side / 2)
    z, y, x = np.meshgrid(axes, axes, axes, indexing="ij")
    distance = np.sqrt((z - 0.7 * step) ** 2 + (y + 1.3 * step) ** 2 + (1.5 * x) ** 2) / step
    volume = np.clip(1 - distance / 32, 0, 1).astype(np.float32)

    def image(array: np.ndarray) -> Any:
        made = sitk.GetImageFromArray(array)
        made.SetSpacing([step] * 3)
        return made

    scan = Scan("ball", image(run.task.imaging.pet_suv_max * volume), image(100 * volume))
    truth = volume > 0.4

    def dice(found: Any) -> float:
        labels = sitk.GetArrayFromImage(found.ct_mask) > 0
        return 2 * (labels & truth).sum() / (labels.sum() + truth.sum())

    fine, coarse = Painter([run])(scan), Painter([run], fine_masks=False)(scan)
    assert fine.curve == coarse.curve
    assert dice(fine) > dice(coarse)
    assert dice(fine) > 0.96


@pytest.mark.parametrize("given", [False, True])
def test_a_run_centred_on_the_tumour_puts_its_box_there(given: bool, trained: Trained) -> None:
    """The box follows the mask given, or what the first pass finds; the survival it reads is that of this very box."""
    run = load_run(trained.run)
    imaging = replace(run.task.imaging, centre="tumour", grid=(16, 16, 16), spacing_mm=(4.0, 4.0, 4.0))
    run = replace(run, task=replace(run.task, imaging=imaging))
    patient = trained.patients[0]
    scan = scan_of(trained, patient)
    if given:
        mark = sitk.Image(scan.ct.GetSize(), sitk.sitkFloat32)
        mark.CopyInformation(scan.ct)
        mark[3, 4, 5] = 1
        scan = replace(scan, mask=mark)
    seen: list[Any] = []
    predictor = Predictor([run])
    curve = predictor._curve
    predictor._curve = lambda run, model, image, *rest: (seen.append(image), curve(run, model, image, *rest))[1]  # type: ignore[assignment, func-returns-value]
    predictor(scan)
    from adamss_fl.imaging.native import centre_of_findings
    from adamss_fl.imaging.samples import image_on
    from adamss_fl.imaging.volumes import covering_grid, field_of_view, overlap, target_grid
    from adamss_fl.training import sliding_window

    if given:
        centre: Any = scan.ct.TransformIndexToPhysicalPoint((3, 4, 5))
    else:
        place = covering_grid(imaging, overlap(field_of_view(scan.pet), field_of_view(scan.ct), patient))
        wide = sliding_window(
            run.model("segmentation"), image_on(place, scan.pet, scan.ct, imaging), (16,) * 3, run.task.runtime
        )
        centre = centre_of_findings(wide, place)
        assert centre is not None
    np.testing.assert_array_equal(seen[0], image_on(target_grid(imaging, centre), scan.pet, scan.ct, imaging))


def test_where_images_reach_beyond_the_box_masks_do_too_and_a_tumour_out_there_is_told(trained: Trained) -> None:
    run = load_run(trained.run)
    small = replace(run.task.imaging, spacing_mm=(2.0, 2.0, 2.0))
    run = replace(run, task=replace(run.task, imaging=small))

    class Painter(Predictor):
        """Finds the tumour wherever PET is above a fifth of the scale."""

        def _segment(self, model: Any, image: np.ndarray, scan: Any, report: Any) -> np.ndarray:
            hot = np.where(image[0] > 0.2, 0.99, 0.01).astype(np.float32)
            return np.stack([hot, np.full_like(hot, 0.01)])

    scan = scan_of(trained, trained.patients[0])
    pet = sitk.GetArrayFromImage(scan.pet) * 0 + 0.5
    pet[2:6, 2:6, 2:6] = 10.0
    image = sitk.GetImageFromArray(pet)
    image.CopyInformation(scan.pet)
    found = Painter([run])(replace(scan, pet=image))
    codes = {caution.code for caution in found.cautions}
    assert {"tumour_outside_box", "no_tumour"} <= codes
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found.pet_mask) > 0, pet > 5)
