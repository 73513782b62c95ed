"""What stands beside the images: clinical columns and radiomics features, encoded as one tabular vector per patient.

A federation learns the encoding from sums alone: ``ClinicalSums`` -> column encodings; ``Moments`` of the features of
predicted masks (``RadiomicsExtraction``) -> standardisation; ``survival.screening.univariate_cox`` -> p-values;
``candidates``, ``CrossProducts`` and ``prune`` -> the selected features; and all of it -> ``TabularEncoding``, which a
saved model carries.
"""

from adamss_fl.radiomics.clinical import ClinicalSums, ColumnEncoding
from adamss_fl.radiomics.encoding import FeatureScale, TabularEncoding
from adamss_fl.radiomics.extraction import FeatureExtractor, Pyradiomics
from adamss_fl.radiomics.features import Features, RadiomicsExtraction
from adamss_fl.radiomics.moments import Moments
from adamss_fl.radiomics.selection import CrossProducts, candidates, prune
from adamss_fl.radiomics.settings import ClinicalColumn, RadiomicsSettings, TabularSettings

__all__ = [
    "ClinicalColumn",
    "ClinicalSums",
    "ColumnEncoding",
    "CrossProducts",
    "FeatureExtractor",
    "FeatureScale",
    "Features",
    "Moments",
    "Pyradiomics",
    "RadiomicsExtraction",
    "RadiomicsSettings",
    "TabularEncoding",
    "TabularSettings",
    "candidates",
    "prune",
]
