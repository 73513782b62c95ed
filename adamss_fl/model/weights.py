"""Model weights as named numpy arrays: strict in, whole out, and a hash of the architecture they fit."""

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from adamss_fl.errors import InputError
from adamss_fl.model.groups import names_in
from adamss_fl.model.network import skeleton
from adamss_fl.model.settings import ModelSettings

Weights = dict[str, NDArray[Any]]
"""Tensors by their state-dict name, sorted. Never 0-d: a scalar buffer travels with shape (1,)."""

_NAMED_IN_ERROR = 5


def to_weights(model: nn.Module) -> Weights:
    """A copy of every tensor of ``model``'s state, float32 or int64, C-contiguous on the CPU, in name order."""
    state = model.state_dict()
    return {name: _to_array(state[name]) for name in sorted(state)}


def load_weights(
    model: nn.Module,
    weights: Mapping[str, NDArray[Any]],
    *,
    groups: Iterable[str] | None = None,
    partial_groups: Iterable[str] = (),
) -> None:
    """Copy ``weights`` into ``model``, all or nothing.

    groups : the parameter groups that ``weights`` must hold, whole and nothing else; None is the whole model.
    partial_groups : groups whose tensors may be missing from ``weights`` and then stay as they are.

    Raises InputError with one line that names the tensors (the first five, and their count) which are missing,
    unexpected, of another shape or dtype, or not finite; the model is then unchanged.
    """
    state = model.state_dict()
    expected = frozenset(state) if groups is None else names_in(model, groups)
    optional = names_in(model, partial_groups)
    faults = _misfits(state, weights, expected, optional)
    if faults:
        more = f" and {len(faults) - _NAMED_IN_ERROR} more" if len(faults) > _NAMED_IN_ERROR else ""
        raise InputError(
            f"weights do not fit the model ({len(faults)} tensors): {'; '.join(faults[:_NAMED_IN_ERROR])}{more}; "
            "use weights of the same model settings"
        )
    with torch.no_grad():
        for name in sorted(weights):
            tensor = state[name]
            tensor.copy_(torch.from_numpy(np.array(weights[name])).reshape(tensor.shape))


def misfits(settings: ModelSettings, weights: Mapping[str, NDArray[Any]]) -> list[str]:
    """Every tensor in which ``weights`` differ from what the model of ``settings`` holds, one phrase each.

    A tensor is named where it is missing, unexpected, of another shape or dtype, or not finite.
    """
    state = _shapes(settings)
    return _misfits(state, weights, frozenset(state), frozenset())


def architecture_hash(settings: ModelSettings) -> str:
    """SHA-256 (hex) over the names, shapes and dtypes of the tensors of the model that ``settings`` make."""
    state = _shapes(settings)
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {_shape(state[name])} {_dtype(state[name])}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=16)
def _shapes(settings: ModelSettings) -> Mapping[str, Tensor]:
    """Tensors of the names, shapes and dtypes of the model of ``settings``, of one undefined value each in memory."""
    state = skeleton(settings).state_dict()
    return {name: torch.empty((), dtype=tensor.dtype).expand(tensor.shape) for name, tensor in state.items()}


def _misfits(
    state: Mapping[str, Tensor],
    weights: Mapping[str, NDArray[Any]],
    expected: frozenset[str],
    optional: frozenset[str],
) -> list[str]:
    found = [f"{name} is missing" for name in sorted(expected - optional - set(weights))]
    found += [f"{name} is unexpected" for name in sorted(set(weights) - expected - (optional & set(state)))]
    for name in sorted(set(weights) & set(state) & (expected | optional)):
        found += _faults(name, weights[name], state[name])
    return found


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape) or (1,)


def _dtype(tensor: Tensor) -> np.dtype[Any]:
    return np.dtype(np.float32 if tensor.is_floating_point() else np.int64)


def _to_array(tensor: Tensor) -> NDArray[Any]:
    array = np.array(tensor.detach().cpu().numpy(), dtype=_dtype(tensor), order="C")
    return array.reshape(_shape(tensor))


def _faults(name: str, array: NDArray[Any], tensor: Tensor) -> list[str]:
    if not isinstance(array, np.ndarray):
        return [f"{name} is no array"]
    if array.shape != _shape(tensor):
        return [f"{name} has shape {array.shape}, not {_shape(tensor)}"]
    if array.dtype != _dtype(tensor):
        return [f"{name} is {array.dtype}, not {_dtype(tensor)}"]
    if not np.isfinite(array).all():
        return [f"{name} is not finite"]
    return []
