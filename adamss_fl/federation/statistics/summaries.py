"""Numeric columns over all sites: counts, missing values, mean and spread, and a histogram.

What a site's sums tell, per column: how many of its patients have a value, their mean and spread, the counts of the
histogram's cells under the minimum cell count (see ``cells``), and how many values are missing, as 0 where fewer than
``least`` are. No smallest or largest value is told. A column that fewer than ``least`` patients of the site have counts
as missing in all of them. Mean, spread and number are three equations, which give the patients behind each value of a
column with three values or fewer away; so such a column's mean and spread are withheld where a value has few patients.

A spread of 0 tells that all patients have the mean. Who knows the number of patients from elsewhere also knows how
many values are missing, but nothing of a value.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.cells import LEAST_PATIENTS, Cells, check_edges, tell_cells, tell_histogram
from adamss_fl.radiomics.moments import Moments

FEW_VALUES = 3

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ColumnSums:
    """One column over the patients of a site; ``+`` adds sites.

    edges : (K,) of the histogram. cells : K + 1 of them (see ``tell_histogram``); they hold all patients with a value.
    moments : one variable; of all these patients, or of none where withheld.
    missing : patients without a value. missing_hidden : sites where these are fewer than ``least``, and told as 0.
    """

    edges: Array
    cells: Cells
    moments: Moments
    missing: int
    missing_hidden: int

    def __add__(self, other: "ColumnSums") -> "ColumnSums":
        if not np.array_equal(self.edges, other.edges):
            raise InputError("column sums: histograms over other edges cannot be added; ask every site for the same")
        return ColumnSums(
            self.edges,
            self.cells + other.cells,
            self.moments + other.moments,
            self.missing + other.missing,
            self.missing_hidden + other.missing_hidden,
        )

    def plain(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "edges": self.edges.tolist(),
            "cells": self.cells.plain(),
            "moments": self.moments.plain(),
            "missing": self.missing,
            "missing_hidden": self.missing_hidden,
        }

    @classmethod
    def from_plain(cls, given: Any, edges: ArrayLike, patients: int | None = None, sites: int = 1) -> "ColumnSums":
        """The inverse of ``plain``, over ``edges``, of ``sites`` sites with ``patients`` patients at most.

        Raises InputError for other keys or edges, or what no patients can have: more than there are, or a mean outside
        all cells that hold someone.
        """
        found = plain.record(given, ("edges", "cells", "moments", "missing", "missing_hidden"), "column sums")
        cuts = check_edges(edges)
        if not np.array_equal(plain.floats(found["edges"], cuts.shape, "column sums: edges"), cuts):
            raise InputError("column sums: a histogram over other edges than was asked for")
        missing, hidden = (
            int(plain.counts(found[key], (), f"column sums: {key}")) for key in ("missing", "missing_hidden")
        )
        cells = Cells.from_plain(found["cells"], cuts.size + 1, sites=sites)
        moments = Moments.from_plain(found["moments"], variables=1)
        if patients is not None and cells.patients + missing > patients:
            raise InputError(f"column sums: {cells.patients} with and {missing} without value, of {patients} patients")
        if hidden > sites or (sites == 1 and hidden and missing):
            raise InputError("column sums: missing values are hidden and told at once; send 0 where they are hidden")
        if moments.n[0] > cells.patients or (sites == 1 and moments.n[0] not in (0, cells.patients)):
            raise InputError("column sums: mean and histogram are of different patients; count both over the same")
        if moments.n[0] == cells.patients > 0:
            _check_mean(float(moments.mean[0]), cells, cuts)
        return cls(cuts, cells, moments, missing, hidden)


@dataclass(frozen=True)
class ColumnSummary:
    """One column over all sites.

    n, missing : patients with and without a value. missing_hidden : sites whose few missing ones do not count.
    averaged : patients behind mean and sd, fewer than n where a site withholds its own.
    mean, sd : None without patients (sd: without two); sd is that of a sample (divisor n - 1).
    edges : (K,); histogram : (K + 1,) patients told, below the first edge, from each up to the next, and from the last.
    hidden_at : (K + 1,) sites that hide the cell, so that its count is too low there.
    suppressed_cells, hidden_patients : hidden cells, once per site, and the patients in them.
    """

    n: int
    missing: int
    missing_hidden: int
    averaged: int
    mean: float | None
    sd: float | None
    edges: tuple[float, ...]
    histogram: tuple[int, ...]
    hidden_at: tuple[int, ...]
    suppressed_cells: int
    hidden_patients: int


def column_sums(values: ArrayLike, edges: ArrayLike, least: int = LEAST_PATIENTS) -> ColumnSums:
    """A site's sums of one column.

    values : (N,), NaN where missing; edges : (K,) increasing; least : the minimum cell count.
    Raises InputError for malformed arrays or an infinite value. Messages tell no value.
    """
    cells = tell_histogram(values, edges, least)
    numbers = np.asarray(values, dtype=np.float64)
    there = numbers[np.isfinite(numbers)]
    missing = numbers.size - (there.size if cells.patients else 0)
    patients_per_value = np.unique(there, return_counts=True)[1]
    telltale = patients_per_value.size <= FEW_VALUES and (patients_per_value < least).any()
    averaged = there if cells.patients and not telltale else there[:0]
    with np.errstate(over="ignore"):
        moments = Moments.of(averaged.reshape(-1, 1))
    if not np.isfinite(moments.m2).all():
        raise InputError("column sums: values are too large to be squared; mend them, or make them missing")
    return ColumnSums(
        edges=check_edges(edges),
        cells=cells,
        moments=moments,
        missing=tell_cells([missing], least).patients,
        missing_hidden=int(0 < missing < least),
    )


def table_sums(
    columns: Mapping[str, ArrayLike], edges: Mapping[str, ArrayLike], least: int = LEAST_PATIENTS
) -> dict[str, ColumnSums]:
    """``column_sums`` of every column that ``edges`` names. Raises InputError, with the column's name, where it fails.

    columns : name -> (N,); edges : name -> (K,).
    """
    sums = {}
    for name, cuts in edges.items():
        if name not in columns:
            raise InputError(f"column {name!r}: there is none; known are {', '.join(sorted(columns)) or 'none'}")
        try:
            sums[name] = column_sums(columns[name], cuts, least)
        except InputError as error:
            raise InputError(f"column {name!r}: {error}") from error
    return sums


def column_summary(sums: ColumnSums) -> ColumnSummary:
    """The public figures of the sums of all sites."""
    averaged = int(sums.moments.n[0])
    return ColumnSummary(
        n=sums.cells.patients,
        missing=sums.missing,
        missing_hidden=sums.missing_hidden,
        averaged=averaged,
        mean=float(sums.moments.mean[0]) if averaged else None,
        sd=math.sqrt(float(sums.moments.m2[0]) / (averaged - 1)) if averaged > 1 else None,
        edges=tuple(sums.edges.tolist()),
        histogram=tuple(sums.cells.counts.tolist()),
        hidden_at=tuple(sums.cells.hidden_at.tolist()),
        suppressed_cells=sums.cells.suppressed_cells,
        hidden_patients=sums.cells.hidden_patients,
    )


def _check_mean(mean: float, cells: Cells, edges: Array) -> None:
    held = np.flatnonzero((cells.counts > 0) | (cells.hidden_at > 0))
    low, high = np.concatenate([[-np.inf], edges])[held[0]], np.concatenate([edges, [np.inf]])[held[-1]]
    rounding = 1e-9 * max(abs(mean), abs(edges[0]), abs(edges[-1]))
    if not low - rounding <= mean <= high + rounding:
        raise InputError("column sums: the mean lies outside all cells of the histogram that hold a patient")
