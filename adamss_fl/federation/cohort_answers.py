"""Cohort queries put to all sites: the answers that count, and why the others do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.federation.outcome_table import Ask

Answer = TypeVar("Answer")
Read = Callable[[Mapping[str, Any], str, int], Answer]
"""Makes an answer of (figures, site, its training patients); raises InputError for what no patients can have."""

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
NO_ANSWER = "no answer: it is absent, or its policy forbids the query"
TOO_FEW = "fewer training patients than its minimum cell count"


@dataclass(frozen=True)
class Asked(Generic[Answer]):
    """The answers to one query by site, in the order of the names, and the reasons for those that do not count."""

    answers: dict[str, Answer]
    left_out: dict[str, str]


@dataclass(frozen=True)
class Questions:
    """ask : sends a query's settings to all sites and gives the replies that count; sites : who is asked."""

    ask: Ask
    sites: tuple[str, ...]

    def put(self, query: Mapping[str, Any], read: Read[Answer]) -> Asked[Answer]:
        """Ask all sites; an answer that ``read`` refuses does not count. Raises QuorumLost."""
        answers: dict[str, Answer] = {}
        left_out = dict.fromkeys(self.sites, NO_ANSWER)
        for reply in self.ask(query):
            try:
                patients = int(plain.counts(reply.figures.get("patients"), (), "patients"))
                if set(reply.figures) <= {"patients", "least"}:
                    raise InputError(TOO_FEW)
                answers[reply.site] = read(reply.figures, reply.site, patients)
            except InputError as error:
                left_out[reply.site] = str(error)
        return Asked(
            dict(sorted(answers.items())), {site: why for site, why in left_out.items() if site not in answers}
        )


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
