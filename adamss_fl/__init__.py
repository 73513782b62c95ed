"""AdaMSS-FL: hospitals train one PET/CT segmentation-to-survival model together, without moving a patient."""

__version__ = "0.1.0"
