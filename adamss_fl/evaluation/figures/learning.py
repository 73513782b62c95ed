"""Learning curves: training losses per stage and site, and validation figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from adamss_fl.evaluation.figures.style import (
    QUIET,
    Palette,
    draw_series,
    drawing,
    new_figure,
    shared_legend,
    to_svg,
    whole_rounds,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Event = Mapping[str, Any]
_STAGES = ("segmentation", "survival")


def learning_figure(events: Sequence[Event], validation: Mapping[str, Sequence[Event]], palette: Palette) -> str | None:
    """Panels for whatever is there: training loss per stage (a line a site), validation C-index and DSC. SVG text.

    events : of the run whose training is shown; validation : events of each arm, by name, whose validation figures are
    drawn. Returns None where no round was recorded.
    """
    losses = {stage: training_losses(events, f"loss.{stage}") for stage in _STAGES}
    held_out = {stage: validation_series(events, f"loss.{stage}") for stage in _STAGES}
    scores = {name: validation_series(found, "c_index") for name, found in validation.items()}
    overlaps = {
        (name, mask): validation_series(found, f"dsc.{mask}")
        for name, found in validation.items()
        for mask in ("tumour", "nodes")
    }
    panels = [stage for stage in _STAGES if losses[stage]]
    panels += ["c_index"] if any(scores.values()) else []
    panels += ["dsc"] if any(overlaps.values()) else []
    if not panels:
        return None
    rows = (len(panels) + 1) // 2
    with drawing():
        figure = new_figure(2.6 * rows + 0.4)
        axes = figure.subplots(rows, 2, squeeze=False).ravel()
        for place, panel in zip(axes, panels, strict=False):
            if panel in _STAGES:
                _draw_losses(place, panel, losses[panel], held_out[panel], palette)
            elif panel == "c_index":
                _draw_scores(place, scores, palette)
            else:
                _draw_overlaps(place, overlaps, palette)
            place.set_xlabel("round")
            whole_rounds(place)
        for place in axes[len(panels) :]:
            place.set_axis_off()
        shared_legend(figure, axes)
        return to_svg(figure)


def training_losses(events: Sequence[Event], name: str) -> dict[str, dict[int, float]]:
    """{site: {round: loss}} of one figure of the ``train`` events; a round that ran again counts with its last."""
    series: dict[str, dict[int, float]] = {}
    for event in events:
        value = _figure(event, name)
        if event.get("kind") == "train" and value is not None:
            series.setdefault(str(event.get("site", "")), {})[int(event["round"])] = value
    return dict(sorted(series.items()))


def validation_series(events: Sequence[Event], name: str) -> dict[int, float]:
    """{round: value} of one validation figure; ``dsc.tumour`` looks inside ``dsc``."""
    found = {int(e["round"]): _figure(e, name) for e in events if e.get("kind") == "validation"}
    return {round_: value for round_, value in sorted(found.items()) if value is not None}


def _figure(event: Event, name: str) -> float | None:
    figures = event.get("figures", event)
    value = figures.get(name)
    if value is None and "." in name:
        outer, _, inner = name.partition(".")
        nested = figures.get(outer)
        value = nested.get(inner) if isinstance(nested, Mapping) else None
    return float(value) if isinstance(value, (int, float)) else None


def _draw_losses(
    axes: Axes, stage: str, losses: Mapping[str, Mapping[int, float]], held_out: Mapping[int, float], palette: Palette
) -> None:
    for site, series in losses.items():
        draw_series(axes, series, palette.site(site), site, palette.dash(site))
    trained = {round_ for series in losses.values() for round_ in series}
    shown = {round_: value for round_, value in held_out.items() if round_ in trained}
    if shown:
        draw_series(axes, shown, QUIET, "validation patients", (0, (3, 2)), width=2.0)
    axes.set_title(f"{stage.capitalize()} loss (lower is better)")


def _draw_scores(axes: Axes, scores: Mapping[str, Mapping[int, float]], palette: Palette) -> None:
    for name, series in scores.items():
        if series:
            draw_series(axes, series, palette.arm(name), name)
    axes.axhline(0.5, color="#9ca3af", linewidth=1.1, linestyle=(0, (2, 2)))
    axes.set_title("C-index on validation patients (0.5 is chance)")


def _draw_overlaps(axes: Axes, overlaps: Mapping[tuple[str, str], Mapping[int, float]], palette: Palette) -> None:
    for (name, mask), series in overlaps.items():
        if series:
            tumour = mask == "tumour"
            draw_series(axes, series, palette.arm(name), name if tumour else "", "-" if tumour else (0, (4, 2)))
    axes.set_ylim(0, 1)
    axes.set_title("DSC on validation patients (solid tumour, dashed nodes)")
