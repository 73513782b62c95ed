"""Cox proportional hazards over sites that share sums alone: Newton's method on their merged derivatives.

Two modes, by what ``ask`` returns: one baseline hazard for all sites, from sums per time (``cox_sums``), or stratified
by site, from each site's gradient and information alone (``cox_likelihood``). Both modules say what they tell of a
site's patients; each iteration tells it once more, at another beta.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.federation.statistics.cox_likelihood import CoxDerivatives, derivatives_at
from adamss_fl.federation.statistics.cox_sums import Array, CoxTimeSums
from adamss_fl.federation.statistics.survival_curves import NORMAL_QUANTILE
from adamss_fl.survival.screening import LARGEST_BETA, LARGEST_STEP

LEAST_EVENTS = 2
SMALLEST_STEP = 1e-9
"""Standard deviations of beta x that Newton would still move; below it the fit has converged."""
FLAT = 1e-10
"""Gain of log likelihood below which a step that is not small says that there is no maximum."""
LARGE_STEP = 1e-3
LEAST_UNEXPLAINED = 1e-9
"""Share of a covariate's variance that the covariates before it must leave unexplained."""


class TooFewEvents(InputError):
    """No event, or one, from which no regression can be fitted."""


class SingularInformation(InputError):
    """A ``covariate`` that does not vary among those at risk, or is a combination of the others."""

    def __init__(self, text: str, covariate: str) -> None:
        super().__init__(text)
        self.covariate = covariate


class Separation(InputError):
    """A ``covariate`` that separates events from the others at risk, so that its coefficient has no finite estimate."""

    def __init__(self, covariate: str) -> None:
        super().__init__(
            f"Cox regression: covariate {covariate!r} separates the events from the rest at risk, so that no estimate "
            "is finite; leave it out, join its categories, or add patients"
        )
        self.covariate = covariate


@dataclass(frozen=True)
class CoxFit:
    """A Cox regression of p covariates; arrays are (p,) in the order of ``covariates``.

    beta : log hazard ratio per unit. se : from the inverse observed information. p : two-sided Wald test of
    ``z = beta / se`` against a normal distribution. hazard_ratio, ci_low, ci_high : exp(beta) and its Wald 95 % bounds.
    log_likelihood, null_log_likelihood : partial, at beta and at 0. iterations : times that the sites were asked.
    converged : False where the iterations ran out; the figures then are those of the last beta.
    """

    covariates: tuple[str, ...]
    beta: Array
    se: Array
    z: Array
    p: Array
    hazard_ratio: Array
    ci_low: Array
    ci_high: Array
    log_likelihood: float
    null_log_likelihood: float
    events: int
    iterations: int
    converged: bool


def fit_cox(
    ask: Callable[[Array], CoxTimeSums | CoxDerivatives], covariates: Sequence[str], most_iterations: int = 30
) -> CoxFit:
    """Fit by Newton's method; ``ask`` returns the sums over all sites at a beta (p,), of whichever of the two modes.

    A step moves beta x by at most LARGEST_STEP standard deviations, and is halved while it lowers the likelihood.
    Ties are Efron's or Breslow's as the sums are.

    Raises TooFewEvents; SingularInformation and Separation, which name a covariate; InputError for sums of another
    number of covariates, or a hazard ratio that overflows.
    """
    names = plain.texts(list(covariates), "Cox regression: covariates")
    if not names or most_iterations < 1:
        raise InputError("Cox regression: no covariates or no iterations; give one of each at least")
    beta = np.zeros(len(names))
    start = at = _derivatives(ask(beta), beta)
    if at.events < LEAST_EVENTS:
        raise TooFewEvents(
            f"Cox regression: {at.events or 'no'} event{'s' * (at.events != 1)} on the grid; give patients with events"
        )
    alone = _unidentified(at.information, names)
    if alone is not None:
        raise SingularInformation(
            f"Cox regression: covariate {alone!r} does not vary among those at risk, or is a combination of the "
            "others; leave it out",
            alone,
        )
    metric = at.information / at.events  # variance of the covariates in the risk sets
    step, gain = _newton(at, metric)
    iterations, shorter = 1, 1.0
    while iterations < most_iterations and _size(step, metric) > SMALLEST_STEP:
        _refuse_separation(beta, step, gain, metric, names)
        trial = beta + shorter * step
        there = _derivatives(ask(trial), trial)
        iterations += 1
        if there.log_likelihood < at.log_likelihood - 1e-12 * abs(at.log_likelihood):
            shorter /= 2
            continue
        beta, at, shorter = trial, there, 1.0
        apart = _unidentified(at.information, names)
        if apart is not None:
            raise Separation(apart)
        step, gain = _newton(at, metric)
    return _result(names, beta, at, start.log_likelihood, iterations, _size(step, metric) <= SMALLEST_STEP)


def _derivatives(sums: CoxTimeSums | CoxDerivatives, beta: Array) -> CoxDerivatives:
    with np.errstate(over="ignore", invalid="ignore"):
        found = derivatives_at(sums, beta) if isinstance(sums, CoxTimeSums) else sums
        finite = np.isfinite([found.log_likelihood, found.gradient.sum(), found.information.sum()]).all()
    if found.gradient.shape != beta.shape:
        raise InputError(
            f"Cox regression: sums of {found.gradient.size} covariates for {beta.size}; ask every site for the same"
        )
    if not finite:
        raise InputError("Cox regression: the sums over sites overflow; centre and scale the covariates")
    return found


def _newton(at: CoxDerivatives, metric: Array) -> tuple[Array, float]:
    """Newton's step, shortened to LARGEST_STEP, and twice the gain of log likelihood that the whole step promises."""
    step = _inverse(at.information) @ at.gradient
    gain = float(at.gradient @ step)
    return step * (LARGEST_STEP / max(_size(step, metric), LARGEST_STEP)), gain


def _inverse(information: Array) -> Array:
    """Inverted as a correlation, so that covariates of different units do no harm."""
    scale = np.sqrt(np.diagonal(information))
    return np.asarray(np.linalg.inv(information / np.outer(scale, scale)) / np.outer(scale, scale))


def _size(vector: Array, metric: Array) -> float:
    """Standard deviation of ``vector`` times x over the risk sets at beta 0: free of units, and of how x is coded."""
    return math.sqrt(max(float(vector @ metric @ vector), 0.0))


def _unidentified(information: Array, names: tuple[str, ...]) -> str | None:
    """The first covariate without variance, or of which those before it leave none."""
    variance = np.diagonal(information)
    for j, name in enumerate(names):
        if variance[j] <= 0:
            return name
        scale = np.sqrt(variance[: j + 1])
        correlation = information[: j + 1, : j + 1] / np.outer(scale, scale)
        explained = correlation[j, :j] @ np.linalg.solve(correlation[:j, :j], correlation[:j, j]) if j else 0.0
        if 1.0 - explained < LEAST_UNEXPLAINED:
            return name
    return None


def _refuse_separation(beta: Array, step: Array, gain: float, metric: Array, names: tuple[str, ...]) -> None:
    """A likelihood that rises no more while beta still moves, or has moved too far to be an estimate."""
    endless = gain < FLAT and _size(step, metric) > LARGE_STEP
    if endless or _size(beta, metric) > LARGEST_BETA:
        far = np.abs(step if endless else beta) * np.sqrt(np.diagonal(metric))
        raise Separation(names[int(np.argmax(far))])


def _result(
    names: tuple[str, ...], beta: Array, at: CoxDerivatives, null: float, iterations: int, converged: bool
) -> CoxFit:
    se = np.sqrt(np.diagonal(_inverse(at.information)))
    z = beta / se
    with np.errstate(over="ignore"):
        ratio, low, high = (np.exp(beta + shift * NORMAL_QUANTILE * se) for shift in (0, -1, 1))
    for name, bound in zip(names, high, strict=True):
        if not np.isfinite(bound):
            raise InputError(f"Cox regression: the hazard ratio of {name!r} overflows; give it in a smaller unit")
    return CoxFit(
        covariates=names,
        beta=beta,
        se=se,
        z=z,
        p=torch.special.erfc(torch.from_numpy(np.abs(z) / math.sqrt(2.0))).numpy(),
        hazard_ratio=ratio,
        ci_low=low,
        ci_high=high,
        log_likelihood=at.log_likelihood,
        null_log_likelihood=null,
        events=at.events,
        iterations=iterations,
        converged=converged,
    )
