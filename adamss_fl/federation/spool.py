"""Replies' tensors on disk while a round is collected, so that memory does not grow with the number of sites."""

import tempfile
from collections.abc import Mapping
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
    file: Any = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - it is open for as long as the mapping lives
    np.savez(file, **dict(tensors))  # type: ignore[arg-type]  # its stubs take any keyword for a flag
    file.seek(0)
    found: Mapping[str, NDArray[Any]] = np.load(file, allow_pickle=False)
    return found


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
