"""A site's events and censored patients per cell of a common time grid: what curves and log-rank tests are made from.

Cells are (edge, next edge], and everyone whose time lies in one is counted at its end; time 0 is a cell of its own. At
one end events come before the censored. So all that follows from the counts is exact for times rounded up to the
cell's end, and for the times themselves where each of them is an edge. Patients past the last edge are at risk on the
whole grid and neither have an event nor are censored there.

What a site's counts tell: for each group and cell how many patients had their event and how many left. A cell with one
patient gives that patient's follow-up to within the cell, and whether it ended with the event; a grid of all distinct
times gives every patient's. Names and covariates are not in them, but groups are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.survival.endpoints import check_endpoints, to_float64
from adamss_fl.survival.grid import TimeGrid

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class SurvivalCounts:
    """Patients of G groups on a grid of K + 1 edges in days, the first of them 0; ``+`` adds sites.

    events, censored : (G, K + 1) patients whose event, or whose censoring, lies in the cell that ends at each edge.
    beyond : (G,) patients followed past the last edge.
    """

    edges_days: tuple[float, ...]
    events: Counts
    censored: Counts
    beyond: Counts

    @property
    def patients(self) -> int:
        """All patients of all groups."""
        return int(self.events.sum() + self.censored.sum() + self.beyond.sum())

    @property
    def fewest_in_a_cell(self) -> int:
        """The smallest count that is not 0; all patients where there is none."""
        cells = np.concatenate([self.events.ravel(), self.censored.ravel(), self.beyond])
        return int(cells[cells > 0].min(initial=self.patients))

    @property
    def at_risk(self) -> Counts:
        """(G, K + 1) patients followed up to the cell's end, those who leave there included."""
        leaving = self.events + self.censored
        return np.cumsum(leaving[:, ::-1], axis=1)[:, ::-1] + self.beyond[:, None]

    def together(self) -> "SurvivalCounts":
        """All groups as one."""
        return SurvivalCounts(
            self.edges_days,
            self.events.sum(axis=0, keepdims=True),
            self.censored.sum(axis=0, keepdims=True),
            self.beyond.sum(axis=0, keepdims=True),
        )

    def of_group(self, group: int) -> "SurvivalCounts":
        """One group alone; raises InputError where there is no such group."""
        if not 0 <= group < self.beyond.size:
            raise InputError(f"survival counts: no group {group}; groups are 0 to {self.beyond.size - 1}")
        rows = slice(group, group + 1)
        return SurvivalCounts(self.edges_days, self.events[rows], self.censored[rows], self.beyond[rows])

    def __add__(self, other: "SurvivalCounts") -> "SurvivalCounts":
        if self.edges_days != other.edges_days or self.beyond.shape != other.beyond.shape:
            raise InputError(
                f"survival counts: {self.beyond.size} groups on {len(self.edges_days)} edges and {other.beyond.size} "
                f"on {len(other.edges_days)} cannot be added; ask every site for the same groups and edges"
            )
        return SurvivalCounts(
            self.edges_days,
            self.events + other.events,
            self.censored + other.censored,
            self.beyond + other.beyond,
        )

    def plain(self) -> dict[str, Any]:
        """JSON-able lists."""
        return {
            "edges_days": list(self.edges_days),
            "events": self.events.tolist(),
            "censored": self.censored.tolist(),
            "beyond": self.beyond.tolist(),
        }

    @classmethod
    def from_plain(cls, given: Any, edges_days: ArrayLike, groups: int, patients: int) -> "SurvivalCounts":
        """The inverse of ``plain`` for the edges and groups that were asked, of a site of at most ``patients``.

        Raises InputError for other keys, edges or shapes, or counts that no such site can have.
        """
        found = plain.record(given, ("edges_days", "events", "censored", "beyond"), "survival counts")
        edges = TimeGrid(tuple(to_float64(edges_days))).edges_days
        if tuple(plain.floats(found["edges_days"], (None,), "survival counts: edges_days")) != edges:
            raise InputError("survival counts: on other edges than were asked; ask the site again")
        cells = (groups, len(edges))
        events = limited_counts(found["events"], cells, patients, "survival counts: events")
        censored = limited_counts(found["censored"], cells, patients, "survival counts: censored")
        beyond = limited_counts(found["beyond"], (groups,), patients, "survival counts: beyond")
        counts = cls(edges, events, censored, beyond)
        if counts.patients > patients:
            raise InputError(f"survival counts: of {counts.patients} patients where the site has {patients}")
        return counts


def survival_counts(
    time_days: ArrayLike | Tensor,
    event: ArrayLike | Tensor,
    edges_days: ArrayLike,
    group: ArrayLike | None = None,
    groups: int = 1,
) -> SurvivalCounts:
    """A site's counts.

    time_days, event : (N,); edges_days : (K + 1,) increasing, from 0; group : (N,) whole numbers from 0 to
    ``groups`` - 1, all 0 where None. A site without patients counts 0. Raises InputError for malformed arrays.
    """
    times, events = check_endpoints(time_days, event)
    edges = TimeGrid(tuple(to_float64(edges_days))).edges_days
    label = np.zeros(times.size) if group is None else to_float64(group)
    if label.shape != times.shape or not np.isin(label, np.arange(groups)).all():
        raise InputError(
            f"survival counts: groups {label.shape} for {times.size} patients must be one whole number each, from 0 to "
            f"{groups - 1}; mend them"
        )
    cell = np.searchsorted(edges, times, side="left")
    inside = cell < len(edges)

    def per_cell(chosen: NDArray[np.bool_]) -> Counts:
        table = np.zeros((groups, len(edges)), dtype=np.int64)
        np.add.at(table, (label[chosen].astype(np.int64), cell[chosen]), 1)
        return table

    return SurvivalCounts(
        edges_days=edges,
        events=per_cell(inside & events),
        censored=per_cell(inside & ~events),
        beyond=np.bincount(label[~inside].astype(np.int64), minlength=groups).astype(np.int64),
    )


def counts_on_a_level(
    time_days: ArrayLike,
    event: ArrayLike,
    levels: Sequence[ArrayLike],
    level: int,
    least: int,
    group: ArrayLike | None = None,
    groups: int = 1,
) -> tuple[int, SurvivalCounts | None]:
    """The first of ``levels`` from ``level`` on whose cells hold ``least`` patients or none, and counts if it is that.

    levels : edges from fine to coarse; other arguments as for :func:`survival_counts`. Their number and None where no
    level is allowed. Raises InputError for malformed arrays or edges.
    """
    times, _ = check_endpoints(time_days, event)
    if least > 1 and np.sum(times == 0) < least:  # time 0 is a cell of its own, which no grid makes wider
        times = np.where(times == 0, np.nextafter(0.0, 1.0), times)
    for finest in range(level, len(levels)):
        counts = survival_counts(times, event, levels[finest], group, groups)
        if counts.fewest_in_a_cell >= least:
            return finest, counts if finest == level else None
    return len(levels), None


def limited_counts(value: Any, shape: tuple[int | None, ...], most: int, what: str) -> Counts:
    """``value`` as counts of ``shape`` that add up to at most ``most``; raises InputError where they are not."""
    numbers = plain.floats(value, shape, what)
    counts = plain.counts(np.minimum(numbers, most + 1), shape, what)  # whatever is too large still fits an integer
    if counts.sum() > most:
        raise InputError(f"{what}: more than the {most} patients of the site")
    return counts
