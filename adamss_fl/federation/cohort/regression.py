"""Cox regression of the clinical columns over all sites, from sums alone: stratified by site, or with one baseline.

Covariates are the numbers that the network is given: a continuous column in standard deviations from its mean, which a
missing value has too, 1 for a level of another column, and 1 where a value is missing. One that makes no estimate is
left out, and the rest are fitted again: one that too few patients of a site share, is a combination of the others (the
last level of a column is), or separates the events.

Stratified, every hospital keeps a baseline hazard of its own and tells the derivatives of its own likelihood. With one
baseline for all, hospitals are compared with each other as well, and tell sums at the times of a grid that all of them
allow; events count at the end of their cell. Where the two disagree, hospitals differ in more than the covariates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, TypeVar

from adamss_fl.errors import InputError
from adamss_fl.federation.questions import Asked, Questions
from adamss_fl.federation.statistics.cox import CoxFit, Separation, SingularInformation, fit_cox
from adamss_fl.federation.statistics.cox_likelihood import CoxDerivatives
from adamss_fl.federation.statistics.cox_sums import Array, CoxTimeSums
from adamss_fl.radiomics.encoding import TabularEncoding

FEW_EVENTS = "fewer events than its minimum cell count"
FEW_LEAVING = "on every time grid fewer patients leave together than its minimum cell count"
LEAST_TIMES = 7
"""Of a grid; on a coarser one too many events are tied for Efron's approximation."""

Answer = TypeVar("Answer")
Sums = TypeVar("Sums", CoxDerivatives, CoxTimeSums)


class _Again(Exception):
    """The fit is to begin anew, with fewer sites or covariates."""


@dataclass
class _Fit:
    """What is left of the sites while they are fitted.

    places : of the covariates, in the encoding's names. left_out : site -> reason. members : sites of the fit that is
    under way, all of which must answer each time.
    """

    questions: Questions
    encoding: TabularEncoding
    places: list[int]
    left_out: dict[str, str] = field(default_factory=dict)
    members: tuple[str, ...] = ()

    def kept(self, told: Asked[Answer], unfit: Mapping[str, str]) -> tuple[dict[str, Answer], bool]:
        """Answers that still count, ``unfit`` ones (site -> reason) left out from now on; whether a member is lost."""
        reasons = {**told.left_out, **unfit}
        lost = bool(self.members) and not reasons.keys() <= self.left_out.keys()
        self.left_out = {**reasons, **self.left_out}
        return {site: answer for site, answer in told.answers.items() if site not in self.left_out}, lost

    def total(self, counted: Mapping[str, Sums | None]) -> Sums:
        """The sum over the sites that have one, the members from now on. Raises InputError where there is none."""
        sums = {site: found for site, found in counted.items() if found is not None}
        if not sums:
            raise InputError("Cox regression: no site has an answer that counts")
        self.members = tuple(sums)
        return reduce(add, sums.values())


@dataclass
class _Regression(_Fit):
    """Stratified by site. dropped : covariate -> reason."""

    dropped: dict[str, str] = field(default_factory=dict)

    @property
    def covariates(self) -> list[str]:
        """Names of those still in."""
        return [self.encoding.names[place] for place in self.places]

    def derivatives(self, beta: Array) -> CoxDerivatives:
        """The sum over the sites of the fit at ``beta``. Raises _Again, and InputError where none counts."""
        query = {"query": "cox", "tabular": self.encoding.plain(), "places": self.places, "beta": beta.tolist()}
        told = self.questions.put(query, self._read)
        few = {site: FEW_EVENTS for site, (rare, found) in told.answers.items() if found is None and not rare}
        kept, lost = self.kept(told, few)
        rare_at = {place: site for site, (places, _) in kept.items() for place in places}
        for place, site in rare_at.items():
            self.drop(self.encoding.names[place], f"too few patients at {site} differ in it")
        if rare_at or lost:
            raise _Again
        return self.total({site: found for site, (_, found) in kept.items()})

    def drop(self, covariate: str, why: str) -> None:
        """Fit without a covariate from now on."""
        self.dropped[covariate] = why
        self.places = [place for place in self.places if self.encoding.names[place] != covariate]

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
    now = _Regression(questions, encoding, list(range(encoding.length)))
    while now.places:
        now.members = ()
        try:
            fit = fit_cox(now.derivatives, now.covariates)
        except _Again:
            continue
        except (SingularInformation, Separation) as alone:
            now.drop(alone.covariate, _why(alone))
            continue
        return {**_told(fit, encoding), "sites": list(now.members), **_reasons(now)}
    return {"reason": "no clinical covariate is left to be fitted", **_reasons(now)}


@dataclass
class _OneBaseline(_Fit):
    """One baseline for all sites. levels : grids of times, from fine to coarse; level : the one that is asked."""

    levels: Sequence[Sequence[float]] = ()
    level: int = 0

    def sums(self, beta: Array) -> CoxTimeSums:
        """The sum over the sites at ``beta``. Raises _Again, and InputError where none counts."""
        query = {
            "query": "cox_times",
            "tabular": self.encoding.plain(),
            "places": self.places,
            "beta": beta.tolist(),
            "levels": [list(grid) for grid in self.levels],
            "level": self.level,
        }
        told = self.questions.put(query, self._read)
        few = {site: FEW_LEAVING for site, (finest, _) in told.answers.items() if finest == len(self.levels)}
        kept, lost = self.kept(told, few)
        coarsest = max((finest for finest, _ in kept.values()), default=self.level)
        if coarsest > self.level or lost:
            self.level = coarsest
            raise _Again
        return self.total({site: found for site, (_, found) in kept.items()})

    def _read(self, given: Mapping[str, Any], site: str, patients: int) -> tuple[int, CoxTimeSums | None]:
        finest = given.get("finest")
        if not isinstance(finest, int) or isinstance(finest, bool) or not self.level <= finest <= len(self.levels):
            raise InputError("Cox sums: it does not say which level its cells allow")
        if finest != self.level or finest == len(self.levels):
            return finest, None
        return finest, CoxTimeSums.from_plain(given.get("sums"), self.levels[finest], len(self.places), patients)


def one_baseline(
    questions: Questions, tabular: TabularEncoding, covariates: Sequence[str], grids: Sequence[Sequence[float]]
) -> dict[str, Any]:
    """As :func:`regression`, of ``covariates`` that it has fitted, with one baseline hazard; ``times`` of the grid.

    grids : times in days, from fine to coarse. Raises QuorumLost, and InputError where there is no such fit.
    """
    encoding = TabularEncoding(tabular.clinical)
    places = [encoding.names.index(name) for name in covariates]
    now = _OneBaseline(questions, encoding, places, levels=[grid for grid in grids if len(grid) >= LEAST_TIMES])
    while now.level < len(now.levels):
        now.members = ()
        try:
            fit = fit_cox(now.sums, covariates)
        except _Again:
            continue
        found = {**_told(fit, encoding), "sites": list(now.members), "times": len(now.levels[now.level])}
        return found | ({"left_out": dict(sorted(now.left_out.items()))} if now.left_out else {})
    raise InputError("Cox regression: the time bins are too few for a grid; see stages.edges_days")


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
