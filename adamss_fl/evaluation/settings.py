"""Settings of evaluation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationSettings:
    """How figures are made.

    bootstrap : resamples of the test patients behind each 95 % interval.
    every : validation figures every so many rounds (0: never).
    risk_groups : number of equal-sized predicted risk groups in the Kaplan-Meier figure.
    """

    bootstrap: int = 1000
    every: int = 1
    risk_groups: int = 2
