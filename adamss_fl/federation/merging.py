"""Sites' evaluation figures to those of all their patients: sums of counts, means weighted by patients."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from adamss_fl.segmentation import MaskSums, NothingToOverlap, aggregated_dsc
from adamss_fl.survival import Concordance

MAPS = ("tumour", "nodes")


def merge_evaluations(figures: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One set of figures from the sites' own (see ``Site.evaluate``); sites without patients in the split are left out.

    Returns ``patients``, ``events``, ``c_index`` (over the pairs *inside* the sites, None where there is no comparable
    pair), ``comparable_pairs``, ``dsc`` per map (aggregated over patients, None where neither reference nor prediction
    holds a voxel), ``gate_opening`` and mean losses, where sites tell it ``masks_by_patient`` (mean DSC and HD95 over
    patients, per map), and the same per site under ``sites``.
    """
    present = {site: values for site, values in sorted(figures.items()) if values["patients"]}
    if not present:
        return {"patients": 0}
    merged = _figures(list(present.values()))
    merged["sites"] = {site: _figures([values]) for site, values in present.items()}
    return merged


def _figures(values: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counts = Concordance()
    for value in values:
        counts = counts + Concordance(**value["concordance"])
    overlap = np.sum([value["overlap"] for value in values], axis=0)
    by_patient = [value for value in values if "by_patient" in value]
    merged: dict[str, Any] = {
        "patients": sum(value["patients"] for value in values),
        "events": sum(value["events"] for value in values),
        "c_index": counts.c_index if counts.comparable_pairs else None,
        "comparable_pairs": counts.comparable_pairs,
        "dsc": {name: dsc_or_none(overlap[index]) for index, name in enumerate(MAPS)},
        "gate_opening": mean_opening(values),
    }
    if by_patient:
        merged["masks_by_patient"] = {
            name: reduce(add, [MaskSums.from_plain(v["by_patient"][index], v["masked"]) for v in by_patient]).means()
            for index, name in enumerate(MAPS)
        }
    for name, weight in (("loss.segmentation", "masked"), ("loss.survival", "patients")):
        known = [value for value in values if name in value]
        if known:
            total = sum(value[weight] for value in known)
            merged[name] = sum(value[name] * value[weight] for value in known) / total
    return merged


def mean_opening(values: Sequence[Mapping[str, Any]]) -> list[float]:
    """Gate opening per level, the mean over the sites' patients."""
    total = sum(value["patients"] for value in values)
    weighted = [np.asarray(value["gate_opening"], dtype=np.float64) * (value["patients"] / total) for value in values]
    return [float(level) for level in np.sum(weighted, axis=0)]


def dsc_or_none(counts: ArrayLike) -> float | None:
    """Aggregated DSC of summed (intersection, predicted, reference) voxels; None where there is none at all."""
    try:
        return aggregated_dsc(np.asarray(counts, dtype=np.int64)[None])
    except NothingToOverlap:
        return None
