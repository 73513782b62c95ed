"""Finished runs applied to new patients: risk, survival curve and masks, and a warning where they are unusual."""

from adamss_fl.prediction.trained_run import Encoding, TrainedRun, load_folds, load_run

__all__ = ["Encoding", "TrainedRun", "load_folds", "load_run"]
