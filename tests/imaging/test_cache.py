"""The cache is valid for the settings and files that made it, and for nothing else."""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from small_images import MakeCohort, ball, write_image

import adamss_fl.imaging.samples as samples
from adamss_fl.cohort import Cohort, Patient
from adamss_fl.imaging import ImagingSettings, prepare_cohort

SETTINGS = ImagingSettings(grid=(16, 16, 16), spacing_mm=(4, 4, 4))
LABEL = (ball((16, 16, 16), 4).astype(np.uint8), (4, 4, 4))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The patients whose arrays were made, not read from the cache."""
    calls: list[str] = []
    prepare = samples.prepare_arrays

    def count(patient: Patient, *rest: Any) -> Any:
        calls.append(patient.id)
        return prepare(patient, *rest)

    monkeypatch.setattr(samples, "prepare_arrays", count)
    return calls


def arrays(cohort: Cohort, folder: Path, settings: ImagingSettings = SETTINGS) -> tuple[np.ndarray, np.ndarray]:
    (sample,) = prepare_cohort(cohort, settings, folder)
    return np.array(sample.image), np.array(sample.mask)


def test_the_second_reading_comes_from_the_cache_and_is_equal(
    tmp_path: Path, make_cohort: MakeCohort, made: list[str]
) -> None:
    cohort = make_cohort(label=LABEL)
    first, second = (arrays(cohort, tmp_path / "cache") for _ in range(2))
    assert made == ["P1"]
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    (sample,) = prepare_cohort(cohort, SETTINGS, tmp_path / "cache")
    assert isinstance(sample.image, np.memmap)
    assert not sample.image.flags.writeable


def test_the_spacing_of_the_images_as_read_is_kept(tmp_path: Path, make_cohort: MakeCohort, made: list[str]) -> None:
    cohort = make_cohort(label=LABEL)
    for _ in range(2):
        (sample,) = prepare_cohort(cohort, SETTINGS, tmp_path / "cache")
        for path, known in (
            (cohort.patients[0].pet, sample.pet_spacing_mm),
            (cohort.patients[0].ct, sample.ct_spacing_mm),
        ):
            assert known == tuple(SimpleITK.ReadImage(str(path)).GetSpacing())
    assert made == ["P1"]


@pytest.mark.parametrize(
    "change",
    [
        {"grid": (32, 16, 16)},
        {"spacing_mm": (4, 4, 5)},
        {"pet_suv_max": 25.0},
        {"ct_hu_window": (-200, 250)},
        {"centre": "tumour"},
    ],
)
def test_a_changed_setting_makes_a_new_entry(
    tmp_path: Path, make_cohort: MakeCohort, made: list[str], change: dict[str, Any]
) -> None:
    cohort, other = make_cohort(), replace(SETTINGS, **change)
    arrays(cohort, tmp_path / "cache")
    fresh = arrays(cohort, tmp_path / "elsewhere", other)
    assert all((a == b).all() for a, b in zip(arrays(cohort, tmp_path / "cache", other), fresh, strict=True))
    arrays(cohort, tmp_path / "cache")
    assert len(made) == 3


@pytest.mark.parametrize("kind", ["pet", "ct", "mask"])
def test_a_changed_source_makes_a_new_entry(
    tmp_path: Path, make_cohort: MakeCohort, made: list[str], kind: str
) -> None:
    cohort = make_cohort(label=LABEL)
    before = arrays(cohort, tmp_path / "cache")
    path = getattr(cohort.patients[0], kind)
    changed = ball((16, 16, 16), 6) if kind == "mask" else np.random.default_rng(9).random((16, 16, 16)) * 9
    write_image(path, changed.astype(np.uint8 if kind == "mask" else np.float32), (4, 4, 4))
    os.utime(path, ns=(1, 1))
    after = arrays(cohort, tmp_path / "cache")
    assert len(made) == 2
    assert not all((a == b).all() for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("spoil", ["truncate", "flip", "empty", "remove", "rubbish"])
@pytest.mark.parametrize("suffix", ["image.npy", "mask.npy", "json"])
def test_an_entry_that_is_not_whole_is_made_anew(
    tmp_path: Path, make_cohort: MakeCohort, made: list[str], spoil: str, suffix: str
) -> None:
    cohort = make_cohort(label=LABEL)
    first = arrays(cohort, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob(f"*.{suffix}")
    content = path.read_bytes()
    if spoil == "remove":
        path.unlink()
    else:
        flipped = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
        path.write_bytes({"truncate": content[:-1], "flip": flipped, "empty": b"", "rubbish": b"[" * 200}[spoil])
    second = arrays(cohort, tmp_path / "cache")
    assert len(made) == 2
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    arrays(cohort, tmp_path / "cache")
    assert len(made) == 2


def test_nothing_is_left_beside_the_entry(tmp_path: Path, make_cohort: MakeCohort) -> None:
    arrays(make_cohort(label=LABEL), tmp_path / "cache")
    names = sorted(path.name.split(".", 1)[1] for path in (tmp_path / "cache").iterdir())
    assert names == ["image.npy", "json", "mask.npy"]


def _prepare(cohort: Cohort, folder: Path) -> int:
    return int(sum(sample.image.sum() for sample in prepare_cohort(cohort, SETTINGS, folder)))


def test_two_processes_may_fill_the_cache_at_once(tmp_path: Path, make_cohort: MakeCohort) -> None:
    patients = tuple(make_cohort(f"P{k}", label=LABEL).patients[0] for k in range(6))
    cohort = Cohort("site", tmp_path, make_cohort().layout, patients)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        sums = [future.result() for future in [pool.submit(_prepare, cohort, tmp_path / "cache") for _ in range(2)]]
    assert sums[0] == sums[1] == _prepare(cohort, tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 18
