"""A part of what is told of the hospitals before training: a table, or why there is none, and who is not in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from adamss_fl.evaluation.report_answers import MINUS, UNDEFINED
from adamss_fl.evaluation.report_federated_inputs import Part
from adamss_fl.evaluation.report_federated_tables import FederatedTable


@dataclass(frozen=True)
class CohortPart:
    """A title with sentences, and a table; where that is None, ``reason`` says why. left_out : who is not in it."""

    title: str
    lead: str = ""
    table: FederatedTable | None = None
    reason: str = ""
    left_out: str = ""


def without_table(title: str, found: Part) -> CohortPart:
    """The part where figures hold a ``reason`` in place of a table, or nothing to make one of."""
    return CohortPart(title, reason=raw_reason(found) or "not evaluated", left_out=left_out_text(found))


def raw_reason(found: Part) -> str:
    """Why there is no figure, without the hospitals' own reasons; empty where there is one."""
    given = found.values.get("reason")
    return str(found.reason or "") if given is None else str(given)


def left_out_text(found: Part) -> str:
    """``Without tiny (fewer training patients than its minimum cell count).``; empty where everybody is in it."""
    return f"Without {named(found.left_out)}." if found.left_out else ""


def named(reasons: Mapping[str, str]) -> str:
    """``a (why); b (why)``, sorted by name."""
    return "; ".join(f"{name} ({why})" for name, why in sorted(reasons.items()))


def measured(value: float | None) -> str:
    """Three significant digits, or all before the point; without an exponent, whatever the unit. A dash for None."""
    if value is None:
        return UNDEFINED
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def percent(share: float | None) -> str:
    """``19 %``; what is neither nothing nor everything never looks like it."""
    if share is None:
        return UNDEFINED
    if 0 < share < 0.005:
        return "< 1 %"
    return "> 99 %" if 0.995 <= share < 1 else f"{100 * share:.0f} %"
