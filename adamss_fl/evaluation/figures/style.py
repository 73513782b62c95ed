"""One look for all figures: colours that colour-blind readers can tell apart, quiet axes, deterministic SVG."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#1f2937"
QUIET = "#6b7280"
GRID = "#e5e7eb"
WIDTH_INCHES = 10.4

_ARMS = {"federated": "#0072B2", "pooled": "#111827"}
_SITES = ("#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#8C564B", "#7F7F7F", "#B5A800")
RISK_GROUPS = ("#009E73", "#D55E00", "#7B3294", "#E69F00", "#0072B2")
TUMOUR, NODES = "#F4511E", "#1EA7FD"

_RC: dict[Any, Any] = {
    "svg.fonttype": "path",
    "svg.hashsalt": "adamss-fl",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": "#9ca3af",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Palette:
    """The same colour for a site, and for the arm that trains on it alone, in every figure.

    sites : the run's site names, sorted; beyond seven, colours repeat with another dash.
    """

    sites: tuple[str, ...]

    def site(self, name: str) -> str:
        """Colour of a site; a name that is no site (the pooled patients) takes its arm's."""
        if name not in self.sites:
            return _ARMS.get(name, _ARMS["federated"])
        return _SITES[self.sites.index(name) % len(_SITES)]

    def dash(self, name: str) -> str:
        """Line style of a site."""
        turn = self.sites.index(name) // len(_SITES) if name in self.sites else 0
        return ("-", "--", ":", "-.")[turn % 4]

    def arm(self, name: str) -> str:
        """Colour of an arm: ``federated``, ``pooled`` or ``local:SITE``."""
        return self.site(name.removeprefix("local:")) if name.startswith("local:") else _ARMS.get(name, INK)


@contextmanager
def drawing() -> Iterator[None]:
    """Matplotlib with this look inside the block, and as it was before after it."""
    import matplotlib

    with matplotlib.rc_context(_RC):
        yield


def new_figure(height_inches: float, width_inches: float = WIDTH_INCHES) -> Figure:
    """An empty figure that belongs to no window; use inside ``drawing``."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_inches, height_inches), layout="constrained")


def to_svg(figure: Figure) -> str:
    """SVG text without date, metadata or outside address but the SVG namespaces; use inside ``drawing``."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = re.sub(r"<\?xml.*?\?>\s*|<!DOCTYPE.*?>\s*", "", buffer.getvalue(), flags=re.DOTALL)
    return re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)


def draw_series(
    axes: Axes, series: Mapping[int, float], colour: str, label: str, dash: Any = "-", width: float = 1.6
) -> None:
    """A line over rounds, with points where there are few, so that a single round can be seen; "" is no label."""
    few = len(series) <= 30
    axes.plot(
        list(series),
        list(series.values()),
        color=colour,
        linestyle=dash,
        linewidth=width,
        marker="o" if few else "",
        markersize=3,
        label=label or None,
    )


def shared_legend(figure: Figure, panels: Iterable[Axes]) -> None:
    """One legend beneath all panels, each label once."""
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if entries:
        figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside lower center",
            ncols=min(len(entries), 6),
            handlelength=2.6,
        )


def whole_rounds(axes: Axes) -> None:
    """Whole numbers only on an axis of rounds."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))


def follow_up_ticks(longest_days: float) -> tuple[Sequence[float], Sequence[str], str]:
    """Ticks in days, their labels, and the axis label, in years for long follow-up and in months for short."""
    year, month = 365.25, 365.25 / 12
    unit, name = (year, "years") if longest_days > 3 * year else (month, "months")
    steps = (1, 2, 5, 10) if name == "years" else (1, 2, 3, 6, 12)
    step = next((s for s in steps if longest_days / (s * unit) <= 8), steps[-1])
    count = int(longest_days / (step * unit)) + 1
    return [k * step * unit for k in range(count)], [str(k * step) for k in range(count)], f"{name} of follow-up"
