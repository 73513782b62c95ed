"""Time grids from fine to coarse, and counts of patients on the finest one whose cells every site may tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adamss_fl.errors import InputError
from adamss_fl.federation.questions import Asked, Questions
from adamss_fl.federation.statistics.survival_counts import SurvivalCounts

PARTS = 64
GRIDS: tuple[Sequence[int], ...] = (
    range(1, PARTS + 1),
    range(1, PARTS),
    *(range(step, PARTS, step) for step in (2, 4, 8)),
    (24, 32, 40, 48, 56),
    (24, 40, 56),
    (40, 56),
    (56,),
)
"""Where the cells of each time grid end, in sixty-fourths of the run's time bins."""

TOO_SMALL = "every time grid has cells of fewer patients than its minimum cell count"

Told = tuple[int, SurvivalCounts | None]


def agreed_counts(
    questions: Questions, query: Mapping[str, Any], levels: Sequence[Sequence[float]], groups: int = 1
) -> tuple[dict[str, SurvivalCounts], Asked[Told]]:
    """Counts by site on the finest of ``levels`` that every site allows, and the answers; who allows none is left out.

    query : asks each site for its counts on ``levels`` (see ``counts_on_a_level``). groups : of patients, each counted
    apart. Raises QuorumLost.
    """
    level, last = 0, len(levels)
    too_small: dict[str, str] = {}
    while True:

        def read(given: Mapping[str, Any], site: str, patients: int, level: int = level) -> Told:
            finest = given.get("finest")
            if not isinstance(finest, int) or isinstance(finest, bool) or not level <= finest <= last:
                raise InputError("survival counts: it does not say which level its cells allow")
            if finest != level or finest == last:
                return finest, None
            counts = SurvivalCounts.from_plain(given.get("sums"), levels[level], groups, patients)
            if counts.patients != patients:
                raise InputError(f"survival counts: of {counts.patients} patients where the site has {patients}")
            return finest, counts

        told = questions.put({**query, "levels": [list(edges) for edges in levels], "level": level}, read)
        too_small |= {site: TOO_SMALL for site, (finest, _) in told.answers.items() if finest == last}
        told.left_out.update(too_small)
        allowed = {site: answer for site, answer in told.answers.items() if site not in too_small}
        coarsest = max((finest for finest, _ in allowed.values()), default=level)
        if coarsest == level:
            return {site: counts for site, (_, counts) in allowed.items() if counts is not None}, told
        level = coarsest


def thinned(edges: Sequence[float]) -> list[list[float]]:
    """Parts of increasing ``edges`` from fine to coarse, each a part of the one before; see :func:`nested_edges`."""
    places = [[end * (len(edges) + 1) // PARTS - 1 for end in ends] for ends in GRIDS]
    found = ({min(place, len(edges) - 1) for place in level if place >= 0} for level in places)
    parts = dict.fromkeys(tuple(edges[place] for place in sorted(level)) for level in found if level)
    return [list(part) for part in parts]


def nested_edges(edges_days: Sequence[float]) -> list[list[float]]:
    """Time grids from fine to coarse, each a part of the one before, from the run's time bins (K + 1 edges from 0).

    The bins lie at quantiles of event times, so that equal parts of them hold about as many events. The finest grid has
    PARTS cells up to the last edge. Edges lie at half days: no time in whole days is one. Coarse grids lose their
    early edges first, where hardly anybody is censored yet; the coarsest has one edge, after 7/8 of the events.
    """
    bins = np.arange(len(edges_days)) / (len(edges_days) - 1)
    grids: dict[tuple[float, ...], None] = {}
    for ends in GRIDS:
        days = np.unique(np.floor(np.interp(np.array(ends) / PARTS, bins, edges_days)) + 0.5)
        grids[(0.0, *days.tolist())] = None
    return [list(edges) for edges in grids]
