"""What an operator does on the stand-in: refuse what CUDA refuses, count what waits, and compute on the CPU."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

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


@dataclass(frozen=True)
class _Facts:
    """Of an operator: whether it gives another view and so needs no byte; whether it is elementwise; what it writes."""

    name: str
    is_view: bool
    elementwise: bool
    written: frozenset[int | str]
    waits: bool


@cache
def _facts(op: Any) -> _Facts:
    schema = op._schema
    aliases = [returned.alias_info for returned in schema.returns if returned.alias_info is not None]
    return _Facts(
        name=schema.name,
        is_view=bool(aliases) and not any(alias.is_write for alias in aliases),
        elementwise=torch.Tag.pointwise in op.tags,
        written=frozenset(
            key for place, each in enumerate(schema.arguments) if each.is_write for key in (place, each.name)
        ),
        waits=schema.name in _WAITS_TO_CHECK or bool(_ALWAYS_WAITS & set(op.tags)),
    )


def _any_operator(op: Any, *args: Any, **kwargs: Any) -> Any:
    in_use()
    facts = _facts(op)
    for key, value in (*enumerate(args), *kwargs.items()):
        if isinstance(value, torch.Generator) and value.device.type != NAME:
            raise RuntimeError(f"Expected a '{NAME}' device type for generator but found '{value.device}' in {op}")
        for tensor in _tensors(value):
            _refuse_another_device(op, tensor, facts.elementwise and key not in facts.written)
    if facts.is_view:
        return op.redispatch(CPU_KERNELS, *args, **kwargs)
    if facts.name in _BY_INDEX:
        if any(index.dtype in (torch.bool, torch.uint8) for index in _tensors(args[1])):
            waited(f"{facts.name} by a mask")
    elif facts.waits:
        waited(facts.name)
    return _on_cpu(op, args, kwargs)


def _refuse_another_device(op: Any, tensor: Tensor, scalar_may_enter: bool) -> None:
    """As CUDA: a CPU scalar may enter an elementwise operator, though not be its result; nothing else may be mixed."""
    if is_here(tensor) or (scalar_may_enter and tensor.dim() == 0 and tensor.device.type == "cpu"):
        return
    raise RuntimeError(
        f"Expected all tensors to be on the same device, but found at least two devices, {NAME}:0 and "
        f"{tensor.device}! (when checking the arguments of {op})"
    )


def _on_cpu(op: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """``op`` on the bytes of its tensors; what it changes is changed, what it makes is on the stand-in."""
    known: dict[int, torch.UntypedStorage] = {}
    given: dict[int, tuple[Tensor, Tensor, int]] = {}

    def lower(value: Any) -> Any:
        if isinstance(value, Tensor) and is_here(value):
            on_cpu = unwrap(value)
            host = on_cpu.untyped_storage()
            known[host._cdata] = value.untyped_storage()
            given[id(on_cpu)] = (value, on_cpu, host.data_ptr())
            return on_cpu
        if isinstance(value, torch.device) and value.type == NAME:
            return torch.device("cpu")
        return value

    def lift(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return given[id(value)][0] if id(value) in given else wrap(value, known)

    found = op(*[_each(lower, value) for value in args], **{name: _each(lower, v) for name, v in kwargs.items()})
    for here, on_cpu, address in given.values():
        host = on_cpu.untyped_storage()
        if (here.shape, here.stride(), address) != (on_cpu.shape, on_cpu.stride(), host.data_ptr()):
            if here.numel():
                raise NotImplementedError(f"{op}: the stand-in gives a result its size only where it was empty")
            place(here, storage_over(host), on_cpu)
    return _each(lift, found)


def _each(change: Callable[[Any], Any], value: Any) -> Any:
    """``change`` of a value, or of each of a list's."""
    return type(value)(map(change, value)) if type(value) in (list, tuple) else change(value)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        yield from (each for each in value if isinstance(each, Tensor))


def _copy(target: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
    in_use()
    if not is_here(target):
        waited("copy to the host")
        target.copy_(unwrap(source))
        return target
    if not is_here(source) and source.device.type != "cpu":
        raise NotImplementedError(f"the stand-in does not copy from {source.device}")
    if not is_here(source) and not _is_copied_behind_the_host(target, source, non_blocking):
        waited("copy from the host")
    unwrap(target).copy_(unwrap(source) if is_here(source) else source)
    return target


def _is_copied_behind_the_host(target: Tensor, source: Tensor, non_blocking: bool) -> bool:
    """Whether CUDA only queues the copy: out of pinned memory, as it lies there."""
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


def _convolution(*args: Any) -> Any:
    """In fp32 and rounded where the arguments have 16 bits, as a GPU sums; a CPU's own kernel is not always right."""
    x, weight, bias, *how = args
    wide = [None if each is None else _wide(each) for each in (x, weight, bias)]
    return _any_operator(aten.convolution.default, *wide, *how).to(x.dtype)


def _convolution_backward(*args: Any) -> Any:
    gradient, x, weight, *how, wanted = args
    wide = [_wide(each) for each in (gradient, x, weight)]
    found = _any_operator(aten.convolution_backward.default, *wide, [weight.shape[0]], *how, wanted)
    return tuple(each if each is None else each.to(x.dtype) for each in found)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
