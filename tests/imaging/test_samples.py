"""From files to arrays: geometry, intensity, masks, and volumes that are refused by the patient's name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from small_images import MakeCohort, ball

from adamss_fl.cohort import Cohort, Patient, load_cohort, npz
from adamss_fl.errors import InputError
from adamss_fl.imaging import ImagingSettings, Sample, prepare_cohort

SETTINGS = ImagingSettings(grid=(16, 16, 16), spacing_mm=(4, 4, 4), pet_suv_max=20, ct_hu_window=(-250, 250))
FIELD = np.random.default_rng(1).random((16, 16, 16), dtype=np.float32)


def one(cohort: Cohort, tmp_path: Path, settings: ImagingSettings = SETTINGS) -> Sample:
    (sample,) = prepare_cohort(cohort, settings, tmp_path / "cache")
    return sample


def refusal(cohort: Cohort, tmp_path: Path) -> str:
    with pytest.raises(InputError) as caught:
        one(cohort, tmp_path)
    assert "\n" not in str(caught.value)
    assert "P1" in str(caught.value)
    return str(caught.value)


def test_a_volume_already_on_the_grid_is_only_scaled(tmp_path: Path, make_cohort: MakeCohort) -> None:
    suv, hu = FIELD * 30, FIELD * 800 - 400
    sample = one(make_cohort(pet=(suv, (4, 4, 4)), ct=(hu, (4, 4, 4))), tmp_path)
    assert np.allclose(sample.image[0], np.clip(suv / 20, 0, 1), atol=1e-6)
    assert np.allclose(sample.image[1], np.clip((hu + 250) / 500, 0, 1), atol=1e-6)
    assert (sample.image.dtype, sample.mask.dtype, sample.image.shape) == (np.float32, np.uint8, (2, 16, 16, 16))
    assert (sample.patient_id, sample.site, sample.time_days, sample.event) == ("P1", "site", 100.0, 1)


def test_resampling_is_linear_interpolation_in_physical_space(tmp_path: Path, make_cohort: MakeCohort) -> None:
    # CT on the grid's own geometry, PET finer, shifted and anisotropic: scipy says what each voxel must be.
    pet = np.random.default_rng(2).random((26, 24, 22), dtype=np.float32) * 15
    spacing, origin = (3.0, 2.9, 2.7), (-1.0, 0.5, -2.0)
    sample = one(make_cohort(pet=(pet, spacing, origin), ct=(FIELD * 100, (4, 4, 4))), tmp_path)
    low = [max(-2.0, o - s / 2) for o, s in zip(origin, spacing, strict=True)]
    high = [min(62.0, o + (n - 0.5) * s) for o, s, n in zip(origin, spacing, pet.shape[::-1], strict=True)]
    centre = [(a + b) / 2 for a, b in zip(low, high, strict=True)]
    x, y, z = ((c + (np.arange(16) - 7.5) * 4 - o) / s for c, o, s in zip(centre, origin, spacing, strict=True))
    expected = ndimage.map_coordinates(pet, np.meshgrid(z, y, x, indexing="ij"), order=1) / 20
    inner = (slice(2, -2),) * 3
    assert np.allclose(sample.image[0][inner], expected[inner], atol=1e-5)


def test_the_grid_is_centred_where_pet_and_ct_overlap_and_padding_is_background(
    tmp_path: Path, make_cohort: MakeCohort
) -> None:
    ct = (np.full((8, 8, 8), 100.0, np.float32) + FIELD[:8, :8, :8], (4, 4, 4), (16, 16, 16))
    pet = (np.full((16, 16, 16), 10.0, np.float32) + FIELD, (4, 4, 4), (0, 0, 0))
    sample = one(make_cohort(pet=pet, ct=ct), tmp_path)
    inside = np.zeros((16, 16, 16), bool)
    inside[4:12, 4:12, 4:12] = True
    assert (sample.image[1] > 0).tolist() == inside.tolist()
    assert (sample.image[0] > 0).all()


def test_the_grid_is_centred_on_the_box_round_both_masks(tmp_path: Path, make_cohort: MakeCohort) -> None:
    """Nodes and tumour far from the middle; to the voxel, the box round both is in the middle of the grid."""
    wide = np.random.default_rng(0).random((40, 40, 40), dtype=np.float32)
    label = np.zeros((40, 40, 40), np.uint8)
    label[25:29, 30:36, 4:6] = 1
    label[31:33, 24:26, 10:12] = 2
    spacing, origin = (4, 4, 4), (-50, 20, 7)
    parts = {"pet": (wide * 20, spacing, origin), "ct": (wide * 500 - 250, spacing, origin)}
    around = replace(SETTINGS, centre="tumour", grid=(16, 16, 32))
    sample = one(make_cohort(**parts, label=(label, spacing, origin)), tmp_path, around)
    box = label[21:37, 22:38, 0:24]  # D 25 to 32, H 24 to 35, W 4 to 11: the middle is between voxels 28 and 29, ...
    assert (sample.mask[:, :, :, 8:] == np.stack([box == 1, box == 2])).all()
    assert np.allclose(sample.image[0][:, :, 8:], wide[21:37, 22:38, 0:24], atol=1e-5)
    assert not sample.image[:, :, :, :8].any()  # beyond the images


@pytest.mark.parametrize("label", [None, (np.zeros((16, 16, 16), np.uint8), (4, 4, 4))])
def test_without_a_marked_voxel_the_grid_is_centred_on_the_overlap(
    tmp_path: Path, make_cohort: MakeCohort, label: Any
) -> None:
    cohort = make_cohort(label=label)
    samples = [one(cohort, tmp_path, replace(SETTINGS, centre=centre)) for centre in ("overlap", "tumour")]
    assert np.array_equal(samples[0].image, samples[1].image)


def test_masks_keep_their_labels_apart_and_their_volume(tmp_path: Path, make_cohort: MakeCohort) -> None:
    label = np.zeros((48, 48, 48), np.uint8)
    label[:, :, :24][ball((48, 48, 24), 10) > 0] = 1
    label[:, :, 24:][ball((48, 48, 24), 8) > 0] = 2
    fine = np.random.default_rng(0).random((48, 48, 48), dtype=np.float32)
    spacing = (64 / 48,) * 3
    sample = one(make_cohort(pet=(fine, spacing), ct=(fine, spacing), label=(label, spacing)), tmp_path)
    assert sample.has_mask
    assert set(np.unique(sample.mask)) == {0, 1}
    assert not (sample.mask[0] & sample.mask[1]).any()
    for mask, value in zip(sample.mask, (1, 2), strict=True):
        assert mask.sum() * 64 == pytest.approx((label == value).sum() * spacing[0] ** 3, rel=0.1)


def test_a_patient_without_label_file_has_an_empty_mask_that_says_so(tmp_path: Path, make_cohort: MakeCohort) -> None:
    sample = one(make_cohort(), tmp_path)
    assert not sample.has_mask
    assert not sample.mask.any()


def test_a_patient_without_endpoint_has_nan_and_minus_one(tmp_path: Path, make_cohort: MakeCohort) -> None:
    cohort = make_cohort()
    unknown = Patient("P1", "site", cohort.patients[0].pet, cohort.patients[0].ct)
    sample = one(Cohort("site", tmp_path, cohort.layout, (unknown,)), tmp_path)
    assert np.isnan(sample.time_days)
    assert sample.event == -1


@pytest.mark.parametrize("kind", ["pet", "ct"])
@pytest.mark.parametrize(
    ("voxels", "word"),
    [
        (np.zeros((16, 16, 16), np.float32), "constant"),
        (np.where(FIELD > 0.99, np.nan, FIELD), "NaN"),
        (np.where(FIELD > 0.99, np.inf, FIELD).astype(np.float64), "NaN or infinite"),
    ],
)
def test_a_constant_or_non_finite_volume_is_refused_by_patient(
    tmp_path: Path, make_cohort: MakeCohort, kind: str, voxels: Any, word: str
) -> None:
    message = refusal(make_cohort(**{kind: (voxels, (4, 4, 4))}), tmp_path)
    assert word in message
    assert kind.upper() in message


def test_pet_and_ct_that_do_not_overlap_are_refused_by_patient(tmp_path: Path, make_cohort: MakeCohort) -> None:
    assert "do not overlap" in refusal(make_cohort(pet=(FIELD, (4, 4, 4), (64.1, 0, 0))), tmp_path)


@pytest.mark.parametrize("spoil", ["missing", "truncated", "text", "flat"])
def test_a_file_that_cannot_be_read_is_refused_by_patient(tmp_path: Path, make_cohort: MakeCohort, spoil: str) -> None:
    cohort = make_cohort()
    path = cohort.patients[0].ct
    content = path.read_bytes()
    if spoil == "missing":
        path.unlink()
    elif spoil == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif spoil == "text":
        path.write_text("a text")
    else:
        cohort = make_cohort(ct=(FIELD[0], (4, 4)[:2], (0, 0)))
    assert str(path) in refusal(cohort, tmp_path)


@pytest.mark.parametrize("grid", [(16, 16, 24), (0, 16, 16), (-16, 16, 16), (100, 112, 112)])
def test_a_grid_side_not_divisible_by_16_is_refused(grid: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        ImagingSettings(grid=grid)


@pytest.mark.parametrize(
    "change",
    [{"spacing_mm": (1, 0, 1)}, {"pet_suv_max": 0}, {"ct_hu_window": (100, 100)}, {"pet_suv_max": float("nan")}],
)
def test_scalings_that_divide_by_nothing_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        ImagingSettings(**change)


def test_an_npz_archive_gives_the_same_sample_as_its_arrays(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    tumour = ball((16, 16, 16), 4)
    arrays = {"PET": FIELD * 12, "CT": FIELD * 300, "Seg_Tumor": tumour, "Seg_Node": np.roll(tumour, 5, 0)}
    np.savez(tmp_path / "A1.npz", **arrays, Time=np.array(50.0), Event=np.array(1))
    cohort = load_cohort(tmp_path, npz())
    sample = one(cohort, tmp_path, ImagingSettings(grid=(16, 16, 16)))
    assert np.allclose(sample.image[0], FIELD * 12 / 20, atol=1e-6)
    assert (sample.mask == np.stack([arrays["Seg_Tumor"], arrays["Seg_Node"]])).all()


@pytest.mark.parametrize(
    ("change", "word"),
    [({"CT": None}, "'CT'"), ({"CT": FIELD[0]}, "one shape"), ({"CT": np.full((16, 16, 16), np.nan)}, "NaN")],
)
def test_an_archive_without_a_usable_array_is_refused(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    arrays = {"PET": FIELD, "CT": FIELD, "Time": np.array(1.0), "Event": np.array(1), **change}
    np.savez(tmp_path / "P1.npz", **{name: array for name, array in arrays.items() if array is not None})
    assert word in refusal(load_cohort(tmp_path, npz()), tmp_path)


def test_progress_counts_every_patient(tmp_path: Path, make_cohort: MakeCohort) -> None:
    first, second = make_cohort("P1"), make_cohort("P2")
    cohort = Cohort("site", tmp_path, first.layout, first.patients + second.patients)
    seen: list[tuple[str, int, int]] = []
    prepare_cohort(cohort, SETTINGS, tmp_path / "cache", lambda *step: seen.append(step))
    assert seen == [("P1", 1, 2), ("P2", 2, 2)]
