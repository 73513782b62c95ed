"""A site's training reply, checked by name before it counts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from adamss_fl.federation.messages import Absence, Instruction, Reply, Tensors, Weights
from adamss_fl.federation.reply_checks import loss_problem, machine_problem, opening_problem
from adamss_fl.federation.wire import is_statistic


@dataclass(frozen=True)
class Update:
    """What one site adds to a round.

    patients : training patients behind the weights; steps : optimiser steps done.
    weights : every tensor that the site shares, by state-dict name.
    figures : losses and gate openings, means over the site's patients.
    """

    site: str
    patients: int
    steps: int
    weights: Tensors = field(repr=False)
    figures: Mapping[str, Any] = field(default_factory=dict)


def check_envelope(reply: Reply, instruction: Instruction) -> Absence | None:
    """None where the reply answers this very instruction, else why it does not count."""
    expected = (instruction.run, instruction.round, instruction.attempt, instruction.kind)
    if (reply.run, reply.round, reply.attempt, reply.kind) != expected:
        detail = f"it answers round {reply.round}, attempt {reply.attempt}; this is round {instruction.round}, "
        return Absence(reply.site, "stale_reply", detail + f"attempt {instruction.attempt}")
    return None


def check_update(reply: Reply, instruction: Instruction, shared: Weights, max_change: float = 10.0) -> Update | Absence:
    """The reply as an :class:`Update`, or an :class:`Absence` that names the first thing wrong with it.

    shared : the tensors a site must send, with the shapes and dtypes they must have; they are what it began with.
    max_change : see FederationSettings; 0 accepts any change.
    Refused are: another run, round or attempt; a missing, extra, wrong-shaped, wrong-typed or non-finite tensor; a
    model that has exploded; a
    number of patients or steps that is not a positive whole number; a ``balanced`` that is no truth value; a loss or
    gate opening that is not finite; a machine that is none.
    """
    stale = check_envelope(reply, instruction)
    if stale is not None:
        return stale
    problem = _weights_problem(reply.weights or {}, shared)
    problem = problem or _figures_problem(reply.figures) or _explosion(reply.weights or {}, shared, max_change)
    if problem is not None:
        return Absence(reply.site, "refused_reply", problem)
    figures = reply.figures
    return Update(reply.site, figures["patients"], figures["steps"], reply.weights or {}, figures)


def _figures_problem(figures: Mapping[str, Any]) -> str | None:
    for name in ("patients", "steps"):
        value = figures.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            return f"figure {name!r} is not a positive whole number"
    if not isinstance(figures.get("balanced", True), bool):
        return "figure 'balanced' is neither true nor false"
    return opening_problem(figures) or loss_problem(figures) or machine_problem(figures)


def _explosion(weights: Tensors, shared: Weights, max_change: float) -> str | None:
    """What is wrong where trained tensors, or running statistics, have moved out of all proportion.

    Compared are root mean squares over all of either kind: of the change, and of the values before, taken as at least
    0.1 (1 for statistics, which may move a hundred times as far: they begin at 0 and 1, whatever the images are).
    """
    if max_change == 0.0:
        return None
    for what, statistics, least, times in (
        ("trained tensors", False, 0.1, max_change),
        ("running statistics", True, 1.0, 100.0 * max_change),
    ):
        change = before = 0.0
        count = 0
        for name, current in shared.items():
            if not np.issubdtype(current.dtype, np.floating) or is_statistic(name) != statistics:
                continue
            kind = np.promote_types(current.dtype, np.float32)
            start = current.astype(kind, copy=False)
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
                moved = weights[name].astype(kind, copy=False) - start
                change += float(np.vdot(moved, moved))
            before += float(np.vdot(start, start))
            count += current.size
        allowed = times * max((before / max(count, 1)) ** 0.5, least)
        if (change / max(count, 1)) ** 0.5 > allowed:
            return f"exploded: its {what} moved by {(change / count) ** 0.5:.3g} (root mean square), over {allowed:.3g}"
    return None


def _weights_problem(weights: Tensors, shared: Weights) -> str | None:
    missing = sorted(set(shared) - set(weights))
    if missing:
        return f"tensor {missing[0]!r} is missing ({len(missing)} of {len(shared)} are)"
    extra = sorted(set(weights) - set(shared))
    if extra:
        return f"{len(extra)} tensors were not asked for"
    for name, expected in shared.items():
        array = weights[name]
        if array.shape != expected.shape:
            return f"tensor {name!r} has shape {array.shape}, not {expected.shape}"
        if array.dtype != expected.dtype:
            return f"tensor {name!r} has type {array.dtype}, not {expected.dtype}"
        if np.issubdtype(array.dtype, np.floating) and not bool(np.isfinite(array).all()):
            return f"tensor {name!r} holds a value that is not finite"
        variance = array.diagonal() if name.endswith("running_cov") else array
        if name.endswith(("running_var", "running_cov")) and bool((variance < 0).any()):
            return f"tensor {name!r} holds a negative variance"
    return None
