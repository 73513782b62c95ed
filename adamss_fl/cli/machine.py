"""What a command says of its machine before it trains: device, precision, and a precision that is emulated here."""

from pathlib import Path
from typing import TYPE_CHECKING

from adamss_fl.cli.shell import console
from adamss_fl.errors import InputError

if TYPE_CHECKING:
    from adamss_fl.training import RuntimeSettings


def introduce(runtime: "RuntimeSettings", out: Path) -> None:
    """Print device and precision on stderr; where the precision has to be measured, ``out`` keeps the outcome.

    The outcome then holds for all processes of the command, so that all arms of a comparison compute alike. Raises
    MachineError where ``runtime`` asks for a GPU and there is none.
    """
    from adamss_fl.training.machine import emulation_warning, introduction, settle_for_processes

    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; give --out a folder")
    console.print(introduction(runtime, settle_for_processes(runtime, out)), soft_wrap=True, markup=False)
    warning = emulation_warning(runtime)
    if warning is not None:
        console.print(f"warning: {warning}", soft_wrap=True, markup=False)
