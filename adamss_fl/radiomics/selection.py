"""Which radiomics features join the survival head: the best by univariate Cox that do not repeat a better one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adamss_fl import plain
from adamss_fl.errors import InputError
from adamss_fl.radiomics.moments import LEAST_PATIENTS

CANDIDATES_PER_PLACE = 8
"""Correlations are asked for among this many times the features wanted; radiomics features come in clusters."""


@dataclass(frozen=True)
class CrossProducts:
    """Count, means (M,) and centred cross products (M, M) of M features over patients; ``+`` merges sites.

    A site's cross products tell how its patients' features vary together. A site with fewer than LEAST_PATIENTS
    patients sends zeros.
    """

    n: int
    mean: NDArray[np.float64]
    products: NDArray[np.float64]

    @classmethod
    def of(cls, z: ArrayLike) -> "CrossProducts":
        """Of standardised features ``z`` (N, M), missing ones filled with 0. Raises InputError for other arrays."""
        values = np.asarray(z, dtype=np.float64)
        if values.ndim != 2 or not np.isfinite(values).all():
            raise InputError("cross products: features must be finite, (N, M); fill what is missing with 0")
        n, features = values.shape
        if n < LEAST_PATIENTS:
            return cls(0, np.zeros(features), np.zeros((features, features)))
        mean = values.mean(axis=0)
        centred = values - mean
        return cls(n, mean, centred.T @ centred)

    def __add__(self, other: "CrossProducts") -> "CrossProducts":
        """Of the union. Source: Chan, Golub and LeVeque, The American Statistician 37:242 (1983), for pairs."""
        if self.mean.shape != other.mean.shape:
            raise InputError(f"cross products: of {self.mean.size} and of {other.mean.size} features cannot be merged")
        n = self.n + other.n
        share = other.n / max(n, 1)
        delta = other.mean - self.mean
        products = self.products + other.products + np.outer(delta, delta) * (self.n * share)
        return CrossProducts(n, self.mean + delta * share, products)

    def correlation(self) -> NDArray[np.float64]:
        """(M, M) Pearson correlations; 0 with a feature that does not vary."""
        spread = np.sqrt(np.diag(self.products))
        scale = np.outer(spread, spread)
        found = np.where(scale > 0, self.products / np.where(scale > 0, scale, 1.0), 0.0)
        return np.clip(found, -1.0, 1.0)

    def plain(self) -> dict[str, Any]:
        """JSON-able lists."""
        return {"n": self.n, "mean": self.mean.tolist(), "products": self.products.tolist()}

    @classmethod
    def from_plain(cls, given: Any, features: int | None = None) -> "CrossProducts":
        """The inverse of ``plain``; raises InputError for other keys or shapes, or what no patients can have."""
        found = plain.record(given, ("n", "mean", "products"), "cross products")
        n = int(plain.counts(found["n"], (), "cross products: n"))
        mean = plain.floats(found["mean"], (features,), "cross products: mean")
        products = plain.floats(found["products"], (mean.size, mean.size), "cross products")
        if (np.diag(products) < 0).any() or not np.allclose(products, products.T, rtol=1e-9, atol=1e-9):
            raise InputError("cross products: not symmetric, or a sum of squares is negative")
        return cls(n, mean, products)


def candidates(p: ArrayLike, names: Sequence[str], select: int) -> tuple[int, ...]:
    """Indices of the features whose correlations decide: the ``8 * select`` of lowest p, best first, ties by name.

    p : (F,) from ``univariate_cox``. A feature with p = 1, which has no fit, is never one.
    Raises InputError where p and names differ in number.
    """
    values = np.asarray(p, dtype=np.float64)
    if values.shape != (len(names),):
        raise InputError(f"selection: {values.shape} p-values for {len(names)} names; give one each")
    order = sorted(np.flatnonzero(values < 1).tolist(), key=lambda index: (values[index], names[index]))
    return tuple(order[: CANDIDATES_PER_PLACE * select])


def prune(order: Sequence[int], correlation: ArrayLike, select: int, max_correlation: float) -> tuple[int, ...]:
    """Walk through ``order`` and keep a feature where |r| <= ``max_correlation`` with all that are kept already.

    order : features, best first; correlation : (M, M), row and column m those of order[m].
    Returns up to ``select`` features of ``order``; fewer where no more are left, whose places in the encoding then stay
    0. Raises InputError where the shapes differ.
    """
    r = np.abs(np.asarray(correlation, dtype=np.float64))
    if r.shape != (len(order), len(order)):
        raise InputError(f"selection: correlations {r.shape} of {len(order)} features; give (M, M)")
    kept: list[int] = []
    for row in range(len(order)):
        if len(kept) == select:
            break
        if all(r[row, other] <= max_correlation for other in kept):
            kept.append(row)
    return tuple(order[row] for row in kept)
