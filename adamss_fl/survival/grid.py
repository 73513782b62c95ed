"""The time grid: bins of follow-up time, their targets, and what a prediction on them means in days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from adamss_fl.errors import InputError
from adamss_fl.survival.endpoints import check_endpoints


@dataclass(frozen=True)
class TimeGrid:
    """K consecutive bins [edge_k, edge_k+1) of days since the start of follow-up.

    edges_days : K + 1 finite, strictly increasing days, the first of them 0. Edges travel with a model.

    Raises InputError where the edges are not that.
    """

    edges_days: tuple[float, ...]

    def __post_init__(self) -> None:
        edges = np.asarray(self.edges_days, dtype=np.float64)
        if edges.ndim != 1 or edges.size < 2:
            raise InputError("time grid: fewer than two edges; give K + 1 edges in days for K bins")
        if not np.isfinite(edges).all() or edges[0] != 0 or (np.diff(edges) <= 0).any():
            raise InputError(f"time grid: edges {_brief(edges)} must start at 0 and increase strictly; mend the edges")
        object.__setattr__(self, "edges_days", tuple(float(edge) for edge in edges))

    @classmethod
    def from_quantiles(cls, times_days: ArrayLike, bins: int) -> TimeGrid:
        """Inner edges at the 1/K, ..., (K-1)/K quantiles of ``times_days``, the times (N,) of the *events*.

        The last edge is the first whole day after the last event, so that every event lies inside a bin.
        Raises InputError where there are too few distinct times to tell ``bins`` bins apart.
        """
        times = np.asarray(times_days, dtype=np.float64).reshape(-1)
        check_endpoints(times, np.ones(times.shape))
        if times.size == 0:
            raise InputError("time grid: no events to place the edges by; use patients with events, or give edges")
        inner = np.quantile(times, np.arange(1, bins) / bins) if bins > 1 else np.empty(0)
        return cls._strict([0.0, *inner, np.floor(times.max()) + 1.0], bins)

    @classmethod
    def from_counts(cls, counts: ArrayLike, count_edges_days: ArrayLike, bins: int) -> TimeGrid:
        """Edges at quantiles of event times that are known only as a histogram, so that sites may share sums alone.

        counts : (M,) events per cell, summed over sites; count_edges_days : (M + 1,) edges of the cells, increasing.
        Events are taken to be spread evenly inside a cell; the last edge is the upper edge of the last cell that holds
        an event. Raises InputError for a malformed histogram, one without events, or where fewer than ``bins`` bins
        can be told apart.
        """
        count = np.asarray(counts, dtype=np.float64)
        cell_edges = np.asarray(count_edges_days, dtype=np.float64)
        if count.ndim != 1 or cell_edges.shape != (count.size + 1,):
            raise InputError(
                f"time grid: {count.size} counts need {count.size + 1} cell edges, got {cell_edges.size}; mend either"
            )
        if not np.isfinite(count).all() or (count < 0).any():
            raise InputError("time grid: a count of events is negative or not finite; send counts of 0 or more")
        if not np.isfinite(cell_edges).all() or cell_edges[0] < 0 or (np.diff(cell_edges) <= 0).any():
            raise InputError("time grid: histogram edges must start at 0 or later and increase strictly; mend them")
        filled = np.flatnonzero(count)
        if filled.size == 0:
            raise InputError("time grid: no events in the histogram; use patients with events, or give edges")
        reached = np.cumsum(count[filled])
        wanted = reached[-1] * np.arange(1, bins) / bins
        place = np.searchsorted(reached, wanted, side="left")
        cell = filled[place]
        share = 1.0 - (reached[place] - wanted) / count[cell]
        inner = cell_edges[cell] + share * (cell_edges[cell + 1] - cell_edges[cell])
        return cls._strict([0.0, *inner, cell_edges[filled[-1] + 1]], bins)

    @classmethod
    def _strict(cls, edges: Sequence[float], bins: int) -> TimeGrid:
        if bins < 1:
            raise InputError(f"time grid: {bins} bins asked for; ask for at least 1")
        distinct = np.unique(np.asarray(edges, dtype=np.float64))
        if distinct.size < bins + 1:
            raise InputError(
                f"time grid: event times give only {distinct.size - 1} distinct bins where {bins} are asked for; "
                "lower the number of bins or give edges"
            )
        return cls(tuple(float(edge) for edge in edges))

    @property
    def bins(self) -> int:
        """K."""
        return len(self.edges_days) - 1

    @property
    def widths(self) -> NDArray[np.float64]:
        """(K,) days."""
        return np.diff(np.asarray(self.edges_days, dtype=np.float64))

    def targets(self, time_days: ArrayLike | Tensor, event: ArrayLike | Tensor) -> tuple[Tensor, Tensor]:
        """What is known about each patient in each bin.

        time_days : (N,) days of follow-up, 0 or more; event : (N,) 1 where the event was seen, 0 where censored.
        Returns ``survived`` and ``had_event``, both (N, K) float32 of 0 and 1. With an event at t, the bins whose upper
        edge is at or before t are survived and the bin that holds t has the event; censored at t, the bins whose
        midpoint is at or before t are survived; past the last edge all are survived.
        Raises InputError for a negative or non-finite time, an event that is not 0 or 1, or unequal lengths.
        """
        times, events = check_endpoints(time_days, event)
        edges = np.asarray(self.edges_days, dtype=np.float64)
        lower, upper = edges[:-1], edges[1:]
        t, seen = times[:, None], events[:, None]
        survived = np.where(seen, t >= upper, t >= (lower + upper) / 2)
        had_event = seen & (t >= lower) & (t < upper)
        return torch.from_numpy(survived.astype(np.float32)), torch.from_numpy(had_event.astype(np.float32))

    def survival_curve(self, logits: Tensor) -> Tensor:
        """Probability (N, K) of being event-free at each bin's upper edge: the running product of p_j, from logits."""
        self._check(logits)
        return torch.cumsum(torch.nn.functional.logsigmoid(_at_least_fp32(logits)), dim=-1).exp()

    def restricted_mean_days(self, logits: Tensor) -> Tensor:
        """Restricted mean survival time (N,) in days: sum_k (prod_{j<=k} p_j) * width_k."""
        curve = self.survival_curve(logits)
        return curve @ torch.as_tensor(self.widths, dtype=curve.dtype, device=curve.device)

    def _check(self, logits: Tensor) -> None:
        if logits.shape[-1] != self.bins:
            raise InputError(
                f"time grid: {logits.shape[-1]} logits for {self.bins} bins; build the model with bins={self.bins}"
            )


def _at_least_fp32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _brief(edges: NDArray[np.float64]) -> str:
    shown = ", ".join(f"{edge:g}" for edge in edges[:12])
    return f"({shown}{', ...' if edges.size > 12 else ''})"
