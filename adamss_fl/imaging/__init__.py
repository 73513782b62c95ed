"""Volumes in memory: reading, resampling, intensity scaling, augmentation, and the cache of prepared samples."""

from adamss_fl.imaging.augmentation import Augmentation, RandomAffine, RandomCrop, RandomFlip, fused
from adamss_fl.imaging.samples import Sample, Volumes, model_grid, prepare_arrays, prepare_cohort, read_patient
from adamss_fl.imaging.settings import ImagingSettings

__all__ = [
    "Augmentation",
    "ImagingSettings",
    "RandomAffine",
    "RandomCrop",
    "RandomFlip",
    "Sample",
    "Volumes",
    "fused",
    "model_grid",
    "prepare_arrays",
    "prepare_cohort",
    "read_patient",
]
