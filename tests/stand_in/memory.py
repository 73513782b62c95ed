"""Tensors of the stand-in: a storage of its device over the bytes of a CPU storage, which it keeps alive."""

from typing import Any

import torch
from torch import Tensor

NAME = "standin"
CPU_KERNELS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
"""To run a kernel that reads a tensor's metadata only, for which a CPU kernel is right on any device."""

_set = torch.ops.aten.set_.source_Storage_storage_offset


def is_here(tensor: Tensor) -> bool:
    """Whether ``tensor`` is on the stand-in."""
    return tensor.device.type == NAME


def storage_over(bytes_of: torch.UntypedStorage) -> torch.UntypedStorage:
    """A storage of the stand-in over the bytes of a CPU storage."""
    device = torch.device(NAME, 0)
    storage: Any = torch._C._construct_storage_from_data_pointer(bytes_of.data_ptr(), device, bytes_of.nbytes())
    storage.host = bytes_of  # the object lives as long as the storage: the bytes too
    return storage  # type: ignore[no-any-return]


def place(tensor: Tensor, storage: torch.UntypedStorage, like: Tensor) -> Tensor:
    """Let ``tensor``, on the stand-in, be what ``like`` is on the CPU, over ``storage``."""
    _set.redispatch(CPU_KERNELS, tensor, storage, like.storage_offset(), like.size(), like.stride())
    return tensor


def wrap(value: Tensor, known: dict[int, torch.UntypedStorage] | None = None) -> Tensor:
    """The CPU tensor ``value`` as a tensor of the stand-in over the same bytes.

    known : storages of the stand-in by the address of their bytes; a result that shares bytes shares the storage.
    """
    host = value.untyped_storage()
    storage = (known or {}).get(host._cdata)
    here: Tensor = torch._C._acc.create_empty_tensor((0,), value.dtype)
    return place(here, storage_over(host) if storage is None else storage, value)


def unwrap(tensor: Tensor) -> Tensor:
    """The CPU tensor over the same bytes as ``tensor``, of the same sizes and strides."""
    host: Any = tensor.untyped_storage().host  # type: ignore[attr-defined]
    on_cpu = torch.empty(0, dtype=tensor.dtype)
    return on_cpu.set_(host, tensor.storage_offset(), tensor.size(), tensor.stride())
