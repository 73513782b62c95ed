"""What kind of images a run was trained on: mean and spread of a few figures, from sums over whole sites.

A site sends, per figure, the number of its training patients, the sum and the sum of squares, and nothing where they
are fewer than :data:`LEAST_PATIENTS`. The server adds the sites up; the result travels with the model, so that a
prediction can say where a new patient lies outside it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adamss_fl.imaging import ImagingSettings, Sample
from adamss_fl.imaging.figures import LEAST_DIFFERENCE, image_figures, tumour_figures

LEAST_PATIENTS = 5
"""A sum over fewer patients says too much about each of them."""

UNUSUAL_SD = 3.0

Sums = Mapping[str, Sequence[float]]
"""Figure to (patients, sum, sum of squares)."""


@dataclass(frozen=True)
class Range:
    """Mean and standard deviation of one figure over ``patients`` training patients."""

    patients: int
    mean: float
    sd: float


def input_sums(samples: Sequence[Sample], settings: ImagingSettings) -> dict[str, list[float]]:
    """Sums over a site's training patients; a figure that fewer than five of them have is left out."""
    values: dict[str, list[float]] = {}
    if len(samples) < LEAST_PATIENTS:
        return {}
    for sample in samples:
        found = image_figures(np.asarray(sample.image), settings)
        if sample.has_mask:
            found |= tumour_figures(int(np.count_nonzero(sample.mask[0])), settings)
        for name, value in found.items():
            values.setdefault(name, []).append(value)
    return {
        name: [len(known), math.fsum(known), math.fsum(value * value for value in known)]
        for name, known in sorted(values.items())
        if len(known) >= LEAST_PATIENTS
    }


def merge_trained_on(described: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``{"patients": n, "inputs": {figure: [patients, sum, sum of squares]}}`` from the sites' ``describe`` figures.

    A figure that is not one of ours or not three usable numbers is passed over: it only widens what is warned about.
    """
    inputs: dict[str, list[float]] = {}
    for figures in described:
        sums = figures.get("inputs")
        for name, sent in sums.items() if isinstance(sums, Mapping) else ():
            if name in LEAST_DIFFERENCE and _usable(sent):
                before = inputs.get(name, [0, 0.0, 0.0])
                inputs[name] = [a + b for a, b in zip(before, sent, strict=True)]
    patients = sum(figures["patients"]["train"] for figures in described)
    return {"patients": patients, "inputs": dict(sorted(inputs.items()))}


def ranges_of(trained_on: Mapping[str, Any]) -> dict[str, Range]:
    """Mean and sd (of the sample, n - 1) of every figure in what :func:`merge_trained_on` gave."""
    found = {}
    for name, (patients, total, squares) in trained_on.get("inputs", {}).items():
        mean = total / patients
        variance = max(squares - patients * mean * mean, 0.0) / (patients - 1)
        found[name] = Range(int(patients), mean, math.sqrt(variance))
    return found


def unusual(figures: Mapping[str, float], ranges: Mapping[str, Range]) -> list[str]:
    """Names of the figures beyond mean +- 3 sd of the training patients and beyond the least difference that counts."""
    return [
        name
        for name, value in figures.items()
        if name in ranges and abs(value - ranges[name].mean) > max(UNUSUAL_SD * ranges[name].sd, LEAST_DIFFERENCE[name])
    ]


def _usable(sent: Any) -> bool:
    if not isinstance(sent, (list, tuple)) or len(sent) != 3:
        return False
    numbers = all(isinstance(each, (int, float)) and math.isfinite(each) for each in sent)
    return numbers and sent[0] >= LEAST_PATIENTS and sent[2] >= 0
