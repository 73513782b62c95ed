"""Overlap counts and DSC against brute force and their closed forms, empty masks included."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adamss_fl.errors import InputError
from adamss_fl.segmentation import NothingToOverlap, OverlapCounts, aggregated_dsc, dsc, overlap


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**27 - 1), st.integers(0, 2**27 - 1))
def test_counts_equal_sets_of_voxels(a, b):
    volumes = [np.array([(bits >> k) & 1 for k in range(27)], dtype=bool).reshape(3, 3, 3) for bits in (a, b)]
    first, second = ({k for k in range(27) if (bits >> k) & 1} for bits in (a, b))
    counts = overlap(*volumes)
    assert counts.array.tolist() == [len(first & second), len(first), len(second)]
    expected = 2 * len(first & second) / (len(first) + len(second)) if first or second else 1.0
    assert dsc(counts) == pytest.approx(expected)


def test_maps_and_patients_are_counted_apart_for_tensors_too():
    g = torch.Generator().manual_seed(0)
    predicted, reference = (torch.rand(4, 2, 5, 5, 5, generator=g) < 0.4 for _ in range(2))
    counts = overlap(predicted, reference)
    assert counts.array.shape == (4, 2, 3)
    assert counts.array.dtype == np.int64
    assert counts.array[2, 1].tolist() == overlap(predicted[2, 1].numpy(), reference[2, 1].numpy()).array.tolist()
    assert dsc(counts)[2, 1] == dsc(counts.array[2, 1])


@pytest.mark.parametrize(
    ("counts", "value"), [((0, 0, 0), 1.0), ((0, 5, 0), 0.0), ((0, 0, 5), 0.0), ((5, 5, 5), 1.0), ((2, 4, 4), 0.5)]
)
def test_dsc_of_empty_and_full_masks_is_as_documented(counts, value):
    assert dsc(counts) == value


def test_aggregated_dsc_is_that_of_the_union_of_all_patients():
    counts = np.array([[10, 20, 15], [0, 0, 0], [0, 7, 0], [3, 3, 9]])
    assert aggregated_dsc(counts) == pytest.approx(2 * 13 / (30 + 24))
    one_volume = overlap(*(np.random.default_rng(k).random((9, 9, 9)) < 0.3 for k in (0, 1)))
    assert aggregated_dsc(one_volume) == dsc(one_volume)


def test_a_cohort_with_nothing_to_overlap_is_a_named_exception():
    with pytest.raises(NothingToOverlap):
        aggregated_dsc(np.zeros((4, 3), dtype=int))


def test_counts_add_up():
    a, b = OverlapCounts.from_array([[1, 2, 3]]), OverlapCounts.from_array([[4, 5, 6]])
    assert (a + b).array.tolist() == [[5, 7, 9]]


def test_shapes_that_differ_are_refused():
    with pytest.raises(InputError, match="D, H, W"):
        overlap(np.zeros((2, 2, 2)), np.zeros((2, 2, 3)))
    with pytest.raises(InputError, match="intersection, predicted, reference"):
        dsc([1, 2])
