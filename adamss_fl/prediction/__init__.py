"""Finished runs applied to new patients: risk, survival curve and masks, and a warning where they are unusual."""

from adamss_fl.prediction.cautions import Caution
from adamss_fl.prediction.cohort import predict_cohort
from adamss_fl.prediction.curves import Curve, average_curve
from adamss_fl.prediction.patient import Prediction, Predictor, Scan
from adamss_fl.prediction.trained_run import TrainedRun, load_folds, load_run

__all__ = [
    "Caution",
    "Curve",
    "Prediction",
    "Predictor",
    "Scan",
    "TrainedRun",
    "average_curve",
    "load_folds",
    "load_run",
    "predict_cohort",
]
