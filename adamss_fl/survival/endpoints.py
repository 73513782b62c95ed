"""Endpoints as they enter the room: follow-up times in days and event indicators, checked once."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from adamss_fl.errors import InputError


def check_endpoints(
    time_days: ArrayLike | Tensor, event: ArrayLike | Tensor
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Times (N,) as float64 days and events (N,) as bool.

    Raises InputError where lengths differ, a time is negative or not finite, or an event is not 0 or 1. The message
    gives the position in the array and never a patient.
    """
    times, events = to_float64(time_days), to_float64(event)
    if times.ndim != 1 or events.shape != times.shape:
        raise InputError(f"endpoints: times {times.shape} and events {events.shape} differ in shape; give one of each")
    bad_time = np.flatnonzero(~(np.isfinite(times) & (times >= 0)))
    if bad_time.size:
        raise InputError(f"endpoints: time at position {bad_time[0]} is negative or not finite; give days of 0 or more")
    bad_event = np.flatnonzero((events != 0) & (events != 1))
    if bad_event.size:
        raise InputError(f"endpoints: event at position {bad_event[0]} is not 0 or 1; give 1 for an event, else 0")
    return times, events == 1


def to_float64(values: ArrayLike | Tensor) -> NDArray[np.float64]:
    """Numbers from a list, an array or a tensor on any device."""
    if isinstance(values, Tensor):
        values = values.detach().to("cpu").double().numpy()
    return np.asarray(values, dtype=np.float64)
