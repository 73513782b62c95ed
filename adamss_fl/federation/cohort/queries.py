"""A site's answers on its training patients before training: sums for the comparison of sites and for their cohort.

``least`` is the minimum cell count. What an answer tells stands on ``least`` patients or more: a table has no smaller
cell unless it is empty, a mean over fewer is left out, and a covariate that fewer share is not regressed on. A site
with fewer training patients tells their number alone. The number of events is told as ``describe`` tells it.

Answers over other edges can be subtracted from each other. The server's own questions are nested, so that they tell no
more together than the finest does; a hospital that does not trust its server to ask no others forbids the query.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.federation.cohort.cox import risk_sets, stratum
from adamss_fl.federation.messages import SiteFailure
from adamss_fl.federation.outcome.queries import LARGEST_CELL_COUNT
from adamss_fl.federation.statistics.site_summary import SiteSummary, median_follow_up
from adamss_fl.federation.statistics.summaries import table_sums
from adamss_fl.federation.statistics.survival_counts import counts_on_a_level
from adamss_fl.federation.task import Task
from adamss_fl.imaging import ImagingSettings, Sample

COHORT_QUERIES = ("summary", "columns", "survival_counts", "cox", "cox_times")

Array = NDArray[np.float64]


def answer_cohort(query: Mapping[str, Any], samples: Sequence[Sample], task: Task, site: str) -> dict[str, Any]:
    """The answer to one of :data:`COHORT_QUERIES` over the training patients ``samples``.

    ``summary`` : see :func:`_summary`. ``columns`` : ColumnSums of the continuous clinical columns that ``edges``
    names, on its edges. ``survival_counts`` : see :func:`_survival`; ``cox``, ``cox_times`` : see ``cohort.cox``.
    Every answer has ``patients`` and ``least``. Raises InputError for a malformed query, or data that it cannot be
    answered from, and SiteFailure ``unknown_query``.
    """
    least = query.get("least", 1)
    if not isinstance(least, int) or isinstance(least, bool) or not 1 <= least <= LARGEST_CELL_COUNT:
        raise InputError(f"least: must be a whole number of 1 to {LARGEST_CELL_COUNT}")
    name = query.get("query")
    if name not in COHORT_QUERIES:
        raise SiteFailure("unknown_query")
    head = {"patients": len(samples), "least": least}
    if len(samples) < least:
        return head
    if name == "summary":
        return {**head, **_summary(samples, task, site, least)}
    if name == "columns":
        known = [column.name for column in task.tabular.clinical if column.kind == "continuous"]
        columns = {column: _numbers(column, samples) for column in known}
        return {**head, "sums": {n: sums.plain() for n, sums in table_sums(columns, query["edges"], least).items()}}
    if name == "survival_counts":
        return {**head, **_survival(query, samples, least)}
    if name == "cox":
        return {**head, **stratum(query, samples, *_endpoints(samples), least)}
    if name == "cox_times":
        return {**head, **risk_sets(query, samples, *_endpoints(samples), least)}
    raise SiteFailure("unknown_query")


def _summary(samples: Sequence[Sample], task: Task, site: str, least: int) -> dict[str, Any]:
    """``summary`` (SiteSummary), and ``behind``: patients behind its SUV and behind its tumours, 0 where untold."""
    times, events = _endpoints(samples)
    suv, tumours = _suv(samples, task.imaging), _tumours(samples, task.imaging)
    told = {"suv": len(suv), "tumour": len(tumours)}
    told = {name: count if count >= least else 0 for name, count in told.items()}
    mean, spread, p95 = _suv_figures(suv) if told["suv"] else (None, None, None)
    volumes, nodes = tumours[:, 0], tumours[:, 1]
    follow_up = median_follow_up(times, events) if np.sum(events == 0) >= least else None
    summary = SiteSummary(
        site=site,
        patients=len(samples),
        events=int(events.sum()),
        follow_up_days=follow_up,
        **_spacings(samples, least),
        suv_mean=mean,
        suv_sd=spread,
        suv_p95=p95,
        tumour_ml=float(volumes.mean()) if told["tumour"] else None,
        tumour_sd_ml=float(volumes.std(ddof=min(1, volumes.size - 1))) if told["tumour"] else None,
        nodes=float(nodes.mean()) if told["tumour"] else None,
        missing={column.name: _missing_share(column.name, samples, least) for column in task.tabular.clinical},
    )
    return {"summary": summary.plain(), "behind": told}


def _spacings(samples: Sequence[Sample], least: int) -> dict[str, Any]:
    """Mean and sd along x, y and z of the voxel spacing of PET and CT as read; None where too few know it."""
    found: dict[str, Any] = {}
    for name in ("pet_spacing", "ct_spacing"):
        known = np.array([axes for sample in samples if (axes := getattr(sample, f"{name}_mm")) is not None])
        told = len(known) >= max(least, 1)
        mean, sd = (known.mean(axis=0), known.std(axis=0, ddof=min(1, len(known) - 1))) if told else (None, None)
        found[f"{name}_mm"] = None if mean is None else tuple(mean.tolist())
        found[f"{name}_sd_mm"] = None if sd is None else tuple(sd.tolist())
    return found


def _suv(samples: Sequence[Sample], settings: ImagingSettings) -> Array:
    """(n, 3) mean, variance and 95th percentile of the SUV, as clipped by the settings, in the body of each patient."""
    rows = []
    for sample in samples:
        body = np.asarray(sample.image[1]) > 0
        suv = np.asarray(sample.image[0])[body].astype(np.float64) * settings.pet_suv_max
        if suv.size:
            rows.append((suv.mean(), suv.var(), np.percentile(suv, 95)))
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _suv_figures(suv: Array) -> tuple[float, float, float] | tuple[None, None, None]:
    """Mean and spread of voxels, and the mean 95th percentile, every patient counting alike; None where a PET is 0."""
    mean, p95 = float(suv[:, 0].mean()), float(suv[:, 2].mean())
    spread = float(np.sqrt(suv[:, 1].mean() + suv[:, 0].var()))
    return (mean, spread, p95) if min(mean, p95) > 0 else (None, None, None)


def _tumours(samples: Sequence[Sample], settings: ImagingSettings) -> Array:
    """(n, 2) tumour volume in mL and number of nodes (26-connected pieces) of each patient with a mask."""
    from scipy.ndimage import label

    voxel_ml = float(np.prod(settings.spacing_mm)) / 1000.0
    rows = [
        (np.count_nonzero(sample.mask[0]) * voxel_ml, label(np.asarray(sample.mask[1]), np.ones((3, 3, 3)))[1])
        for sample in samples
        if sample.has_mask
    ]
    return np.array(rows, dtype=np.float64).reshape(-1, 2)


def _missing_share(column: str, samples: Sequence[Sample], least: int) -> float:
    """Share of patients without a value: 0 where they are fewer than ``least``, 1 where the others are."""
    values = [sample.clinical.get(column) for sample in samples]
    without = sum(value is None or value != value or (isinstance(value, str) and not value.strip()) for value in values)
    if len(values) - without < least:
        return 1.0
    return without / len(values) if without >= least else 0.0


def _survival(query: Mapping[str, Any], samples: Sequence[Sample], least: int) -> dict[str, Any]:
    """Events and censored patients per cell of a time grid.

    levels : edges in days from 0, from fine to coarse; level : which is asked. ``finest`` in the answer is the first
    level from ``level`` on that ``least`` allows, their number where none is; ``sums`` is there where it is ``level``.
    """
    finest, counts = counts_on_a_level(*_endpoints(samples), query["levels"], int(query["level"]), least)
    return {"finest": finest} | ({} if counts is None else {"sums": counts.plain()})


def _numbers(column: str, samples: Sequence[Sample]) -> Array:
    values = [sample.clinical.get(column) for sample in samples]
    if any(isinstance(value, str) for value in values):
        raise InputError(f"clinical column {column!r}: a value is text; mend it, or make the column categorical")
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _endpoints(samples: Sequence[Sample]) -> tuple[Array, NDArray[np.int64]]:
    return (
        np.array([sample.time_days for sample in samples], dtype=np.float64),
        np.array([sample.event for sample in samples], dtype=np.int64),
    )
