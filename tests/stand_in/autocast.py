"""Autocast on the stand-in by CUDA's rules, as far as the network meets them."""

from typing import Any

import torch
from torch import Tensor

_KEY = torch._C.DispatchKey.AutocastPrivateUse1

# Lists of CUDA's rules: https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference
_IN_16_BITS = ("conv3d", "convolution", "linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum")
_IN_FP32 = (
    *("exp", "log", "rsqrt", "reciprocal", "pow.Tensor_Scalar", "softplus", "logsumexp", "cumsum", "sum.dim_IntList"),
    *("group_norm", "layer_norm", "binary_cross_entropy_with_logits", "upsample_nearest3d", "upsample_trilinear3d"),
)

_libraries: list[torch.library.Library] = []


def register_autocast() -> None:
    """Register the rules; once in a process."""
    others = torch.library.Library("_", "IMPL")
    others.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    own = torch.library.Library("aten", "IMPL")
    for name in _IN_16_BITS:
        own.impl(name, _cast(name, None), "AutocastPrivateUse1")
    for name in _IN_FP32:
        own.impl(name, _cast(name, torch.float32), "AutocastPrivateUse1")
    _libraries.extend((others, own))


def _cast(name: str, dtype: torch.dtype | None) -> Any:
    packet, _, overload = name.partition(".")
    op = getattr(getattr(torch.ops.aten, packet), overload or "default")

    def rule(*args: Any, **kwargs: Any) -> Any:
        wanted = dtype or torch.get_autocast_dtype("standin")

        def cast(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(map(cast, value))
            if isinstance(value, Tensor) and value.dtype in (torch.float32, torch.bfloat16, torch.float16):
                return value.to(wanted)
            return value

        with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(_KEY)):
            return op(*map(cast, args), **{key: cast(value) for key, value in kwargs.items()})

    return rule
