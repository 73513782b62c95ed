"""A site's prepared patients, and the counts of them that it may tell."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from adamss_fl.imaging import Sample
from adamss_fl.training.settings import StagesSettings
from adamss_fl.training.stage import drawn_in


@dataclass(frozen=True)
class SiteData:
    """A site's prepared patients, by split."""

    train: tuple[Sample, ...]
    validation: tuple[Sample, ...] = ()
    test: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class SiteCounts:
    """Patients and events per split."""

    patients: dict[str, int]
    events: dict[str, int]

    @classmethod
    def of(cls, data: SiteData) -> SiteCounts:
        """Count ``data``."""
        splits = {"train": data.train, "validation": data.validation, "test": data.test}
        return cls(
            {name: len(samples) for name, samples in splits.items()},
            {name: sum(sample.event for sample in samples) for name, samples in splits.items()},
        )


def event_counts(samples: Sequence[Sample], edges_days: Sequence[float]) -> dict[str, Any]:
    """``counts``: events of ``samples`` per cell [edge_i, edge_i+1), later ones in the last; and ``patients``."""
    edges = np.asarray(edges_days, dtype=np.float64)
    times = np.array([sample.time_days for sample in samples if sample.event], dtype=np.float64)
    cells = np.clip(np.searchsorted(edges, times, side="right") - 1, 0, len(edges) - 2)
    return {"counts": np.bincount(cells, minlength=len(edges) - 1).tolist(), "patients": len(samples)}


def masks_problem(samples: Sequence[Sample], stages: Collection[str], settings: StagesSettings) -> str | None:
    """Why ``samples``, a site's training patients, cannot train the ``stages`` of a round for want of masks, if so."""
    size, masked = settings.segmentation.batch_size, len(drawn_in("segmentation", samples))
    if "segmentation" not in stages or masked >= size:
        return None
    smaller = f"set stages.segmentation.batch_size to {masked} or less (it is {size}), " if masked else ""
    return (
        f"stage I trains on patients with a mask, and {masked} of {len(samples)} training patients have one, fewer "
        f"than a batch; {smaller}add masks, or take part in stage II only"
    )
