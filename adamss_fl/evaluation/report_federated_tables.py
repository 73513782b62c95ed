"""The report's tables of figures over all hospitals' test patients, as rows of ready text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from adamss_fl.evaluation.report_answers import UNDEFINED, number, signed
from adamss_fl.evaluation.report_federated_inputs import ONE_TIME_BIN, Federated, Part, duration, p_value
from adamss_fl.evaluation.report_inputs import finite

_MOST_TIMES = 10


@dataclass(frozen=True)
class FederatedRow:
    """One line; ``reason`` stands in place of the cells, and a ``heading`` has neither."""

    name: str
    cells: tuple[str, ...] = ()
    reason: str = ""
    heading: bool = False


@dataclass(frozen=True)
class FederatedTable:
    """Rows under a title; ``columns`` names the cells, the row's own name first.

    last_is_text : the last column holds words, which may take several lines.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[FederatedRow, ...]
    note: str
    last_is_text: bool = False


def federated_tables(found: Federated) -> list[FederatedTable]:
    """Every figure with its patients, events, pairs and interval; then those over time, and the calibration groups."""
    tables = [
        FederatedTable(
            "Every figure",
            ("Figure", "Value", "95 % interval", "Guaranteed bounds", "Patients", "Events", "Pairs"),
            tuple(_figures(found)),
            "Pairs: those of whose patients it is known who had the event first; of two hospitals an expected number, "
            "where tables leave them open. Guaranteed bounds: what the figure can be at least and at most, given the "
            "tables; no chance is in them. Survival has the events up to the last time on the tables’ grid.",
        )
    ]
    brier, auc = found.part("brier"), found.part("auc")
    if times := brier.series("times_days") or auc.series("times_days"):
        tables.append(_over_time(times, brier, auc))
    if groups := found.part("calibration").values.get("groups"):
        rows = tuple(
            FederatedRow(
                number(finite(group["predicted"])),
                (
                    number(finite(group["observed"])),
                    span(finite(group["low"]), finite(group["high"])),
                    _whole(finite(group["patients"])),
                    _whole(finite(group["events"])),
                ),
            )
            for group in groups
        )
        horizon = duration(found.part("calibration").number("horizon_days"))
        columns = ("Mean predicted survival", "Observed survival", "95 % interval", "Patients", "Events until then")
        note = "A dash: nobody of the group is followed that long."
        tables.append(FederatedTable(f"Groups of predicted survival at {horizon}", columns, rows, note))
    return tables


def _figures(found: Federated) -> Iterator[FederatedRow]:
    patients, events = _whole(found.count("patients")), _whole(found.count("events"))
    yield FederatedRow("Order of patients", heading=True)
    c, uno = found.part("concordance"), found.part("uno")
    interval = c.part("interval")
    yield _row(
        "C-index, all pairs",
        c,
        number(c.number("c_index")),
        _of(interval, "low", "high"),
        _of(c, "low", "high"),
        patients,
        events,
        _whole(c.number("comparable_pairs")),
    )
    within = c.number("within_sites")
    inside = number(within), UNDEFINED, "exact" if within is not None else UNDEFINED, patients, events
    yield _row("C-index, pairs inside hospitals", c, *inside, _whole(c.number("comparable_within")))
    yield _row(
        f"Uno’s C, first {duration(uno.number('tau_days'))}",
        uno,
        number(uno.number("c_index")),
        UNDEFINED,
        _of(uno, "low", "high"),
        _whole(uno.number("patients")),
        _whole(uno.number("events")),
        "weighted",
    )
    auc = found.part("auc")
    whole = (UNDEFINED, UNDEFINED) if auc.left_out else (patients, events)
    mean = number(auc.number("mean")), UNDEFINED, _of(auc, "mean_low", "mean_high")
    if auc.reason is None and auc.number("mean") is None:
        yield FederatedRow("AUC, mean over time", reason="there is no event before, or nobody after, some of the times")
    else:
        yield _row("AUC, mean over time", auc, *mean, *whole, "weighted")
    yield FederatedRow("Survival", heading=True)
    yield from _survival(found)
    yield FederatedRow("Predicted probabilities", heading=True)
    yield from _probabilities(found, events)


def _survival(found: Federated) -> Iterator[FederatedRow]:
    survival = found.part("survival")
    groups = survival.part("groups")
    for name, curve in (
        ("all", survival.part("all")),
        ("lower predicted risk", groups.part("lower risk")),
        ("higher predicted risk", groups.part("higher risk")),
    ):
        at_risk, happened = curve.series("at_risk"), curve.series("events")
        if not at_risk or len(curve.series("edges_days")) < 2:
            why = survival.reason or curve.reason or ONE_TIME_BIN
            yield FederatedRow(f"Median time without an event, {name}", reason=why)
            continue
        counts = _whole(at_risk[0]), _whole(sum(value or 0.0 for value in happened))
        cells = duration(curve.number("median_days")), _median_interval(curve), UNDEFINED, *counts, UNDEFINED
        yield FederatedRow(f"Median time without an event, {name}", cells)
    for name, key in (("all hospitals", "log_rank"), ("inside hospitals", "log_rank_within_sites")):
        test = survival.part(key)
        if test.reason is not None:
            yield FederatedRow(f"Log-rank test, {name}", reason=survival.reason or test.reason)
            continue
        happened = survival.part("all").series("events")
        counts = _whole(found.count("patients")), _whole(sum(value or 0.0 for value in happened))
        value = f"{p_value(test.number('p_value'))} (χ² {number(test.number('statistic'), 1)})"
        yield FederatedRow(f"Log-rank test, {name}", (value, UNDEFINED, UNDEFINED, *counts, UNDEFINED))
    followed = found.whole.number("median_follow_up_days")
    patients = _whole(found.count("patients"))
    cells = duration(followed), UNDEFINED, UNDEFINED, patients, _whole(found.count("events")), UNDEFINED
    yield FederatedRow("Median follow-up (reverse Kaplan-Meier)", cells)


def _median_interval(curve: Part) -> str:
    """Where the 95 % bounds of the curve reach 1/2 (Brookmeyer and Crowley, Biometrics 38:29, 1982)."""
    days = curve.series("edges_days")
    ends = []
    for bound in ("ci_low", "ci_high"):
        steps = zip(days, curve.series(bound), strict=True)
        ends.append(next((day for day, value in steps if value is not None and value <= 0.5), None))
    return f"{duration(ends[0])} to {duration(ends[1])}" if any(end is not None for end in ends) else UNDEFINED


def _probabilities(found: Federated, all_events: str) -> Iterator[FederatedRow]:
    brier, calibration, d = (found.part(name) for name in ("brier", "calibration", "d_calibration"))
    for name, key, show in (
        ("Brier score, mean over time", "integrated", number),
        ("Brier score of the Kaplan-Meier reference", "reference_integrated", number),
        ("Index of prediction accuracy (IPA)", "integrated_ipa", signed),
    ):
        value = brier.number(key)
        text = UNDEFINED if value is None else show(value)
        counts = _whole(brier.number("patients")), UNDEFINED if brier.left_out else all_events
        yield _row(name, brier, text, UNDEFINED, UNDEFINED, *counts, UNDEFINED)
    groups = calibration.values.get("groups") or []
    difference = number(calibration.number("mean_absolute_difference")), UNDEFINED, UNDEFINED
    both = [_whole(sum(finite(group[key]) or 0.0 for group in groups)) for key in ("patients", "events")]
    horizon = duration(calibration.number("horizon_days"))
    yield _row(f"Predicted against observed survival at {horizon}", calibration, *difference, *both, UNDEFINED)
    test = f"{p_value(d.number('p_value'))} (χ² {number(d.number('statistic'), 1)})", UNDEFINED, UNDEFINED
    told = _whole(d.number("patients")), UNDEFINED if d.left_out else all_events
    yield _row("D-calibration", d, *test, *told, UNDEFINED)


def _over_time(times: tuple[float | None, ...], brier: Part, auc: Part) -> FederatedTable:
    scores = [brier.series(name) or (None,) * len(times) for name in ("score", "reference", "ipa")]
    areas = [auc.series(name) or (None,) * len(times) for name in ("auc", "low", "high")]
    step = -(-len(times) // _MOST_TIMES)
    rows = []
    for place in range((len(times) - 1) % step, len(times), step):
        score, reference, ipa = (series[place] for series in scores)
        area, low, high = (series[place] for series in areas)
        gain = UNDEFINED if ipa is None else signed(ipa)
        rows.append(
            FederatedRow(
                duration(times[place]), (number(score), number(reference), gain, number(area), span(low, high))
            )
        )
    reasons = {"Brier score": brier.reason, "AUC": auc.reason}
    note = "".join(f"No {name}: {reason}. " for name, reason in reasons.items() if reason)
    note += f"{len(rows)} of {len(times)} times; the others are in metrics.json." if len(rows) < len(times) else ""
    columns = ("Time of follow-up", "Brier score", "Reference", "IPA", "AUC", "Guaranteed bounds of AUC")
    return FederatedTable("Over time", columns, tuple(rows), note)


def _row(name: str, part: Part, *cells: str) -> FederatedRow:
    if part.reason is not None:
        return FederatedRow(name.partition(", first")[0].partition(" at ")[0], reason=part.reason)
    return FederatedRow(name + (f" (without {', '.join(sorted(part.left_out))})" if part.left_out else ""), cells)


def _of(part: Part, low: str, high: str) -> str:
    return span(part.number(low), part.number(high))


def span(low: float | None, high: float | None) -> str:
    """``0.640 to 0.724``, or a dash where an end is not known."""
    return UNDEFINED if low is None or high is None else f"{number(low)} to {number(high)}"


def _whole(value: float | None) -> str:
    return UNDEFINED if value is None else f"{value:,.0f}"
