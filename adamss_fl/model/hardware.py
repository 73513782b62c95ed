"""The precision that suits a device: by what its hardware has natively, or by a short measurement."""

import os
import time
from functools import cache
from typing import Literal

import torch
from torch.nn import functional

Precision = Literal["auto", "bf16", "fp16", "fp32"]
"""What a configuration may ask for."""

Resolved = Literal["bf16", "fp16", "fp32"]
"""What a forward pass runs in."""

LEAST_GAIN = 1.3
"""A measured CPU computes in bfloat16 where a convolution is at least this many times faster than in fp32."""

MEASURED_VARIABLE = "ADAMSS_FL_CPU_PRECISION"
"""Environment variable with the outcome of this machine's measurement, for the processes that a command starts."""

_BF16_CAPABILITY = 8
_FP16_CAPABILITY = 7


def resolve_precision(asked: Precision, device: torch.device | str) -> Resolved:
    """The precision of a forward pass on ``device``; all but ``auto`` stand for themselves.

    ``auto`` on CUDA: ``bf16`` from compute capability 8 (and on ROCm), ``fp16`` from 7 (tensor cores, no bfloat16),
    else ``fp32``. On a CPU: ``bf16`` with AMX; with AVX512-BF16 and no AMX what :func:`measured_precision` finds; else
    ``fp32``. On another accelerator: ``bf16`` where its torch module says that it is supported, else ``fp32``.
    """
    if asked != "auto":
        return asked
    device = torch.device(device)
    if device.type == "cuda":
        return _cuda_precision(device)
    if device.type == "cpu":
        return measured_precision() if is_measured("auto", device) else _cpu_precision()
    module = getattr(torch, device.type, None)
    supported = getattr(module, "is_bf16_supported", None)
    return "bf16" if supported is not None and supported() else "fp32"


def is_measured(asked: Precision, device: torch.device | str) -> bool:
    """Whether :func:`resolve_precision` has to measure, so that its answer may differ from process to process."""
    return asked == "auto" and torch.device(device).type == "cpu" and cpu_bf16_flags() == (True, False)


def is_emulated(asked: Precision, device: torch.device | str) -> bool:
    """Whether ``asked`` is a 16-bit type that ``device`` (a CPU or a CUDA GPU) has no instructions for."""
    device = torch.device(device)
    if asked not in ("bf16", "fp16") or device.type not in ("cpu", "cuda"):
        return False
    if device.type == "cuda":
        native = _cuda_precision(device)
        return native == "fp32" if asked == "fp16" else native != "bf16"
    if asked == "fp16":
        return not _cpu_flag("avx512_fp16")
    return not any(cpu_bf16_flags())


def cpu_bf16_flags() -> tuple[bool, bool]:
    """Whether this CPU has AVX512-BF16, and whether it has AMX with bfloat16."""
    return _cpu_flag("avx512_bf16"), _cpu_flag("amx_bf16")


@cache
def measured_precision() -> Resolved:
    """``bf16`` where :func:`gain_over_fp32` is at least ``LEAST_GAIN`` on this CPU, else ``fp32``; once a process."""
    known = os.environ.get(MEASURED_VARIABLE)
    if known in ("bf16", "fp32"):
        return "bf16" if known == "bf16" else "fp32"
    return "bf16" if gain_over_fp32("bf16", "cpu") >= LEAST_GAIN else "fp32"


@cache
def gain_over_fp32(precision: Resolved, device: str) -> float:
    """How many times faster a convolution runs forward and backward in ``precision`` than in fp32 on ``device``.

    Two maps of 16 channels and 12^3 voxels, kernel 3^3, channels_last_3d: large enough for the paths that the
    network takes, some milliseconds in all. The best of five is taken of either kind, in turn. No random number is
    drawn.
    """
    best: dict[str, float] = {"fp32": float("inf"), precision: float("inf")}
    for turn in range(6):
        for kind in best:
            seconds = _seconds_of_convolution(kind, torch.device(device))
            if turn:  # the first of each makes its kernel
                best[kind] = min(best[kind], seconds)
    return best["fp32"] / best[precision]


def _seconds_of_convolution(precision: str, device: torch.device) -> float:
    layout = torch.channels_last_3d
    types = {"bf16": torch.bfloat16, "fp16": torch.float16}
    with torch.inference_mode(False), torch.enable_grad():
        x = torch.full((2, 16, 12, 12, 12), 0.5, device=device).contiguous(memory_format=layout).requires_grad_()
        w = torch.full((16, 16, 3, 3, 3), 0.1, device=device).contiguous(memory_format=layout).requires_grad_()
        _wait_for(device)
        start = time.perf_counter()
        with torch.autocast(device.type, dtype=types.get(precision, torch.bfloat16), enabled=precision in types):
            y = functional.conv3d(x, w, padding=1)
        torch.autograd.grad(y, (x, w), torch.ones_like(y))
        _wait_for(device)
    return time.perf_counter() - start


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _cuda_precision(device: torch.device) -> Resolved:
    if torch.version.hip is not None:
        return "bf16"
    major, _ = torch.cuda.get_device_capability(device)
    if major >= _BF16_CAPABILITY:
        return "bf16"
    return "fp16" if major >= _FP16_CAPABILITY else "fp32"


def _cpu_precision() -> Resolved:
    return "bf16" if _cpu_flag("amx_bf16") else "fp32"


def _cpu_flag(name: str) -> bool:
    """One of ``torch.cpu.get_capabilities()``; of a PyTorch that has it not yet, by its older functions."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)
    if capabilities is not None:
        return bool(capabilities().get(name, False))
    older = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}.get(name)
    asked = getattr(torch.cpu, older, None) if older else None
    return bool(asked()) if asked is not None else False
