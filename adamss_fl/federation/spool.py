"""Replies' tensors on disk while a round is collected, so that memory does not grow with the number of sites."""

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.federation.messages import Tensors


def put_on_disk(tensors: Tensors, folder: Path) -> Tensors:
    """The same tensors, each read from a file in ``folder`` whenever it is asked for, bit for bit.

    The file has no name, so that nothing of it is left when the mapping is gone or the process is killed. Raises
    OSError where it cannot be written, for example on a full disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return _OnDisk(tensors, tempfile.TemporaryFile(dir=folder))


class _OnDisk(Mapping[str, NDArray[Any]]):
    """Tensors one after the other in a file."""

    def __init__(self, tensors: Tensors, file: Any) -> None:
        self._file = file
        self._places: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]] = {}
        for name, tensor in tensors.items():
            self._places[name] = (file.tell(), tensor.dtype, tensor.shape)
            file.write(np.ascontiguousarray(tensor).data)
        file.flush()

    def __getitem__(self, name: str) -> NDArray[Any]:
        place, dtype, shape = self._places[name]
        tensor: NDArray[Any] = np.empty(shape, dtype)
        self._file.seek(place)
        if self._file.readinto(tensor.data) != tensor.nbytes:
            raise OSError(f"the spooled tensor {name!r} was cut off")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class Selection(Mapping[str, NDArray[Any]]):
    """Some of a mapping's tensors under their own names; each is looked up only when it is asked for."""

    def __init__(self, tensors: Tensors, names: list[str]) -> None:
        self._tensors = tensors
        self._names = dict.fromkeys(names)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        return self._tensors[name]

    def __iter__(self) -> Any:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
