"""A model applied to a list of samples, without training."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from adamss_fl.imaging import Sample
from adamss_fl.model import AdaMSS, autocast
from adamss_fl.segmentation import dice_focal_loss, surface_distance_95
from adamss_fl.survival import TimeGrid, discrete_likelihood
from adamss_fl.training.settings import RuntimeSettings
from adamss_fl.training.stage import as_inputs
from adamss_fl.training.tensors import Batch, as_batch, device_of

MOST_VOXELS = 8 * 96**3
"""Voxels of one batch: two to three GiB of activations in the published network, one patient at 160^3."""


@dataclass(frozen=True)
class Inference:
    """Outputs over N samples, in their order.

    survival_logits : (N, K) float64, logit of the conditional probability of surviving each bin.
    overlap : (N, 2, 3) int64, voxels in intersection, prediction and reference, for tumour and nodes.
    masks : (N, 2, D, H, W) bool predicted masks where asked for, else None.
    surface_mm : (N, 2) surface distance (HD95) to the reference, NaN where there is none; None where not asked for.
    gate_opening : (5,) mean weight of the early-fusion stream per level.
    loss_segmentation, loss_survival : means over samples; None where there is no mask or no time grid.
    """

    survival_logits: NDArray[Any]
    overlap: NDArray[Any]
    masks: NDArray[Any] | None
    surface_mm: NDArray[Any] | None
    gate_opening: tuple[float, ...]
    loss_segmentation: float | None
    loss_survival: float | None


@torch.inference_mode()
def infer(
    model: AdaMSS,
    samples: Sequence[Sample],
    runtime: RuntimeSettings,
    *,
    grid: TimeGrid | None = None,
    keep_masks: bool = False,
    spacing_mm: Sequence[float] | None = None,
    batch_size: int = 8,
    on_batch: Callable[[int, int], None] | None = None,
) -> Inference:
    """Both heads on every sample, in evaluation mode. Raises ValueError where ``samples`` is empty.

    spacing_mm : voxel size along D, H and W, where surface distances are asked for.
    batch_size : samples at once, at most; fewer where they are large (see ``MOST_VOXELS``).
    """
    if not samples:
        raise ValueError("there is no sample to apply the model to")
    device = device_of(runtime)
    batch_size = _batch_size(samples, batch_size)
    model.eval()
    logits, overlaps, masks, opening = [], [], [], torch.zeros(5, dtype=torch.float64)
    surfaces: list[NDArray[Any]] = []
    segmentation_sum = survival_sum = 0.0
    with_mask = 0
    for start in range(0, len(samples), batch_size):
        part = samples[start : start + batch_size]
        batch = as_batch(part, device)
        with autocast(device, runtime.precision):
            output = model(*as_inputs(batch.image, runtime), batch.tabular)
        predicted = output.segmentation > 0.0
        overlaps.append(_overlap(predicted, batch))
        logits.append(output.survival.double().cpu().numpy())
        if keep_masks:
            masks.append(predicted.cpu().numpy())
        if spacing_mm is not None:
            surfaces.append(_surfaces(predicted, batch, spacing_mm))
        opening += output.gate_opening.to("cpu", torch.float64) * len(part)
        known = int(batch.has_mask.sum())
        if known:
            chosen = batch.has_mask
            loss = dice_focal_loss(output.segmentation[chosen], batch.mask[chosen], None)
            segmentation_sum += float(loss) * known
            with_mask += known
        if grid is not None:
            targets = grid.targets(batch.time_days, batch.event)
            survival_sum += float(discrete_likelihood(output.survival, *targets)) * len(part)
        if on_batch is not None:
            on_batch(min(start + batch_size, len(samples)), len(samples))
    return Inference(
        survival_logits=np.concatenate(logits),
        overlap=np.concatenate(overlaps).astype(np.int64),
        masks=np.concatenate(masks) if keep_masks else None,
        surface_mm=np.concatenate(surfaces) if surfaces else None,
        gate_opening=tuple(float(value) for value in opening / len(samples)),
        loss_segmentation=segmentation_sum / with_mask if with_mask else None,
        loss_survival=survival_sum / len(samples) if grid is not None else None,
    )


@torch.inference_mode()
def ensemble_overlap(
    models: Sequence[AdaMSS],
    samples: Sequence[Sample],
    runtime: RuntimeSettings,
    batch_size: int = 8,
    on_batch: Callable[[int, int], None] | None = None,
) -> NDArray[Any]:
    """Overlap (N, 2, 3) int64 of the masks where the mean of all models' probabilities is above 0.5.

    As ``Inference.overlap``, and as ``predict`` forms an ensemble's masks. The models are on the device of ``runtime``.
    Raises ValueError where ``samples`` or ``models`` is empty.
    """
    if not samples or not models:
        raise ValueError("there is no sample, or no model, to apply")
    device, overlaps = device_of(runtime), []
    batch_size = _batch_size(samples, batch_size)
    for start in range(0, len(samples), batch_size):
        batch = as_batch(samples[start : start + batch_size], device)
        total: Tensor | None = None
        for model in models:
            model.eval()
            with autocast(device, runtime.precision):
                logits = model(*as_inputs(batch.image, runtime), heads=("segmentation",)).segmentation
            probability = torch.sigmoid(logits.float())
            total = probability if total is None else total + probability
        assert total is not None
        overlaps.append(_overlap(total / len(models) > 0.5, batch))
        if on_batch is not None:
            on_batch(min(start + batch_size, len(samples)), len(samples))
    return np.concatenate(overlaps).astype(np.int64)


def _batch_size(samples: Sequence[Sample], asked: int) -> int:
    return max(1, min(asked, MOST_VOXELS // math.prod(samples[0].image.shape[1:])))


def _surfaces(predicted: Tensor, batch: Batch, spacing_mm: Sequence[float]) -> NDArray[Any]:
    """(B, 2) surface distances in mm, NaN where either mask is empty or the patient has none."""
    found = np.full(predicted.shape[:2], np.nan)
    masks, references = predicted.cpu().numpy(), (batch.mask > 0.5).cpu().numpy()
    for patient, each in np.argwhere(batch.has_mask.cpu().numpy()[:, None] & np.ones((1, 2), dtype=bool)):
        distance = surface_distance_95(masks[patient, each], references[patient, each], spacing_mm)
        found[patient, each] = np.nan if distance is None else distance
    return found


def _overlap(predicted: Tensor, batch: Batch) -> NDArray[Any]:
    """(B, 2, 3) voxels in intersection, prediction and reference, of bool masks (B, 2, D, H, W)."""
    reference = batch.mask > 0.5
    counts = [(predicted & reference), predicted, reference]
    return torch.stack([count.flatten(2).sum(2) for count in counts], dim=2).cpu().numpy()
