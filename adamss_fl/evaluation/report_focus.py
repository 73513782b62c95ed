"""The report's section on what the network looks at, from the ``focus.json`` that ``adamss-fl explain`` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adamss_fl.errors import InputError
from adamss_fl.evaluation.focus import MARGIN_MM
from adamss_fl.evaluation.report_answers import UNDEFINED, number, signed
from adamss_fl.evaluation.report_inputs import RunRecord

_DIFFERENCE = "difference"


@dataclass(frozen=True)
class FocusTable:
    """A table of ready text; ``groups`` are (heading, number of columns under it) above ``columns``."""

    title: str
    groups: Sequence[tuple[str, int]]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str


@dataclass(frozen=True)
class FocusSection:
    """Sentences, tables, and one patient's figure (SVG, or None) with its caption."""

    answers: Sequence[str]
    tables: Sequence[FocusTable]
    example: str | None
    caption: str
    notes: Sequence[str]


def read_focus(record: RunRecord) -> FocusSection | None:
    """The section of the run's, or else of its main arm's, ``focus.json``; None where there is none.

    Raises InputError where the file is not one that ``adamss-fl explain`` wrote.
    """
    run, arm = record.folder, record.folder / "arms" / record.main.name.replace(":", "-")
    for folder in (run / "focus", run, arm / "focus"):
        path = folder / "focus.json"
        if path.exists():
            try:
                return _section(json.loads(path.read_text(encoding="utf-8")), folder)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                raise InputError(
                    f"{path}: is not what `adamss-fl explain` writes ({type(error).__name__}); explain the run again"
                ) from error
    return None


def _section(found: Mapping[str, Any], folder: Path) -> FocusSection:
    stages = [str(stage) for stage in found["stages"]]
    answers = [str(found[name]["sentence"]) for name in ("focus", "fusion") if name in found]
    if not answers:
        answers = ["This run has one model for both stages, so there are no two stages to compare."]
    example = folder / "example.svg"
    return FocusSection(
        answers=answers,
        tables=[_attention(found, stages), _gates(found, stages)],
        example=example.read_text(encoding="utf-8") if example.exists() else None,
        caption=(
            "One test patient, the first of those drawn that has tumour and nodes, in the slice with most tumour. "
            "Attention multiplies a level's features on their way to the decoder. Stages share one scale per level of "
            f"attention, and one scale in all gates. {found['gate_meaning']}"
        ),
        notes=[str(note) for note in found["notes"]],
    )


def _attention(found: Mapping[str, Any], stages: Sequence[str]) -> FocusTable:
    columns = _columns(stages)
    rows = []
    for level in sorted(found["attention"], key=lambda one: int(one["level"])):
        shown = [level[column] for column in columns]
        volume = level["volume"]
        lesions = _sum(volume["tumour"]["mean"], volume["nodes"]["mean"])
        rows.append(
            [
                _level(level, 4),
                number(None if lesions is None else 100 * lesions, 2),
                *(_cell(one["lesions"], column, 100.0, 2) for one, column in zip(shown, columns, strict=True)),
                *(_cell(one["share"]["margin"], column, 100.0, 2) for one, column in zip(shown, columns, strict=True)),
                *(_cell(one["spread"], column, 100.0, 1) for one, column in zip(shown, columns, strict=True)),
            ]
        )
    return FocusTable(
        title="Where the attention lies, in percent",
        groups=[
            ("", 1),
            ("Part of the attention in tumour and nodes", 1 + len(columns)),
            (f"Within {MARGIN_MM:g} mm round them", len(columns)),
            ("Spread over the body", len(columns)),
        ],
        columns=["Level", "Their volume", *_heads(columns), *_heads(columns), *_heads(columns)],
        rows=rows,
        note=(
            f"Means over {found['patients']} test patients; in brackets the 95 % interval of the paired difference. "
            "Were attention uniform, its part in tumour and nodes would be their volume, and its spread 100."
        ),
    )


def _gates(found: Mapping[str, Any], stages: Sequence[str]) -> FocusTable:
    columns = _columns(stages)
    rows = []
    for level in found["gates"]:
        shown = [level[column] for column in columns]
        rows.append(
            [
                _level(level, 5),
                *(_cell(one["whole"], column, 1.0, 3) for one, column in zip(shown, columns, strict=True)),
                *(
                    _cell(one["tumour_minus_body"], _DIFFERENCE if column == _DIFFERENCE else "", 1.0, 3, sign=True)
                    for one, column in zip(shown, columns, strict=True)
                ),
            ]
        )
    return FocusTable(
        title="How far the fusion gates open",
        groups=[
            ("", 1),
            ("Weight of the early-fusion stream", len(columns)),
            ("Its mean in the tumour minus the rest of the body", len(columns)),
        ],
        columns=["Level", *_heads(columns), *_heads(columns)],
        rows=rows,
        note=f"0.5 weighs both alike. {found['gate_meaning']}",
    )


def _columns(stages: Sequence[str]) -> list[str]:
    return [*stages, _DIFFERENCE] if len(stages) == 2 else list(stages)


def _heads(columns: Sequence[str]) -> list[str]:
    return ["Difference" if column == _DIFFERENCE else column for column in columns]


def _level(level: Mapping[str, Any], coarsest: int) -> str:
    return str(level["level"]) + {1: " (finest)", coarsest: " (coarsest)"}.get(int(level["level"]), "")


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second


def _cell(found: Mapping[str, Any], column: str, factor: float, digits: int, sign: bool = False) -> str:
    """A mean, or a difference with its interval; ``factor`` turns parts into percent."""
    if found["mean"] is None:
        return UNDEFINED
    mean = factor * float(found["mean"])
    if column != _DIFFERENCE:
        return signed(mean, digits) if sign else number(mean, digits)
    if found["low"] is None:
        return signed(mean, digits)
    low, high = (signed(factor * float(found[end]), digits) for end in ("low", "high"))
    return f"{signed(mean, digits)} ({low} to {high})"
