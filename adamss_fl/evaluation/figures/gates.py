"""Opening of the fusion gates: the weight of the early-fusion stream, per level and site, over the rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adamss_fl.evaluation.figures.style import (
    INK,
    Palette,
    draw_series,
    drawing,
    new_figure,
    shared_legend,
    to_svg,
    whole_rounds,
)

_LEVELS = 5


def gates_figure(events: Sequence[Mapping[str, Any]], palette: Palette) -> str | None:
    """One panel a level: rounds against the mean gate opening, a line a site and a dark one for all. SVG text.

    The opening is the weight of the early-fusion stream against late concatenation of the two modality streams; it does
    not weigh PET against CT. Returns None where no round recorded it.
    """
    sites = openings(events, "train")
    overall = openings(events, "aggregate").get("", {})
    values = [value for series in (*sites.values(), overall) for row in series.values() for value in row]
    if not values:
        return None
    reach = max(0.02, 1.15 * max(abs(value - 0.5) for value in values))
    with drawing():
        figure = new_figure(2.6)
        panels = figure.subplots(1, _LEVELS, sharey=True)
        for level, axes in enumerate(panels):
            axes.axhline(0.5, color="#9ca3af", linewidth=1.1, linestyle=(0, (2, 2)))
            for site, series in sites.items():
                one = {round_: row[level] for round_, row in series.items()}
                draw_series(axes, one, palette.site(site), site, palette.dash(site), width=1.3)
            if overall and len(sites) > 1:
                every = {round_: row[level] for round_, row in overall.items()}
                draw_series(axes, every, INK, "mean over patients", (0, (3, 2)), width=1.9)
            axes.set_title(f"Level {level + 1}" + {0: " (finest)", _LEVELS - 1: " (coarsest)"}.get(level, ""))
            axes.set_ylim(max(0.0, 0.5 - reach), min(1.0, 0.5 + reach))
            axes.set_xlabel("round")
            whole_rounds(axes)
        panels[0].set_ylabel("weight of the\nearly-fusion stream")
        shared_legend(figure, panels)
        return to_svg(figure)


def openings(events: Sequence[Mapping[str, Any]], kind: str) -> dict[str, dict[int, list[float]]]:
    """{site: {round: five openings}} of one kind of event; the site is "" where the event has none."""
    series: dict[str, dict[int, list[float]]] = {}
    for event in events:
        row = event.get("figures", event).get("gate_opening") if event.get("kind") == kind else None
        row = row.get("after") if isinstance(row, Mapping) else row
        if row is not None and len(row) == _LEVELS and np.isfinite(np.asarray(row, dtype=float)).all():
            series.setdefault(str(event.get("site", "")), {})[int(event["round"])] = [float(value) for value in row]
    return dict(sorted(series.items()))
