"""What a command says of its machine before it trains: device, precision, and a precision that is emulated here."""

from pathlib import Path
from typing import TYPE_CHECKING

from adamss_fl.cli.shell import console
from adamss_fl.errors import InputError

if TYPE_CHECKING:
    from adamss_fl.training import RuntimeSettings


def introduce(runtime: "RuntimeSettings", out: Path) -> None:
    """Print device and precision on stderr; ``out`` is the folder of the run, which may keep a measured precision.

    Nothing is written yet. Raises MachineError where ``runtime`` asks for a GPU and there is none.
    """
    from adamss_fl.training.machine import emulation_warning, introduction, settled

    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give --out a folder")
    console.print(introduction(runtime, settled(runtime, out, keep=False)), soft_wrap=True, markup=False)
    warning = emulation_warning(runtime)
    if warning is not None:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False)
