"""Models in bfloat16 on the wire: half the bytes, in both directions.

The server keeps its model in fp32 and sends it rounded. A site trains from what it has received and answers with the
change since, rounded: that loses up to 0.4 % of a change, where a rounded weight would often not change at all. The
server adds it to its own model. Moments of norms and whole numbers travel as they are.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from adamss_fl.federation.messages import Tensors, Weights

_PACKED = np.dtype(np.uint16)
"""How a bfloat16 tensor is held where numpy has no such type: its bits."""


def pack(weights: Tensors) -> Weights:
    """``weights`` with every fp32 tensor but moments of norms as the bits of bfloat16, rounded to the nearest."""
    return {name: _rounded(array) if _is_rounded(name, array) else array for name, array in weights.items()}


def unpack(weights: Tensors) -> Weights:
    """What :func:`pack` gave, in fp32 again."""
    return {name: _widened(array) if array.dtype == _PACKED else array for name, array in weights.items()}


def pack_change(weights: Tensors, start: Tensors) -> Weights:
    """``weights`` less ``start`` packed, where they are rounded; the others as they are."""
    return {
        name: _rounded(array - start[name]) if _is_rounded(name, array) else array for name, array in weights.items()
    }


class Changed(Mapping[str, NDArray[Any]]):
    """``model`` moved by the packed ``change`` of a reply, a tensor whenever it is asked for.

    A tensor that is no packed change of the model's is left as it came, for the checks to refuse.
    """

    def __init__(self, model: Tensors, change: Tensors) -> None:
        self._model, self._change = model, change

    def __getitem__(self, name: str) -> NDArray[Any]:
        came = self._change[name]
        before = self._model.get(name)
        if before is None or not _is_rounded(name, before):
            return came
        if came.dtype != _PACKED or came.shape != before.shape:
            return came
        return np.asarray(before + _widened(came), dtype=before.dtype)

    def __iter__(self) -> Iterator[str]:
        return iter(self._change)

    def __len__(self) -> int:
        return len(self._change)


def is_statistic(name: str) -> bool:
    """Whether a tensor is a running moment of a norm or of the survival head's features."""
    return name.rsplit(".", 1)[-1].startswith("running_")


def _is_rounded(name: str, array: NDArray[Any]) -> bool:
    return array.dtype == np.float32 and not is_statistic(name)


def _rounded(array: NDArray[Any]) -> NDArray[Any]:
    tensor = torch.from_numpy(np.ascontiguousarray(array)).to(torch.bfloat16)
    return np.asarray(tensor.view(torch.int16).numpy().view(_PACKED))


def _widened(array: NDArray[Any]) -> NDArray[Any]:
    bits = torch.from_numpy(np.ascontiguousarray(array).view(np.int16))
    return np.asarray(bits.view(torch.bfloat16).to(torch.float32).numpy())
