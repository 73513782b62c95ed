"""The minimum cell count: no count of few patients leaves a site, in any table of counts.

What a site's cells tell: every count of ``least`` patients or more; which cells are hidden, each told as 0; and how
many patients all hidden cells hold together, which is never between 0 and ``least``. Where that total would give a
hidden cell away (there is one alone, or all must hold 1 patient, or all ``least`` - 1), the smallest told cell is
hidden too, and its equals, since which of them was chosen would tell. A site with fewer than ``least`` patients in a
table sends an empty one.

The rule holds for one answer. Answers over other edges can be subtracted from each other, so who may ask what, and
how often, is for the site's policy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.survival.screening import coarse_edges

LEAST_PATIENTS = 5
"""The usual limit of statistical offices and registries, and a site policy's default."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cells:
    """Counts of patients in a table's cells, (K,) each, after the rule; ``+`` adds sites.

    counts : patients told. hidden_at : how many sites hide the cell. hidden_patients : patients in all hidden cells.
    """

    counts: NDArray[np.int64]
    hidden_at: NDArray[np.int64]
    hidden_patients: int

    @property
    def suppressed_cells(self) -> int:
        """Hidden cells, counted once per site that hides them."""
        return int(self.hidden_at.sum())

    @property
    def patients(self) -> int:
        """All patients in the table, hidden or not."""
        return int(self.counts.sum()) + self.hidden_patients

    def __add__(self, other: "Cells") -> "Cells":
        if self.counts.shape != other.counts.shape:
            raise InputError(
                f"cells: tables of {self.counts.size} and of {other.counts.size} cells cannot be added; ask every site "
                "for the same"
            )
        return Cells(
            self.counts + other.counts,
            self.hidden_at + other.hidden_at,
            self.hidden_patients + other.hidden_patients,
        )

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "counts": self.counts.tolist(),
            "hidden_at": self.hidden_at.tolist(),
            "hidden_patients": self.hidden_patients,
        }

    @classmethod
    def from_plain(cls, given: Any, cells: int | None = None, patients: int | None = None, sites: int = 1) -> "Cells":
        """The inverse of ``plain``, of ``sites`` sites with ``patients`` patients at most.

        Raises InputError for other keys or shapes, or what no patients can have: more than there are, hidden patients
        without a hidden cell or the reverse, or one site's count in a cell that it hides.
        """
        found = plain.record(given, ("counts", "hidden_at", "hidden_patients"), "cells")
        counts = plain.counts(found["counts"], (cells,), "cells: counts")
        hidden_at = plain.counts(found["hidden_at"], counts.shape, "cells: hidden_at")
        table = cls(counts, hidden_at, int(plain.counts(found["hidden_patients"], (), "cells: hidden_patients")))
        if (hidden_at > sites).any() or ((hidden_at == sites) & (counts > 0)).any():
            raise InputError("cells: a cell is hidden and told at once; send 0 for a hidden cell")
        if hidden_at.any() != (table.hidden_patients > 0):
            raise InputError("cells: hidden cells and hidden patients contradict each other; send both or none")
        if patients is not None and table.patients > patients:
            raise InputError(f"cells: {table.patients} patients in the table of a site that has {patients}")
        return table


def tell_cells(counts: ArrayLike, least: int = LEAST_PATIENTS) -> Cells:
    """A site's counts (K,) under the rule; ``least`` of 1 tells all. Raises InputError for what are no counts."""
    table = plain.counts(counts, (None,), "cells: counts")
    if least < 1:
        raise InputError(f"cells: a minimum cell count of {least}; give 1 or more")
    if table.sum() < least:
        return Cells(np.zeros_like(table), np.zeros_like(table), 0)
    hidden = (table > 0) & (table < least)
    if hidden.any() and not _ambiguous(int(table[hidden].sum()), int(hidden.sum()), least):
        told = table[table >= least]
        hidden = hidden | (table == told.min()) if told.size else np.ones_like(hidden)  # without one, the empty ones
    return Cells(np.where(hidden, 0, table), hidden.astype(np.int64), int(table[hidden].sum()))


def _ambiguous(patients: int, cells: int, least: int) -> bool:
    """Whether hidden cells, of 1 to ``least`` - 1 patients each, hold enough together and none of them for certain."""
    return patients >= least and cells < patients < cells * (least - 1)


def tell_histogram(values: ArrayLike, edges: ArrayLike, least: int = LEAST_PATIENTS) -> Cells:
    """A site's patients per cell of ``edges``, under the rule; the sums behind histograms and quantiles.

    values : (N,), NaN where missing, which counts nowhere; edges : (K,) increasing. The K + 1 cells are those below
    the first edge, from each edge up to but without the next, and from the last edge on.
    Raises InputError for malformed arrays or an infinite value.
    """
    numbers, cuts = np.asarray(values, dtype=np.float64), check_edges(edges)
    if numbers.ndim != 1 or np.isinf(numbers).any():
        raise InputError(f"histogram: values {numbers.shape} must be (patients,), and finite or NaN where missing")
    cell = np.searchsorted(cuts, numbers[np.isfinite(numbers)], side="right")
    return tell_cells(np.bincount(cell, minlength=cuts.size + 1), least)


def check_edges(edges: ArrayLike) -> Array:
    """``edges`` (K,) as floats. Raises InputError where there is none or they do not increase."""
    cuts = plain.floats(edges, (None,), "edges")
    if cuts.size == 0 or not (np.diff(cuts) > 0).all():
        raise InputError("edges: must be one or more finite numbers that increase strictly; mend them")
    return cuts


def joined_edges(sites: Sequence[Cells], edges: ArrayLike, least: int = LEAST_PATIENTS) -> tuple[float, ...]:
    """Those of ``edges`` (K,) between which each cell has ``least`` patients or more of every site, or none of it.

    sites : each site's cells over ``edges`` (K + 1 cells, see ``tell_histogram``), with small ones hidden or not. A
    hidden cell counts as one patient, the least that it can hold, so that no hidden count is needed. A site without
    patients in its table does not count. Raises InputError where no edge is left or there are no patients.
    """
    cuts = check_edges(edges)
    if any(cells.counts.shape != (cuts.size + 1,) for cells in sites):
        raise InputError(f"joined edges: {cuts.size} edges make {cuts.size + 1} cells; give so many of every site")
    table = [_fewest(cells, least) for cells in sites if cells.patients]
    if not table:
        raise InputError("joined edges: no site has patients to count; ask sites that have the column")
    # Every cell, the outer ones too, is a bin here, and its number stands for its lower edge; nobody is past the last.
    padded = np.pad(np.array(table), ((0, 0), (0, 1)))
    kept = coarse_edges(padded, np.arange(cuts.size + 2), least)[1:-1]
    if not kept:
        raise InputError(
            f"joined edges: no edge has {least} patients of every site or none on its sides; ask for fewer"
        )
    return tuple(float(cuts[int(place) - 1]) for place in kept)


def _fewest(cells: Cells, least: int) -> NDArray[np.int64]:
    """The fewest patients that each cell of a site can hold, such that cells joined hold their sum or more."""
    if cells.counts.any() or not cells.suppressed_cells:
        return cells.counts + cells.hidden_at
    whole = np.zeros_like(cells.counts)  # all is hidden: only all cells together are known to hold enough
    whole[0], whole[-1] = 1, max(least - 1, 1)
    return whole
