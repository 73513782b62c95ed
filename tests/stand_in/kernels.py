"""What an operator does on the stand-in: refuse what CUDA refuses, count what waits, and compute on the CPU."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from stand_in.memory import CPU_KERNELS, NAME, is_here, place, storage_over, unwrap, wrap
from stand_in.process import in_use
from stand_in.waits import waited

aten = torch.ops.aten

_ALWAYS_WAITS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_WAITS_TO_CHECK = {"aten::_linalg_eigh", "aten::_linalg_svd", "aten::linalg_eig", "aten::_linalg_check_errors"}
"""Decompositions that ask, on CUDA, whether they converged."""
_BY_INDEX = {"aten::index", "aten::index_put_", "aten::_index_put_impl_", "aten::index_put"}
"""They wait where an index is a mask, whose count is needed."""

_libraries: list[torch.library.Library] = []


def register() -> None:
    """Register the kernels; once in a process."""
    everything = torch.library.Library("_", "IMPL")
    everything.fallback(_any_operator, "PrivateUse1")
    own = torch.library.Library("aten", "IMPL")
    own.impl("copy_", _copy, "PrivateUse1")
    own.impl("resize_", _resize, "PrivateUse1")
    own.impl("convolution_overrideable", _convolution, "PrivateUse1")
    own.impl("convolution_backward_overrideable", _convolution_backward, "PrivateUse1")
    own.impl("_pin_memory", _pin_memory, "CPU")
    own.impl("is_pinned", _is_pinned, "CPU")
    _libraries.extend((everything, own))


def _any_operator(op: Any, *args: Any, **kwargs: Any) -> Any:
    in_use()
    tensors = list(_tensors((args, kwargs)))
    _refuse_two_devices(op, args, kwargs, tensors)
    _refuse_other_generator(op, args, kwargs)
    if _is_view(op):
        return op.redispatch(CPU_KERNELS, *args, **kwargs)
    _count(op, args)
    return _on_cpu(op, args, kwargs)


def _on_cpu(op: Any, args: Any, kwargs: Any) -> Any:
    """``op`` on the bytes of its tensors; what it changes is changed, what it makes is on the stand-in."""
    known: dict[int, torch.UntypedStorage] = {}
    originals: dict[int, Tensor] = {}
    kept: list[tuple[Tensor, Tensor, int]] = []

    def lower(value: Any) -> Any:
        if isinstance(value, Tensor) and is_here(value):
            on_cpu = unwrap(value)
            known[on_cpu.untyped_storage()._cdata] = value.untyped_storage()
            originals[id(on_cpu)] = value
            kept.append((value, on_cpu, on_cpu.untyped_storage().data_ptr()))
            return on_cpu
        if isinstance(value, torch.device) and value.type == NAME:
            return torch.device("cpu")
        return value

    def lift(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in originals:
            return originals[id(value)]
        return wrap(value, known)

    low_args, low_kwargs = pytree.tree_map(lower, (args, kwargs))
    found = op(*low_args, **low_kwargs)
    for here, on_cpu, address in kept:
        host = on_cpu.untyped_storage()
        if (here.shape, here.stride(), address) != (on_cpu.shape, on_cpu.stride(), host.data_ptr()):
            if here.numel():
                raise NotImplementedError(f"{op}: the stand-in gives a result its size only where it was empty")
            place(here, storage_over(host), on_cpu)
    return pytree.tree_map(lift, found)


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in pytree.tree_leaves(values) if isinstance(value, Tensor))


def _refuse_two_devices(op: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> None:
    """As CUDA: a CPU scalar may enter an elementwise operator, though not be its result; nothing else may be mixed."""
    written = {
        id(tensor)
        for argument, value in zip(op._schema.arguments, args, strict=False)
        if argument.is_write
        for tensor in _tensors(value)
    } | {id(tensor) for name, value in kwargs.items() if name == "out" for tensor in _tensors(value)}
    for tensor in tensors:
        if is_here(tensor):
            continue
        if tensor.dim() == 0 and torch.Tag.pointwise in op.tags and id(tensor) not in written:
            continue
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and "
            f"{tensor.device}! (when checking the arguments of {op})"
        )


def _refuse_other_generator(op: Any, args: Any, kwargs: Any) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, torch.Generator) and value.device.type != NAME:
            raise RuntimeError(f"Expected a '{NAME}' device type for generator but found '{value.device}' in {op}")


def _is_view(op: Any) -> bool:
    """Whether ``op`` gives another view of its argument, and so needs no byte of it."""
    schema = op._schema
    aliases = [returned.alias_info for returned in schema.returns if returned.alias_info is not None]
    return bool(aliases) and not any(alias.is_write for alias in aliases)


def _count(op: Any, args: Any) -> None:
    name = op._schema.name
    if name in _BY_INDEX:
        if any(index.dtype in (torch.bool, torch.uint8) for index in _tensors(args[1])):
            waited(f"{name} by a mask")
    elif name in _WAITS_TO_CHECK or _ALWAYS_WAITS & set(op.tags):
        waited(name)


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    in_use()
    if not is_here(target):
        waited("copy to the host")
        target.copy_(unwrap(source))
        return target
    if not is_here(source) and source.device.type != "cpu":
        raise NotImplementedError(f"the stand-in does not copy from {source.device}")
    if not is_here(source) and not _is_pinned_and_plain(target, source, non_blocking):
        waited("copy from the host")
    unwrap(target).copy_(unwrap(source) if is_here(source) else source)
    return target


def _is_pinned_and_plain(target: Tensor, source: Tensor, non_blocking: bool) -> bool:
    """Whether CUDA copies ``source`` behind the host's back: out of pinned memory, as it lies there."""
    alike = target.dtype == source.dtype and target.shape == source.shape and target.stride() == source.stride()
    return non_blocking and alike and source.is_pinned()


def _pin_memory(tensor: Tensor, device: torch.device | None = None) -> Tensor:
    """A copy of a CPU tensor whose storage counts as pinned."""
    pinned = torch.empty_like(tensor).copy_(tensor)
    pinned.untyped_storage().pinned = True  # type: ignore[attr-defined]
    return pinned


def _is_pinned(tensor: Tensor, device: torch.device | None = None) -> bool:
    return getattr(tensor.untyped_storage(), "pinned", False)


def _resize(tensor: Tensor, size: Any, *, memory_format: torch.memory_format | None = None) -> Tensor:
    """New bytes of ``size``; of the old ones as many as fit are kept."""
    in_use()
    host = unwrap(tensor).clone()
    host.resize_(size, memory_format=memory_format)
    return place(tensor, storage_over(host.untyped_storage()), host)


def _convolution(*args: Any) -> Tensor:
    return _any_operator(aten.convolution.default, *args)  # type: ignore[no-any-return]


def _convolution_backward(*args: Any) -> Any:
    gradient, x, weight, *how, wanted = args
    sizes = [weight.shape[0]]
    return _any_operator(aten.convolution_backward.default, gradient, x, weight, sizes, *how, wanted)
