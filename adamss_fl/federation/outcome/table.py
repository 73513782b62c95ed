"""Common edges and the one table of all sites' test patients: by time, event and risk, as fine as every site allows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.federation.outcome.queries import risk_edges
from adamss_fl.federation.questions import Ask
from adamss_fl.federation.statistics.cells import Cells
from adamss_fl.federation.statistics.concordance import ConcordanceSums
from adamss_fl.federation.statistics.pair_tables import pair_tallies
from adamss_fl.federation.statistics.resampling import ResampledSums
from adamss_fl.federation.statistics.survival_counts import SurvivalCounts

HISTOGRAM_CELLS = (512, 128, 32, 8)
TOLD = 0.8
"""Share of the patients that a histogram must tell of, small cells being hidden; else the next coarser one is asked."""
BINS = 64
RESAMPLED_BINS = 16
LONGEST_FOLLOW_UP_DAYS = 9000.0


@dataclass(frozen=True)
class Grid:
    """Common edges, from fine to coarse: (inner time edges, inner edges of predicted days) of each level."""

    levels: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]

    def bins(self, level: int) -> tuple[int, int]:
        """(time bins, risk bins) of a level."""
        times, days = self.levels[level]
        return len(times) + 1, len(days) + 1

    @property
    def resample_level(self) -> int:
        """The first level coarse enough for resampled tables."""
        return next(k for k in range(len(self.levels)) if max(self.bins(k)) <= RESAMPLED_BINS)


@dataclass(frozen=True)
class Table:
    """The table on the level that every site allows, the sites' own, and their resampled tables."""

    grid: Grid
    level: int
    own: Mapping[str, ConcordanceSums]
    resampled: ResampledSums | None

    @property
    def total(self) -> ConcordanceSums:
        """All sites' sums."""
        return reduce(add, self.own.values())

    @property
    def resample_level(self) -> int:
        """The level of the resampled tables."""
        return max(self.level, self.grid.resample_level)

    @property
    def total_of_resamples(self) -> ConcordanceSums:
        """All sites' sums on the level of the resampled tables."""
        own = (_joined_sums(sums, self.grid, self.level, self.resample_level) for sums in self.own.values())
        return reduce(add, own)

    @property
    def is_finest(self) -> bool:
        """Whether no cell had to be made wider for a minimum cell count."""
        return self.level == 0

    @property
    def time_edges(self) -> tuple[float, ...]:
        """Edges of the time grid in days, from 0."""
        return (0.0, *self.grid.levels[self.level][0])


def common_grid(ask: Ask, longest_predicted_days: float, excluded: dict[str, str]) -> Grid | None:
    """Nested edges at quantiles of all sites' follow-up and predicted days; None where no site has a patient."""
    found: dict[str, tuple[NDArray[np.float64], Cells]] = {}
    for cells in HISTOGRAM_CELLS:
        ends = {"follow_up": LONGEST_FOLLOW_UP_DAYS, "predicted_days": longest_predicted_days}
        edges = {what: np.linspace(0.0, end, cells + 1)[1:] for what, end in ends.items()}
        parts: dict[str, list[Cells]] = {what: [] for what in ends}
        for reply in ask({"query": "outcome_cells", **{what: cuts.tolist() for what, cuts in edges.items()}}):
            patients = reply.figures.get("patients")
            if not patients:
                continue
            try:
                told = {w: Cells.from_plain(reply.figures.get(w), cells + 1, _count(patients)) for w in ends}
            except InputError as error:
                excluded[reply.site] = str(error)
                continue
            for what, table in told.items():
                parts[what].append(table)
        if not parts["follow_up"]:
            return None
        found = {what: (edges[what], reduce(add, tables)) for what, tables in parts.items()}
        if all(told.counts.sum() >= TOLD * told.patients for _, told in found.values()):
            break
    time_edges, day_edges = (_quantile_edges(*found[what]) for what in ("follow_up", "predicted_days"))
    levels = [(time_edges[step - 1 :: step], day_edges[step - 1 :: step]) for step in _steps()]
    return Grid(tuple((tuple(times), tuple(days)) for times, days in levels))


def _steps() -> list[int]:
    return [2**k for k in range(BINS.bit_length())]


def _quantile_edges(edges: NDArray[np.float64], told: Cells) -> list[float]:
    """Up to BINS - 1 edges that part the patients into about equal shares, as if those of a cell lay evenly in it.

    Hidden patients are taken to be as many in each hidden cell.
    """
    hidden = told.hidden_at / max(told.suppressed_cells, 1) * told.hidden_patients
    below = np.cumsum(told.counts + hidden)[:-1]
    ends, counted = np.concatenate([[0.0], edges]), np.concatenate([[0.0], below])
    held = np.concatenate([[True], np.diff(counted) > 0])  # where nobody lies, no edge is needed
    wanted = np.arange(1, BINS) / BINS * told.patients
    found = np.unique(np.interp(wanted[wanted < below[-1]], counted[held], ends[held]))
    return [float(edge) for edge in found if edge > 0]


def agreed_table(ask: Ask, grid: Grid, seed: int, samples: int, excluded: dict[str, str]) -> Table:
    """The table on the finest level whose cells every site tells; sites that tell none of them are left out."""
    level, last = 0, len(grid.levels)
    while True:
        query = {
            "query": "concordance",
            "levels": [[list(times), list(days)] for times, days in grid.levels],
            "level": level,
            "resample_level": grid.resample_level,
            "samples": samples,
            "seed": seed,
        }
        replies = [reply for reply in ask(query) if reply.figures.get("patients") and reply.site not in excluded]
        finest = {reply.site: reply.figures.get("finest") for reply in replies}
        for site, told in finest.items():
            if not isinstance(told, int) or isinstance(told, bool) or not level <= told <= last:
                excluded[site] = "concordance table: it does not say which level its cells allow"
            elif told == last:
                excluded[site] = "every table has cells of fewer patients than its minimum cell count"
        allowed = [told for site, told in finest.items() if site not in excluded and isinstance(told, int)]
        if not allowed or max(allowed) == level:
            break
        level = max(allowed)
    coarse = max(level, grid.resample_level)
    own: dict[str, ConcordanceSums] = {}
    again: list[ResampledSums] = []
    for reply in replies:
        if reply.site in excluded:
            continue
        try:
            patients = _count(reply.figures["patients"])
            sums = ConcordanceSums.from_plain(reply.figures.get("sums"), grid.bins(level), patients)
            if samples:
                joined, told = joined_table(sums.table, grid, level, coarse), reply.figures.get("resampled")
                again.append(ResampledSums.from_plain(told, samples, grid.bins(coarse), joined))
        except InputError as error:
            excluded[reply.site] = str(error)
            continue
        own[reply.site] = sums
    return Table(grid, level, dict(sorted(own.items())), reduce(add, again) if again else None)


def joined_table(table: NDArray[np.int64], grid: Grid, level: int, coarse: int) -> NDArray[np.int64]:
    """A table of ``level`` on the edges of the ``coarse`` level, which are among its own."""
    rows = np.searchsorted(grid.levels[coarse][0], (*grid.levels[level][0], np.inf), side="left")
    columns = np.searchsorted(
        risk_edges(grid.levels[coarse][1]), (*risk_edges(grid.levels[level][1]), np.inf), side="left"
    )
    time_bins, risk_bins = grid.bins(coarse)
    joined = np.zeros((time_bins, 2, risk_bins), dtype=np.int64)
    np.add.at(joined, (rows[:, None, None], np.arange(2)[None, :, None], columns[None, None, :]), table)
    return joined


def _joined_sums(sums: ConcordanceSums, grid: Grid, level: int, coarse: int) -> ConcordanceSums:
    """Harrell's sums of one site on the edges of the ``coarse`` level; pairs inside the site stay as counted."""
    table = joined_table(sums.table, grid, level, coarse)
    tallies = pair_tallies(table.astype(np.float64))
    return replace(sums, table=table, first=table[:, 1].astype(np.float64), within=tallies)


def survival_counts_of(sums: ConcordanceSums, edges: tuple[float, ...], cut: int | None = None) -> SurvivalCounts:
    """Survival counts of a table: of all patients, or of those below and from risk bin ``cut`` on."""
    parts = [sums.table] if cut is None else [sums.table[:, :, :cut], sums.table[:, :, cut:]]
    censored, events = (np.stack([part[:, kind].sum(-1) for part in parts]) for kind in (0, 1))
    nobody = np.zeros((len(parts), 1), dtype=np.int64)
    return SurvivalCounts(
        edges,
        events=np.concatenate([nobody, events[:, :-1]], axis=1),
        censored=np.concatenate([nobody, censored[:, :-1]], axis=1),
        beyond=(events + censored)[:, -1],
    )


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError("patients: not a count")
    return value
