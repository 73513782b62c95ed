"""What a site answers without weights, checked field by field before it counts: an impossible figure is no figure."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.federation.merging import MAPS
from adamss_fl.federation.messages import Instruction
from adamss_fl.model.encoder import LEVELS
from adamss_fl.segmentation import MaskSums
from adamss_fl.survival import Concordance
from adamss_fl.training.machine import read_machine

SPLITS = ("train", "validation", "test")


def figures_problem(instruction: Instruction, figures: Mapping[str, Any]) -> str | None:
    """What is wrong with the figures of a reply to ``instruction``, naming the field; None where nothing is.

    Checked are replies to ``describe``, ``evaluate`` and the ``event_times`` query. The text never repeats what the
    site wrote.
    """
    if instruction.kind == "describe":
        return _describe_problem(figures)
    if instruction.kind == "evaluate":
        return _evaluation_problem(figures)
    if instruction.kind == "statistics" and instruction.settings.get("query") == "event_times":
        cells = len(instruction.settings["edges_days"]) - 1
        return None if _are_counts(figures.get("counts"), cells) else f"figure 'counts' is not {cells} counts"
    return None


def is_finite(value: Any) -> bool:
    """Whether ``value`` is a finite number (a bool is none)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_count(value: Any) -> bool:
    """Whether ``value`` is a whole number, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def opening_problem(figures: Mapping[str, Any]) -> str | None:
    """What is wrong with ``gate_opening``, if anything."""
    opening = figures.get("gate_opening")
    if not isinstance(opening, (list, tuple)) or len(opening) != LEVELS or not all(map(is_finite, opening)):
        return f"figure 'gate_opening' is not {LEVELS} finite numbers"
    return None


def loss_problem(figures: Mapping[str, Any]) -> str | None:
    """What is wrong with the losses, if anything."""
    wrong = any(name.startswith("loss.") and not is_finite(value) for name, value in figures.items())
    return "a loss is not a finite number" if wrong else None


def machine_problem(figures: Mapping[str, Any]) -> str | None:
    """What is wrong with ``machine``, if anything: it holds a device and a precision of a closed list, or is absent."""
    if "machine" in figures and read_machine(figures["machine"]) is None:
        return "figure 'machine' is not a known device and precision"
    return None


def _are_counts(value: Any, length: int) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == length and all(map(is_count, value))


def _describe_problem(figures: Mapping[str, Any]) -> str | None:
    for name in ("version", "architecture"):
        if not isinstance(figures.get(name), str):
            return f"figure {name!r} is not a text"
    for name in ("patients", "events"):
        counts = figures.get(name)
        if not isinstance(counts, Mapping) or not all(is_count(counts.get(split)) for split in SPLITS):
            return f"figure {name!r} is not a count for each of {', '.join(SPLITS)}"
    if any(figures["events"][split] > figures["patients"][split] for split in SPLITS):
        return "figure 'events' is more than the patients"
    return machine_problem(figures)


def _evaluation_problem(figures: Mapping[str, Any]) -> str | None:
    if not is_count(figures.get("patients")):
        return "figure 'patients' is not a count"
    patients = figures["patients"]
    if not patients:
        return None
    for name in ("events", "masked"):
        if not is_count(figures.get(name)) or figures[name] > patients:
            return f"figure {name!r} is not a count of at most the patients"
    return (
        _concordance_problem(figures.get("concordance"), patients)
        or _overlap_problem(figures.get("overlap"))
        or _by_patient_problem(figures)
        or opening_problem(figures)
        or loss_problem(figures)
    )


def _concordance_problem(counts: Any, patients: int) -> str | None:
    names = {each.name for each in fields(Concordance)}
    if not isinstance(counts, Mapping) or set(counts) != names or not all(map(is_count, counts.values())):
        return f"figure 'concordance' is not a count for each of {', '.join(sorted(names))}"
    comparable = Concordance(**counts).comparable_pairs
    if comparable > patients * (patients - 1) // 2 or counts["tied_time"] > comparable:
        return "figure 'concordance' has more pairs than the patients make"
    return None


def _by_patient_problem(figures: Mapping[str, Any]) -> str | None:
    if "by_patient" not in figures:  # told of test patients with a mask alone
        return None
    both = figures["by_patient"]
    if not isinstance(both, (list, tuple)) or len(both) != len(MAPS):
        return f"figure 'by_patient' is not one for each of {', '.join(MAPS)}"
    try:
        for each in both:
            MaskSums.from_plain(each, figures["masked"])
    except InputError:
        return "figure 'by_patient' holds sums that no patients have"
    return None


def _overlap_problem(overlap: Any) -> str | None:
    rows: Sequence[Any] = overlap if isinstance(overlap, (list, tuple)) else ()
    if len(rows) != 2 or not all(_are_counts(row, 3) for row in rows):
        return "figure 'overlap' is not two rows of three counts"
    if any(row[0] > min(row[1], row[2]) for row in rows):
        return "figure 'overlap' has an intersection larger than what it lies in"
    return None
