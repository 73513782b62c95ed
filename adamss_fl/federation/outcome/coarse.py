"""Figures of hospitals whose common table had to be made coarse for a minimum cell count: boxes and wider time cells.

The table's cells are common to all, so that its rarest cell makes all of them wide. For pairs of patients each site
cuts boxes of its own instead; for curves over time, of all or by half of predicted risk, cells are wider in time alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import reduce
from operator import add
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.federation.outcome.table import Grid
from adamss_fl.federation.outcome.weighted import or_reason
from adamss_fl.federation.questions import Asked, Questions
from adamss_fl.federation.statistics.box_concordance import BoxSums, all_pairs_of_boxes, box_interval
from adamss_fl.federation.statistics.survival_counts import SurvivalCounts
from adamss_fl.federation.time_grids import agreed_counts, thinned

FEW = "fewer patients with an event, or without, than its minimum cell count"


class NotEverySite(InputError):
    """A site has not told what the others have, so that the figure would be of other patients than its neighbours."""


@dataclass(frozen=True)
class Halves:
    """Counts by site on one time grid: of two groups, lower and higher predicted risk, or of one."""

    own: Mapping[str, SurvivalCounts]

    @property
    def groups(self) -> int:
        """1 or 2."""
        return int(next(iter(self.own.values())).beyond.size)

    @property
    def total(self) -> SurvivalCounts:
        """All sites' counts."""
        return reduce(add, self.own.values())


def concordance_of_boxes(questions: Questions, grid: Grid, seed: int, samples: int) -> dict[str, Any]:
    """The C-index over all pairs with bounds, interval and number of ``boxes``, as a JSON-able mapping.

    Raises QuorumLost, NotEverySite, and NoComparablePairs where no pair may be comparable.
    """
    bins = grid.bins(0)
    times, days = grid.levels[0]

    def read(given: Mapping[str, Any], site: str, patients: int) -> BoxSums:
        if given.get("boxes") is None:
            raise InputError(FEW)
        return BoxSums.from_plain(given["boxes"], bins, patients, samples)

    query = {"query": "concordance_boxes", "edges": [list(times), list(days)], "samples": samples, "seed": seed}
    sites = list(_of_all(questions.put(query, read)).values())
    return {
        **asdict(all_pairs_of_boxes(sites, bins)),
        "interval": or_reason(lambda: asdict(box_interval(sites, bins))) if samples else None,
        "boxes": sum(site.boxes.count for site in sites),
        "fewest_in_a_box": int(min(site.boxes.patients.min() for site in sites)),
    }


def survival_halves(questions: Questions, grid: Grid) -> Halves:
    """Counts of both halves of predicted risk, or of all where too few patients allow for halves.

    Raises QuorumLost, and NotEverySite where not all of the sites tell any.
    """
    times, days = grid.levels[0]
    levels = [[0.0, *edges] for edges in thinned(times)]
    cuts = [(days[len(days) // 2], 2)] if days else []
    for cut_days, groups in (*cuts, (None, 1)):
        own, told = agreed_counts(questions, {"query": "outcome_survival", "cut_days": cut_days}, levels, groups)
        if own and not told.left_out:
            return Halves(own)
    raise NotEverySite("survival: a site has no time grid whose cells it may tell")


def _of_all(told: Asked[BoxSums]) -> dict[str, BoxSums]:
    if told.left_out:
        site, why = next(iter(told.left_out.items()))
        raise NotEverySite(f"concordance: {site} tells no boxes: {why}")
    return told.answers
