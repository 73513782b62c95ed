"""The stand-in as PyTorch sees a device: its name, its module ``torch.standin``, and whether there is one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from stand_in.kernels import register
from stand_in.memory import NAME
from stand_in.process import is_in_bad_fork

VARIABLE = "STAND_IN"
_state = {"on": False}


class _Module:
    """``torch.standin``. Random numbers are those of the CPU's generator, so that both devices draw the same."""

    _initialized = True

    def is_available(self) -> bool:
        return _state["on"]

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return int(_state["on"])

    def current_device(self) -> int:
        return 0

    def device(self, index: Any) -> Any:
        return nullcontext()

    def _is_in_bad_fork(self) -> bool:
        return is_in_bad_fork()

    def manual_seed_all(self, seed: int) -> None:
        """Nothing: ``torch.manual_seed`` has seeded the CPU's generator."""

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def synchronize(self, device: Any = None) -> None:
        """Nothing is ever under way."""


class _Hook(torch._C._acc.PrivateUse1Hooks):
    def is_available(self) -> bool:
        return _state["on"]

    def has_primary_context(self, device: int) -> bool:
        return True

    def is_built(self) -> bool:
        return True


class _Guard(torch._C._acc.DeviceGuard):
    def type_(self) -> Any:
        return torch._C._autograd.DeviceType.PrivateUse1


def _set_up() -> torch.device:
    if torch._C._get_privateuse1_backend_name() != NAME:
        _setup_privateuseone_for_python_backend(NAME, _Module(), _Hook(), _Guard())
        register()
    return torch.device(NAME)


DEVICE = _set_up()


@contextmanager
def switch_on() -> Iterator[torch.device]:
    """Within the block the stand-in is PyTorch's accelerator."""
    before = _state["on"]
    _state["on"] = True
    try:
        yield DEVICE
    finally:
        _state["on"] = before


def autoload() -> None:
    """What PyTorch calls when it is imported: the stand-in is on where the environment says so."""
    _state["on"] = bool(os.environ.get(VARIABLE))
