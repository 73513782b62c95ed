"""The learning rate as a function of how much of the stage is done, over all rounds of the run."""

import math

from adamss_fl.training.settings import StageSettings

_WARM_UP = 0.3
_START_DIVISOR = 25.0


def learning_rate(settings: StageSettings, fraction: float) -> float:
    """Learning rate at ``fraction`` in [0, 1] of the whole stage.

    ``one_cycle``: cosine from lr/25 up to lr over the first 30 %, then cosine down to lr/25000 (Smith and Topin,
    arXiv 1708.07120, in the two-phase form). ``steps``: lr, then lr times each of ``drops`` from 40 % and from 80 %
    (as published). ``constant``: lr. Raises ValueError where the fraction lies outside [0, 1].
    """
    if not 0.0 <= fraction <= 1.0:
        raise ValueError(f"the fraction of a stage lies in [0, 1], not at {fraction}")
    peak = settings.learning_rate
    if settings.schedule == "constant":
        return peak
    if settings.schedule == "steps":
        return peak * (1.0 if fraction < 0.4 else settings.drops[0] if fraction < 0.8 else settings.drops[1])
    start, end = peak / _START_DIVISOR, peak / (_START_DIVISOR * 1000.0)
    if fraction < _WARM_UP:
        return _cosine(start, peak, fraction / _WARM_UP)
    return _cosine(peak, end, (fraction - _WARM_UP) / (1.0 - _WARM_UP))


def _cosine(first: float, last: float, fraction: float) -> float:
    return last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * fraction))
