"""Figures of a run as SVG text, one module a figure; all draw with matplotlib without a display."""

from adamss_fl.evaluation.figures.calibration import calibration_figure, calibration_groups_figure, calibration_horizon
from adamss_fl.evaluation.figures.focus import FocusPicture, focus_figure
from adamss_fl.evaluation.figures.forest import ForestRow, forest_figure
from adamss_fl.evaluation.figures.gates import gates_figure
from adamss_fl.evaluation.figures.kaplan_meier import curves_figure, kaplan_meier_figure
from adamss_fl.evaluation.figures.learning import learning_figure
from adamss_fl.evaluation.figures.outlines import Examples, outlines_figure
from adamss_fl.evaluation.figures.over_time import auc_figure, prediction_error_figure
from adamss_fl.evaluation.figures.style import Palette
from adamss_fl.evaluation.figures.survival_curve import survival_curve_figure

__all__ = [
    "Examples",
    "FocusPicture",
    "ForestRow",
    "Palette",
    "auc_figure",
    "calibration_figure",
    "calibration_groups_figure",
    "calibration_horizon",
    "curves_figure",
    "focus_figure",
    "forest_figure",
    "gates_figure",
    "kaplan_meier_figure",
    "learning_figure",
    "outlines_figure",
    "prediction_error_figure",
    "survival_curve_figure",
]
