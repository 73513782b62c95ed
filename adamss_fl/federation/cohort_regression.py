"""Cox regression of the clinical columns over all sites, stratified by site: from each one's derivatives alone.

Covariates are the numbers that the network is given: a continuous column in standard deviations from its mean, which a
missing value has too, 1 for a level of another column, and 1 where a value is missing. One that makes no estimate is
left out, and the rest are fitted again: one that too few patients of a site share, is a combination of the others (the
last level of a column is), or separates the events. Every hospital keeps a baseline hazard of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.federation.cohort_answers import Questions
from adamss_fl.federation.statistics.cox import CoxFit, Separation, SingularInformation, fit_cox
from adamss_fl.federation.statistics.cox_likelihood import CoxDerivatives
from adamss_fl.federation.statistics.cox_sums import Array
from adamss_fl.radiomics.encoding import TabularEncoding

FEW_EVENTS = "fewer events than its minimum cell count"


class _Again(Exception):
    """The fit is to begin anew, with fewer sites or covariates."""


@dataclass
class _Regression:
    """What is left of the sites and covariates while they are fitted.

    names : of all covariates; places : those still in, as positions in ``names``.
    left_out : site -> reason; dropped : covariate -> reason. members : sites of the fit that is under way.
    """

    questions: Questions
    encoding: TabularEncoding
    names: tuple[str, ...]
    places: list[int]
    left_out: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    members: tuple[str, ...] = ()

    def derivatives(self, beta: Array) -> CoxDerivatives:
        """The sum over the sites of the fit at ``beta``. Raises _Again, and InputError where none counts."""
        query = {"query": "cox", "tabular": self.encoding.plain(), "places": self.places, "beta": beta.tolist()}
        told = self.questions.put(query, self._read)
        few = {site: FEW_EVENTS for site, (rare, found) in told.answers.items() if found is None and not rare}
        new = {site: why for site, why in {**told.left_out, **few}.items() if site not in self.left_out}
        self.left_out |= new
        kept = {site: answer for site, answer in told.answers.items() if site not in self.left_out}
        rare_at = {place: site for site, (places, _) in kept.items() for place in places}
        for place, site in rare_at.items():
            self.drop(self.names[place], f"too few patients at {site} differ in it")
        if rare_at or (self.members and new):
            raise _Again
        counted = {site: found for site, (_, found) in kept.items() if found is not None}
        if not counted:
            raise InputError("Cox regression: no site has an answer that counts")
        self.members = tuple(counted)
        return reduce(add, counted.values())

    def drop(self, covariate: str, why: str) -> None:
        """Fit without a covariate from now on."""
        self.dropped[covariate] = why
        self.places = [place for place in self.places if self.names[place] != covariate]

    def _read(self, given: Mapping[str, Any], site: str, patients: int) -> tuple[list[int], CoxDerivatives | None]:
        rare = given.get("rare")
        if not isinstance(rare, list) or not all(type(place) is int and place in self.places for place in rare):
            raise InputError("Cox derivatives: 'rare' names covariates that were not asked for")
        if given.get("sums") is None:
            return rare, None
        return rare, CoxDerivatives.from_plain(given["sums"], len(self.places), patients)


def regression(questions: Questions, tabular: TabularEncoding) -> dict[str, Any]:
    """Hazard ratios with 95 % intervals, as a JSON-able mapping.

    Raises QuorumLost, and InputError where there are too few events or no covariate is left.
    """
    encoding = TabularEncoding(tabular.clinical)
    now = _Regression(questions, encoding, encoding.names, list(range(encoding.length)))
    while now.places:
        now.members = ()
        try:
            fit = fit_cox(now.derivatives, [now.names[place] for place in now.places])
        except _Again:
            continue
        except (SingularInformation, Separation) as alone:
            now.drop(alone.covariate, _why(alone))
            continue
        return {**_told(fit, encoding), "sites": list(now.members), **_reasons(now)}
    return {"reason": "no clinical covariate is left to be fitted", **_reasons(now)}


def _why(alone: SingularInformation | Separation) -> str:
    if isinstance(alone, Separation):
        return "separates the events from the rest at risk, so that no estimate is finite"
    return "does not vary inside the sites, or is a combination of the others"


def _reasons(now: _Regression) -> dict[str, Any]:
    found = {"left_out": now.left_out, "covariates_left_out": now.dropped}
    return {name: dict(sorted(reasons.items())) for name, reasons in found.items() if reasons}


def _told(fit: CoxFit, encoding: TabularEncoding) -> dict[str, Any]:
    """The fit by covariate; ``per`` says what one unit of it is."""
    units = {column.name: f"standard deviation of {column.sd:.4g}" for column in encoding.clinical}
    arrays = ("beta", "se", "p", "hazard_ratio", "ci_low", "ci_high")
    return {
        "covariates": {
            name: {
                "per": units.get(name, "1 against 0"),
                **{array: float(getattr(fit, array)[place]) for array in arrays},
            }
            for place, name in enumerate(fit.covariates)
        },
        "events": fit.events,
        "log_likelihood": fit.log_likelihood,
        "null_log_likelihood": fit.null_log_likelihood,
        "iterations": fit.iterations,
        "converged": fit.converged,
    }
