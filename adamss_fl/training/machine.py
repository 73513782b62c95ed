"""The machine that a run computes on: its device and precision, in words that may leave a site."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from adamss_fl.imaging.cache import write_whole
from adamss_fl.model.hardware import (
    MEASURED_VARIABLE,
    Resolved,
    gain_over_fp32,
    is_emulated,
    is_measured,
    measured_precision,
    resolve_precision,
)
from adamss_fl.training.settings import RuntimeSettings
from adamss_fl.training.tensors import device_of

DeviceKind = Literal["cpu", "cuda", "other"]


@dataclass(frozen=True)
class Machine:
    """What a site tells of its machine. device : its kind only, no name or number; precision : of forward passes."""

    device: DeviceKind
    precision: Resolved

    def plain(self) -> dict[str, str]:
        """As the figure ``machine`` of a reply."""
        return asdict(self)

    def __str__(self) -> str:
        names = {"cpu": "CPU", "cuda": "GPU", "other": "another accelerator"}
        return f"{names[self.device]}, {self.precision}"


def machine_of(runtime: RuntimeSettings) -> Machine:
    """The machine that ``runtime`` uses here. Raises MachineError where it asks for a GPU and there is none."""
    device = device_of(runtime)
    kind: DeviceKind = "cpu" if device.type == "cpu" else "cuda" if device.type == "cuda" else "other"
    return Machine(kind, resolve_precision(runtime.precision, device))


def read_machine(figure: Any) -> Machine | None:
    """The :class:`Machine` of a figure, None for anything that :meth:`Machine.plain` cannot have given."""
    if not isinstance(figure, Mapping) or set(figure) != {"device", "precision"}:
        return None
    device, precision = figure["device"], figure["precision"]
    if not isinstance(device, str) or device not in get_args(DeviceKind):
        return None
    if not isinstance(precision, str) or precision not in get_args(Resolved):
        return None
    return Machine(device, precision)  # type: ignore[arg-type]


def settled(runtime: RuntimeSettings, folder: Path, *, keep: bool = True) -> RuntimeSettings:
    """``runtime`` with the precision that ``auto`` is here.

    Where it has to be measured, ``folder`` keeps the outcome from the first call with ``keep`` on: a measurement may
    end otherwise the next time, and a run that is resumed goes on as it began.
    """
    device = device_of(runtime)
    if not is_measured(runtime.precision, device):
        return replace(runtime, precision=resolve_precision(runtime.precision, device))
    kept = folder / "precision"
    known = kept.read_text(encoding="ascii") if kept.exists() else measured_precision()
    if keep and not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(kept, known.encode("ascii"))
    return replace(runtime, precision="bf16" if known == "bf16" else "fp32")


def settle_for_processes(runtime: RuntimeSettings, folder: Path) -> RuntimeSettings:
    """:func:`settled`; what had to be measured also holds for all processes that this one starts."""
    found = settled(runtime, folder)
    if is_measured(runtime.precision, device_of(runtime)):
        os.environ[MEASURED_VARIABLE] = found.precision
        measured_precision.cache_clear()
    return found


def introduction(asked: RuntimeSettings, used: RuntimeSettings) -> str:
    """One line on device and precision, for the machine's own people: it names the GPU.

    asked : as configured; used : with the precision that it came to, see :func:`settled`.
    """
    device = device_of(used)
    name = f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)
    return f"device {name}, precision {machine_of(used).precision}{' (auto)' if asked.precision == 'auto' else ''}"


def emulation_warning(runtime: RuntimeSettings) -> str | None:
    """A line with the measured price where the precision asked for is emulated here; None where it is not."""
    device, precision = device_of(runtime), runtime.precision
    if not is_emulated(precision, device):
        return None
    price = 1.0 / gain_over_fp32(resolve_precision(precision, device), str(device))
    what = "GPU" if device.type == "cuda" else "CPU"
    return (
        f"{precision} is emulated on this {what}: a convolution takes {price:.1f} times as long as in fp32; "
        "set runtime.precision to auto"
    )
