"""A site's part in a Cox regression of its clinical columns: as a stratum, or in risk sets common to all sites.

As a stratum it tells the derivatives of its own likelihood. For one baseline hazard of all sites it tells sums over
those at risk at each time of a common grid, and their differences are those of the patients who left in between; so no
such group, and none of its patients with one value of a covariate with two or three, is smaller than ``least`` unless
empty. Over the iterations such sums still tell much of a small group, so a policy allows them only by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.cox_likelihood import cox_derivatives
from adamss_fl.federation.statistics.cox_sums import Array, cox_time_sums, grid_times, leaving_places
from adamss_fl.federation.statistics.summaries import FEW_VALUES
from adamss_fl.imaging import Sample
from adamss_fl.radiomics.encoding import TabularEncoding

Events = NDArray[np.int64]


def stratum(
    query: Mapping[str, Any], samples: Sequence[Sample], times: Array, events: Events, least: int
) -> dict[str, Any]:
    """CoxDerivatives of this site as a stratum, at ``beta`` of the numbers at ``places`` of the clinical encoding.

    times, events : (N,) of the samples; tabular, in the query : the run's encoding. ``rare`` in the answer : those of
    ``places`` with two or three values, one of which fewer than ``least`` patients share; ``sums`` : None where there
    is one, or fewer events than ``least`` but some.
    """
    places, x = _asked(query, samples)
    if 0 < events.sum() < least:
        return {"rare": [], "sums": None}
    rare = [place for place, column in zip(places, x.T, strict=True) if _fewest_sharing(column) < least]
    if rare:
        return {"rare": rare, "sums": None}
    return {"rare": [], "sums": cox_derivatives(x, times, events, query["beta"]).plain()}


def risk_sets(
    query: Mapping[str, Any], samples: Sequence[Sample], times: Array, events: Events, least: int
) -> dict[str, Any]:
    """CoxTimeSums with Efron's ties; ``tabular``, ``places`` and ``beta`` as for :func:`stratum`.

    levels : grids of times in days, from fine to coarse; level : which is asked. ``finest`` in the answer is the first
    level from ``level`` on that ``least`` allows, their number where none is; ``sums`` is there where it is ``level``.
    """
    _, x = _asked(query, samples)
    levels, level = [grid_times(grid) for grid in query["levels"]], int(query["level"])
    allowed = (k for k in range(level, len(levels)) if _fewest_leaving(x, times, events, levels[k]) >= least)
    finest = next(allowed, len(levels))
    if finest != level or finest == len(levels):
        return {"finest": finest}
    return {"finest": finest, "sums": cox_time_sums(x, times, events, levels[level], query["beta"]).plain()}


def covariates(encoding: TabularEncoding, samples: Sequence[Sample]) -> Array:
    """(N, p) the clinical part of the run's tabular vector. Raises InputError where a patient lacks a column."""
    clinical = TabularEncoding(encoding.clinical)
    for column in clinical.clinical:
        if any(column.name not in sample.clinical for sample in samples):
            raise InputError(f"clinical column {column.name!r}: a patient has no such column; mend the table")
    rows = [[n for column in clinical.clinical for n in column.encode(each.clinical[column.name])] for each in samples]
    return np.array(rows, dtype=np.float64).reshape(len(samples), clinical.length)


def _asked(query: Mapping[str, Any], samples: Sequence[Sample]) -> tuple[list[int], Array]:
    places = [int(place) for place in query["places"]]
    return places, covariates(TabularEncoding.from_plain(query["tabular"]), samples)[:, places]


def _fewest_leaving(x: Array, times: Array, events: Events, grid: tuple[float, ...]) -> int:
    """The fewest patients, but none, who leave together, or leave together and share a value of a covariate."""
    leaving, seen = leaving_places(times, events > 0, grid)
    few = [column for column in x.T if np.unique(column).size <= FEW_VALUES]
    groups = (
        chosen for place in range(len(grid)) for chosen in ((leaving == place) & seen, (leaving == place) & ~seen)
    )
    return min(
        (
            min([int(group.sum()), *(_fewest_sharing(column[group]) for column in few)])
            for group in groups
            if group.any()
        ),
        default=len(x),
    )


def _fewest_sharing(values: Array) -> int:
    """The fewest patients who share one of a covariate's two or three values; all of them where it has one, or more."""
    patients = np.unique(values, return_counts=True)[1]
    return int(patients.min()) if 1 < patients.size <= FEW_VALUES else values.size
