"""Strict reading of JSON-able records that another process wrote: a wrong key, shape or number is an InputError."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError


def record(value: Any, keys: Collection[str], what: str) -> Mapping[str, Any]:
    """``value``, a mapping with exactly ``keys``."""
    if not isinstance(value, Mapping):
        raise InputError(f"{what}: a {type(value).__name__} where a mapping of {', '.join(keys)} is expected")
    odd = sorted(set(map(str, value)) ^ set(keys))
    if odd:
        state = "is missing" if odd[0] in keys else "is unknown"
        raise InputError(f"{what}: key {odd[0]!r} {state}; expected are {', '.join(keys)}")
    return value


def floats(value: Any, shape: tuple[int | None, ...], what: str) -> NDArray[np.float64]:
    """``value`` as finite float64 numbers of ``shape``, in which None stands for any length."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # ragged lists
        raise InputError(f"{what}: not an array of numbers") from error
    if array.dtype.kind not in "iuf":
        raise InputError(f"{what}: not an array of numbers")
    fits = array.ndim == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        raise InputError(f"{what}: shape {array.shape} where {shape} is expected")
    numbers = array.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise InputError(f"{what}: a value is not finite")
    return numbers


def counts(value: Any, shape: tuple[int | None, ...], what: str) -> NDArray[np.int64]:
    """``value`` as whole numbers of 0 or more of ``shape``."""
    numbers = floats(value, shape, what)
    if (numbers < 0).any() or (numbers != np.floor(numbers)).any():
        raise InputError(f"{what}: a count is not a whole number of 0 or more")
    return numbers.astype(np.int64)


def texts(value: Any, what: str) -> tuple[str, ...]:
    """``value`` as texts that differ from each other."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, str) for each in value):
        raise InputError(f"{what}: not a list of texts")
    if len(set(value)) != len(value):
        raise InputError(f"{what}: a text is there twice")
    return tuple(value)
