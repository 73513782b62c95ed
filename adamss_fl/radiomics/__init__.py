"""What stands beside the images: clinical columns and radiomics features, encoded as one tabular vector per patient."""

from adamss_fl.radiomics.settings import ClinicalColumn, RadiomicsSettings, TabularSettings

__all__ = ["ClinicalColumn", "RadiomicsSettings", "TabularSettings"]
