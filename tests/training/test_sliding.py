"""Sliding windows: the plain forward pass for one window, a weighted mean for many, in bounded memory."""

import itertools
import tracemalloc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import ONE_THREAD_FP32
from torch import Tensor

from adamss_fl.model import AdaMSS, ModelSettings
from adamss_fl.training.sliding import sliding_window


def logits_of(value: float) -> Any:
    """A model whose probability is ``value`` everywhere."""
    logit = float(np.log(value / (1 - value)))
    return lambda pet, ct, heads: SimpleNamespace(segmentation=torch.full((1, 2, *pet.shape[2:]), logit))


def by_voxel(pet: Tensor, ct: Tensor, heads: Any) -> Any:
    """A model that looks at each voxel alone, so that windows cannot disagree."""
    assert heads == ("segmentation",)
    return SimpleNamespace(segmentation=torch.cat([3 * pet - 1, 2 * ct + pet], 1))


def by_window(pet: Tensor, ct: Tensor, heads: Any) -> Any:
    """A model whose answer depends on where a voxel lies in its window and on the window's mean."""
    ramp = torch.linspace(-1, 1, pet[0, 0].numel()).reshape(pet.shape)
    return SimpleNamespace(segmentation=torch.cat([ramp + pet.mean(), ct - ramp], 1))


def volume(*sides: int) -> np.ndarray:
    return np.random.default_rng(sum(sides)).random((2, *sides), dtype=np.float32)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_a_volume_of_one_window_is_the_plain_forward_pass(norm: Any) -> None:
    torch.manual_seed(0)
    model = AdaMSS(ModelSettings(width=1, norm=norm, bins=2)).eval()
    image = volume(32, 32, 32)
    found = sliding_window(model, image, (32, 32, 32), ONE_THREAD_FP32)
    with torch.inference_mode():
        pet, ct = torch.from_numpy(image[:1])[None], torch.from_numpy(image[1:])[None]
        expected = torch.sigmoid(model(pet, ct).segmentation)[0].numpy()
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=30, deadline=None)
@given(sides=st.tuples(*[st.integers(1, 45)] * 3), overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]))
def test_a_constant_model_gives_its_constant_everywhere(sides: tuple[int, int, int], overlap: float) -> None:
    found = sliding_window(logits_of(0.7), volume(*sides), (16, 16, 16), ONE_THREAD_FP32, overlap=overlap)
    assert found.shape == (2, *sides)
    np.testing.assert_allclose(found, 0.7, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(sides=st.tuples(*[st.integers(1, 40)] * 3))
def test_a_model_of_single_voxels_gives_the_same_in_windows_as_at_once(sides: tuple[int, int, int]) -> None:
    image = volume(*sides)
    expected = 1 / (1 + np.exp(-np.stack([3 * image[0] - 1, 2 * image[1] + image[0]])))
    found = sliding_window(by_voxel, image, (16, 32, 16), ONE_THREAD_FP32)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("sides", [(40, 16, 25), (16, 33, 48), (10, 50, 16)])
def test_windows_are_joined_as_a_full_sum_of_gaussian_weights_says(sides: tuple[int, int, int]) -> None:
    """Against dense float64 sums of windows and weights on a padded volume."""
    image, window, overlap = volume(*sides), 16, 0.5
    pad = [max(window - side, 0) for side in sides]
    padded = np.pad(image, [(0, 0), *((p // 2, p - p // 2) for p in pad)])
    place = (np.arange(window) - 7.5) / (window / 8)
    squared = place[:, None, None] ** 2 + place[:, None] ** 2 + place**2
    weight = np.exp(-squared / 2)
    total, weights = np.zeros(padded.shape), np.zeros(padded.shape[1:])
    axes = []
    for side in padded.shape[1:]:
        count = int(np.ceil((side - window) / (window * (1 - overlap)))) + 1
        axes.append(np.unique(np.round(np.linspace(0, side - window, count)).astype(int)))
    for z, y, x in itertools.product(*axes):
        at = (slice(z, z + window), slice(y, y + window), slice(x, x + window))
        block = torch.from_numpy(padded[(slice(None), *at)])[None]
        logits = by_window(block[:, :1], block[:, 1:], None).segmentation[0].double().numpy()
        total[(slice(None), *at)] += weight / (1 + np.exp(-logits))
        weights[at] += weight
    inner = (slice(None), *(slice(p // 2, p // 2 + side) for p, side in zip(pad, sides, strict=True)))
    found = sliding_window(by_window, image, (window,) * 3, ONE_THREAD_FP32, overlap=overlap)
    np.testing.assert_allclose(found, (total / weights)[inner], rtol=1e-4)


def test_memory_is_one_array_of_the_results_size(tmp_path: Any) -> None:
    """The volume is memory-mapped, so that what is traced is what the function itself holds."""
    np.save(tmp_path / "volume.npy", np.zeros((2, 112, 112, 112), np.float32))
    image = np.load(tmp_path / "volume.npy", mmap_mode="r")
    small = np.zeros((2, 16, 16, 16), np.float32)
    sliding_window(by_voxel, small, (16, 16, 16), ONE_THREAD_FP32)
    tracemalloc.start()
    found = sliding_window(by_voxel, image, (16, 16, 16), ONE_THREAD_FP32, overlap=0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.nbytes <= peak < 1.1 * found.nbytes


@pytest.mark.parametrize(("shape", "overlap"), [((1, 16, 16, 16), 0.5), ((2, 16, 16), 0.5), ((2, 16, 16, 16), 1.0)])
def test_what_is_no_volume_or_no_overlap_is_refused(shape: tuple[int, ...], overlap: float) -> None:
    with pytest.raises(ValueError, match="must"):
        sliding_window(by_voxel, np.zeros(shape, np.float32), (16, 16, 16), ONE_THREAD_FP32, overlap=overlap)
