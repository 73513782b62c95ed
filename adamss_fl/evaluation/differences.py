"""Which arms of a comparison are set against each other, and the differences of their C-indices with intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.evaluation.arms import NULL, POOLED
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.survival import Difference, NoComparablePairs, paired_difference

FEDERATED, LOCAL = "federated", "local:"


@dataclass(frozen=True)
class Contrast:
    """C-index of the arm ``first`` minus the mean of those of ``others``; site : on that site's test patients alone."""

    label: str
    first: str
    others: tuple[str, ...]
    site: str | None = None


@dataclass(frozen=True)
class Sides:
    """A contrast's patients: outcomes (N,), risk of the first arm (N,), and of the R others (R, N)."""

    time_days: NDArray[Any]
    event: NDArray[Any]
    first: NDArray[Any]
    others: NDArray[Any]


def contrasts(arms: Iterable[str]) -> tuple[list[Contrast], list[Contrast]]:
    """(Contrasts on all test patients, those on a site's own) of a comparison with these arms.

    ``federated - pooled``, ``federated - mean local``, each strategy's ``STRATEGY - pooled`` and ``STRATEGY -
    federated``; and per site ``federated - local:SITE``.
    """
    names = tuple(arms)
    local = tuple(name for name in names if name.startswith(LOCAL))
    strategies = [name for name in names if name not in (FEDERATED, POOLED, NULL, *local)]
    overall = [
        Contrast(f"{FEDERATED} - {POOLED}", FEDERATED, (POOLED,)),
        Contrast(f"{FEDERATED} - mean local", FEDERATED, local),
        *(Contrast(f"{name} - {other}", name, (other,)) for name in strategies for other in (POOLED, FEDERATED)),
    ]
    own = [Contrast(f"{FEDERATED} - {name}", FEDERATED, (name,), name.removeprefix(LOCAL)) for name in local]
    return overall, own


def sides_of(contrast: Contrast, found: Mapping[str, Predictions]) -> Sides:
    """The two sides' risks of the patients that a contrast is about; found : each arm's, in the same order."""
    judged = found[contrast.first]
    chosen = np.ones(judged.site.size, bool) if contrast.site is None else judged.site == contrast.site
    others = np.stack([found[name].risk[chosen] for name in contrast.others])
    return Sides(judged.time_days[chosen], judged.event[chosen], judged.risk[chosen], others)


def gaps(found: Mapping[str, Predictions], bootstrap: int, seed: int) -> dict[str, Any]:
    """Differences of C-indices with 95 % intervals, resampling the same patients for both sides.

    Those of :func:`contrasts`, the ones on a site's own test patients under ``own_patients``. Differences without a
    comparable pair are left out.
    """

    def difference(contrast: Contrast) -> dict[str, float] | None:
        sides = sides_of(contrast, found)
        others = sides.others[0] if len(sides.others) == 1 else sides.others
        return plain_difference(
            lambda: paired_difference(sides.time_days, sides.event, sides.first, others, bootstrap, seed)
        )

    overall, own = contrasts(found)
    return {**_known(overall, difference), "own_patients": _known(own, difference)}


def plain_difference(make: Callable[[], Difference]) -> dict[str, float] | None:
    """``difference``, ``low`` and ``high``; None where there is no comparable pair."""
    try:
        found = make()
    except NoComparablePairs:
        return None
    return {"difference": found.difference, "low": found.low, "high": found.high}


def _known(
    asked: Sequence[Contrast], difference: Callable[[Contrast], dict[str, float] | None]
) -> dict[str, dict[str, float]]:
    made = {contrast.label: difference(contrast) for contrast in asked}
    return {label: value for label, value in made.items() if value is not None}
