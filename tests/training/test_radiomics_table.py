"""A row of a radiomics table is used again for the same patient, model and settings, and for nothing else."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from synthetic import ONE_THREAD_FP32, make_samples

from adamss_fl.errors import InputError
from adamss_fl.imaging.settings import ImagingSettings
from adamss_fl.model import AdaMSS
from adamss_fl.model.settings import ModelSettings
from adamss_fl.radiomics import RadiomicsSettings
from adamss_fl.radiomics.features import RadiomicsExtraction
from adamss_fl.training.radiomics_table import RadiomicsTable, radiomics_table

IMAGING = ImagingSettings(grid=(16, 16, 16), spacing_mm=(4.0, 4.0, 4.0))
SAMPLES = make_samples(4, seed=0)
COUNTED: list[int] = []


@dataclass(frozen=True)
class Voxels:
    """How many voxels a mask has."""

    def names(self) -> tuple[str, ...]:
        return ("voxels",)

    def __call__(self, suv: Any, hu: Any, mask: Any, spacing_mm: Any) -> dict[str, float]:
        COUNTED.append(int(mask.sum()))
        return {"voxels": float(mask.sum())}


@pytest.fixture
def extraction(monkeypatch: pytest.MonkeyPatch) -> RadiomicsExtraction:
    COUNTED.clear()
    monkeypatch.setattr("adamss_fl.radiomics.features.create", lambda *_: Voxels())
    return RadiomicsExtraction(RadiomicsSettings(extractor="voxels", masks=("tumour",), min_voxels=1), IMAGING)


def network(seed: int = 0) -> AdaMSS:
    torch.manual_seed(seed)
    model = AdaMSS(ModelSettings(width=1, bins=4))
    torch.nn.init.constant_(model.segmentation_head.conv.bias, 1.0)  # so that a mask is found
    return model.eval()


def test_a_second_table_of_the_same_model_looks_at_no_patient(extraction: RadiomicsExtraction, tmp_path: Path) -> None:
    first = radiomics_table(network(), SAMPLES, ONE_THREAD_FP32, extraction)
    assert len(COUNTED) == len(SAMPLES)
    first.save(tmp_path / "table.npz")
    known = RadiomicsTable.load(tmp_path / "table.npz")
    again = radiomics_table(network(), SAMPLES[::-1], ONE_THREAD_FP32, extraction, known)
    assert len(COUNTED) == len(SAMPLES)
    assert again.patients == first.patients[::-1]
    np.testing.assert_array_equal(again.values, first.values[::-1])


def test_another_model_image_or_setting_is_looked_at_anew(extraction: RadiomicsExtraction) -> None:
    known = radiomics_table(network(), SAMPLES, ONE_THREAD_FP32, extraction)
    known = replace(known, values=known.values + 1e6)  # a row of it is known by its value
    changed = replace(SAMPLES[1], image=SAMPLES[1].image + np.float32(1e-3))
    found = radiomics_table(network(), (SAMPLES[0], changed, *SAMPLES[2:]), ONE_THREAD_FP32, extraction, known)
    assert (found.values[:, 0] > 1e6).tolist() == [True, False, True, True]
    other = radiomics_table(network(1), SAMPLES, ONE_THREAD_FP32, extraction, known)
    assert (other.values < 1e6).all()
    bf16 = radiomics_table(network(), SAMPLES, replace(ONE_THREAD_FP32, precision="bf16"), extraction, known)
    assert (bf16.values < 1e6).all()
    larger = replace(extraction, settings=replace(extraction.settings, min_voxels=2))
    assert (radiomics_table(network(), SAMPLES, ONE_THREAD_FP32, larger, known).values < 1e6).all()
    namesake = tuple(replace(sample, site="elsewhere") for sample in SAMPLES)
    assert (radiomics_table(network(), namesake, ONE_THREAD_FP32, extraction, known).values < 1e6).all()


def test_a_torn_table_is_refused(extraction: RadiomicsExtraction, tmp_path: Path) -> None:
    path = tmp_path / "table.npz"
    radiomics_table(network(), SAMPLES, ONE_THREAD_FP32, extraction).save(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="holds no radiomics features"):
        RadiomicsTable.load(path)
