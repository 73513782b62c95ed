"""Counts of events and censored patients on the finest time grid whose cells every site may tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.federation.cohort_answers import Asked, Questions
from adamss_fl.federation.statistics.survival_counts import SurvivalCounts

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
