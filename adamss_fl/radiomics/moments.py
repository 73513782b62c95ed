"""Mean and spread of many variables over patients of several sites, merged from per-site sums."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adamss_fl import plain
from adamss_fl.errors import InputError

LEAST_PATIENTS = 3
"""With two patients, mean and spread give both values; a site with fewer than three sends none of a variable."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations of F variables, (F,) each; ``+`` merges sites.

    A site's moments tell, per variable, how many of its patients have it, their mean and their spread; a variable that
    fewer than LEAST_PATIENTS patients of the site have counts as one that none has.
    """

    n: NDArray[np.int64]
    mean: NDArray[np.float64]
    m2: NDArray[np.float64]

    @classmethod
    def of(cls, values: ArrayLike) -> "Moments":
        """Of the rows of ``values`` (N, F), in which NaN is a missing value. Raises InputError for an infinite one."""
        x = np.asarray(values, dtype=np.float64)
        if x.ndim != 2:
            raise InputError(f"moments: values {x.shape} must be (patients, variables)")
        if np.isinf(x).any():
            raise InputError("moments: a value is infinite; mend it, or make it missing")
        there = np.isfinite(x)
        n = there.sum(axis=0, dtype=np.int64)
        n[n < LEAST_PATIENTS] = 0
        divisor = np.maximum(n, 1)
        mean = np.where(n > 0, np.where(there, x, 0.0).sum(axis=0) / divisor, 0.0)
        m2 = np.where(n > 0, np.where(there, (x - mean) ** 2, 0.0).sum(axis=0), 0.0)
        return cls(n, mean, m2)

    def __add__(self, other: "Moments") -> "Moments":
        """Moments of the union. Source: Chan, Golub and LeVeque, The American Statistician 37:242 (1983), eq. 2.1."""
        if self.n.shape != other.n.shape:
            raise InputError(f"moments: of {self.n.size} and of {other.n.size} variables cannot be merged")
        n = self.n + other.n
        share = other.n / np.maximum(n, 1)
        delta = other.mean - self.mean
        return Moments(n, self.mean + delta * share, self.m2 + other.m2 + delta**2 * self.n * share)

    @property
    def sd(self) -> NDArray[np.float64]:
        """(F,) standard deviation over all patients (divisor n); 1 for a variable that does not vary, or that none has.

        A spread of 1e-9 of the mean is rounding.
        """
        found = np.sqrt(self.m2 / np.maximum(self.n, 1))
        return np.where(found > 1e-9 * np.abs(self.mean), found, 1.0)

    def standardise(self, values: ArrayLike) -> NDArray[np.float64]:
        """``values`` (N, F) as standard deviations from the mean; missing ones (NaN) become 0, the mean."""
        z = (np.asarray(values, dtype=np.float64) - self.mean) / self.sd
        return np.where(np.isfinite(z), z, 0.0)

    def plain(self) -> dict[str, Any]:
        """JSON-able lists."""
        return {"n": self.n.tolist(), "mean": self.mean.tolist(), "m2": self.m2.tolist()}

    @classmethod
    def from_plain(cls, given: Any, variables: int | None = None) -> "Moments":
        """The inverse of ``plain``; raises InputError for other keys or shapes, or what no patients can have."""
        found = plain.record(given, ("n", "mean", "m2"), "moments")
        n = plain.counts(found["n"], (variables,), "moments: n")
        mean, m2 = (plain.floats(found[key], n.shape, f"moments: {key}") for key in ("mean", "m2"))
        if (m2 < 0).any():
            raise InputError("moments: a sum of squares is negative")
        if ((n == 0) & ((mean != 0) | (m2 != 0))).any():
            raise InputError("moments: a variable that no patient has has a mean or a spread")
        return cls(n, mean, m2)
