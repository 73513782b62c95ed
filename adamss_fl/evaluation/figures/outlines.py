"""PET/CT slices of example patients with reference and predicted outlines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.evaluation.figures.style import NODES, QUIET, TUMOUR, drawing, new_figure, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAPS = (("primary tumour", TUMOUR), ("nodes", NODES))


@dataclass(frozen=True)
class Examples:
    """Example patients: pet, ct (P, D, H, W) in [0, 1]; reference, predicted (P, 2, D, H, W) of 0 and 1; label (P,)."""

    pet: NDArray[Any]
    ct: NDArray[Any]
    reference: NDArray[Any]
    predicted: NDArray[Any]
    label: NDArray[Any]

    @classmethod
    def load(cls, path: Path) -> Examples:
        """Read ``examples.npz``. Raises InputError where it is none."""
        names = ("pet", "ct", "reference", "predicted", "label")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(**{name: arrays[name] for name in names})
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{path}: holds no examples ({type(error).__name__}); delete it or make it again"
            ) from error


def outlines_figure(examples: Examples) -> str:
    """A row a patient: CT and PET in the slice with most tumour, then in the slice with most nodes. SVG text.

    Reference outlines are solid, predicted ones dashed. Slices are axial (fixed D), and chosen on the reference, or on
    the prediction where the reference is empty.
    """
    from matplotlib.lines import Line2D

    patients = len(examples.label)
    with drawing():
        figure = new_figure(0.5 + 2.75 * patients)
        panels = figure.subplots(patients, 4, squeeze=False)
        for row in range(patients):
            for which, (name, _) in enumerate(_MAPS):
                pair = panels[row, 2 * which], panels[row, 2 * which + 1]
                _draw_slice(pair, examples, row, which, name)
            panels[row, 0].set_ylabel(str(examples.label[row]), fontsize=8.5)
        kinds: list[tuple[str, Any]] = [("reference", "-"), ("predicted", (0, (3, 1.5)))]
        keys = [
            Line2D([], [], color=colour, linestyle=style, label=f"{name}, {kind}")
            for name, colour in _MAPS
            for kind, style in kinds
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=4, handlelength=3)
        return to_svg(figure)


def best_slice(reference: NDArray[Any], predicted: NDArray[Any]) -> int | None:
    """Index along D with the most voxels of a mask (D, H, W); None where neither holds any."""
    for mask in (reference, predicted):
        area = mask.astype(bool).sum(axis=(1, 2))
        if area.any():
            return int(area.argmax())
    return None


def _draw_slice(pair: tuple[Axes, Axes], examples: Examples, row: int, which: int, name: str) -> None:
    reference, predicted = examples.reference[row], examples.predicted[row]
    index = best_slice(reference[which], predicted[which])
    for axes, volume, modality, colours in zip(
        pair, (examples.ct[row], examples.pet[row]), ("CT", "PET"), ("gray", "gray_r"), strict=True
    ):
        axes.set_xticks([])
        axes.set_yticks([])
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if index is None:
            axes.text(
                0.5,
                0.5,
                f"no {name}\nin reference\nor prediction",
                transform=axes.transAxes,
                ha="center",
                va="center",
                color=QUIET,
                fontsize=8.5,
            )
            continue
        image = np.asarray(volume[index], dtype=np.float32)
        top = 1.0 if modality == "CT" else float(max(np.quantile(volume, 0.999), 1e-3))
        axes.imshow(image, cmap=colours, vmin=0.0, vmax=top, interpolation="bilinear")
        for mask, (_, colour) in enumerate(_MAPS):
            outline(axes, reference[mask, index], colour, "solid")
            outline(axes, predicted[mask, index], colour, "dashed")
        axes.set_title(f"{modality}, slice with most {name.split()[-1]}", fontsize=8.5, fontweight="normal")


def outline(axes: Axes, mask: NDArray[Any], colour: str, style: str, width: float = 1.5) -> None:
    """The border of a mask, closed at the image's edge too."""
    if mask.any():
        rim = np.pad(mask.astype(float), 1)
        places = np.arange(-1, max(rim.shape))
        axes.contour(
            places[: rim.shape[1]],
            places[: rim.shape[0]],
            rim,
            levels=[0.5],
            colors=[colour],
            linestyles=style,
            linewidths=width,
        )
