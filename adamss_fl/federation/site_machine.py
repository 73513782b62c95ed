"""What a site reports of its machine, and how its log names the work that a machine could not do."""

from __future__ import annotations

import logging
from typing import Any

from adamss_fl.federation.messages import Instruction
from adamss_fl.federation.task import Task
from adamss_fl.training.machine import emulation_warning, machine_of
from adamss_fl.training.settings import RuntimeSettings

_LOG = logging.getLogger(__name__)


def machine_figure(runtime: RuntimeSettings, warned: str = "") -> dict[str, Any]:
    """The figure ``machine``: kind of device and precision.

    warned : name of the site in whose log a precision that is emulated here is warned of; empty for no warning.
    Raises MachineError where ``runtime`` asks for a GPU and there is none.
    """
    warning = emulation_warning(runtime) if warned else None
    if warning is not None:
        _LOG.warning("%s: %s", warned, warning)
    return {"machine": machine_of(runtime).plain()}


def work_of(instruction: Instruction, task: Task, site: str) -> str:
    """The work of an instruction with what its memory depends on, for the site's own log."""
    grid = "x".join(map(str, task.imaging.grid))
    sizes = [
        f"stages.{stage}.batch_size {getattr(task.stages, stage).batch_size}"
        for stage in instruction.settings.get("stages", ())
        if stage in ("segmentation", "survival", "joint")
    ]
    on = ", ".join([f"imaging.grid {grid}", f"model.width {task.model.width}", *sizes])
    return f"site {site}, {instruction.kind} of round {instruction.round} ({on})"
