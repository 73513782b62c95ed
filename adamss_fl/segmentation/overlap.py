"""Overlap of predicted and reference masks: voxel counts, DSC per patient and aggregated DSC."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from adamss_fl.errors import InputError


class NothingToOverlap(InputError):
    """No voxel in any reference or prediction of a cohort, so that its aggregated DSC is 0/0."""


@dataclass(frozen=True)
class OverlapCounts:
    """Voxel counts, int64 arrays of one shape: () for a mask, (M,) for a patient's maps, (N, M) for a cohort's.

    ``a + b`` adds them up, ``array`` is the same as one array (..., 3), and ``OverlapCounts.from_array`` goes back.
    """

    intersection: NDArray[np.int64]
    predicted: NDArray[np.int64]
    reference: NDArray[np.int64]

    @classmethod
    def from_array(cls, counts: ArrayLike) -> OverlapCounts:
        """Counts from an integer array (..., 3): intersection, predicted, reference. Raises InputError for others."""
        array = np.asarray(counts, dtype=np.int64)
        if array.ndim == 0 or array.shape[-1] != 3:
            raise InputError(
                f"overlap counts of shape {array.shape}: give (..., 3) as intersection, predicted, reference"
            )
        return cls(array[..., 0], array[..., 1], array[..., 2])

    @property
    def array(self) -> NDArray[np.int64]:
        """(..., 3) int64."""
        return np.stack([self.intersection, self.predicted, self.reference], axis=-1)

    def __add__(self, other: OverlapCounts) -> OverlapCounts:
        return OverlapCounts.from_array(self.array + other.array)


def overlap(predicted: ArrayLike | Tensor, reference: ArrayLike | Tensor) -> OverlapCounts:
    """Counts of two binary volumes (..., D, H, W), arrays or tensors: the leading axes (maps, patients) are kept.

    Raises InputError where the shapes differ or are no volumes.
    """
    a, b = _to_bool(predicted), _to_bool(reference)
    if a.shape != b.shape or a.ndim < 3:
        raise InputError(f"overlap: predicted {a.shape} and reference {b.shape} must both be (..., D, H, W)")

    def count(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.asarray(mask.sum(axis=(-3, -2, -1), dtype=np.int64))

    return OverlapCounts(intersection=count(a & b), predicted=count(a), reference=count(b))


def dsc(counts: OverlapCounts | ArrayLike) -> NDArray[np.float64] | float:
    """Dice similarity 2 |A and B| / (|A| + |B|) of each mask; 1 where both are empty: nothing there and nothing found.

    counts : OverlapCounts, or integers (..., 3). Returns a float for one mask, else an array of the leading shape.
    """
    c = counts if isinstance(counts, OverlapCounts) else OverlapCounts.from_array(counts)
    total = np.asarray(c.predicted + c.reference, dtype=np.float64)
    value = np.where(total > 0, 2.0 * c.intersection / np.maximum(total, 1.0), 1.0)
    return float(value) if value.ndim == 0 else value


def aggregated_dsc(counts: OverlapCounts | ArrayLike) -> float:
    """HECKTOR's DSCagg of one map over a cohort: 2 * sum |A and B| / sum (|A| + |B|), sums over all patients given.

    counts : OverlapCounts of shape (N,), or integers (N, 3), of *one* map.
    Raises NothingToOverlap where neither a reference nor a prediction holds a voxel.
    Source: Andrearczyk et al., "Overview of the HECKTOR challenge at MICCAI 2022" (2023).
    """
    c = counts if isinstance(counts, OverlapCounts) else OverlapCounts.from_array(counts)
    total = int(c.predicted.sum() + c.reference.sum())
    if total == 0:
        raise NothingToOverlap("aggregated DSC: no voxel in any reference or prediction; evaluate contoured patients")
    return float(2 * c.intersection.sum() / total)


def _to_bool(mask: ArrayLike | Tensor) -> NDArray[np.bool_]:
    if isinstance(mask, Tensor):
        mask = mask.detach().to("cpu").numpy()
    return np.asarray(mask).astype(bool)
