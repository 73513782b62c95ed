"""Settings of the tabular vector that joins the pooled image features before the survival head."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

MaskName = Literal["tumour", "nodes"]


@dataclass(frozen=True)
class ClinicalColumn:
    """One clinical variable that the survival head sees.

    name : the layout's canonical name, for example ``age_years`` or ``hpv``.
    kind : ``continuous`` (standardised), ``binary`` (two values) or ``categorical`` (one place per level). Scaling and
        levels are learnt on training patients only.
    """

    name: str
    kind: Literal["continuous", "binary", "categorical"] = "continuous"


@dataclass(frozen=True)
class RadiomicsSettings:
    """Radiomics features of the *predicted* stage I masks.

    extractor : name of a registered ``feature_extractor``; settings : its own settings.
    masks : predicted masks that features are computed in.
    min_voxels : a predicted mask with fewer voxels has no features; the patient gets the training mean and a flag.
    select : how many features join the survival head, by univariate Cox on the training patients.
    max_correlation : a feature is passed over where its absolute correlation with a better one is higher.
    """

    extractor: str = "pyradiomics"
    settings: Mapping[str, Any] = field(default_factory=dict)
    masks: tuple[MaskName, ...] = ("tumour",)
    min_voxels: int = 10
    select: int = 8
    max_correlation: float = 0.9

    def __post_init__(self) -> None:
        """Refuse settings that select nothing."""
        if not self.masks or len(set(self.masks)) != len(self.masks):
            raise ValueError(f"masks is {list(self.masks)}; name tumour, nodes or both, each once")
        for name, value in (("min_voxels", self.min_voxels), ("select", self.select)):
            if value < 1:
                raise ValueError(f"{name} is {value}; it must be 1 or more")
        if not 0 < self.max_correlation <= 1:
            raise ValueError(f"max_correlation is {self.max_correlation}; it must lie in (0, 1]")


@dataclass(frozen=True)
class TabularSettings:
    """What joins the image features before the survival head: clinical columns in order, then radiomics features."""

    clinical: tuple[ClinicalColumn, ...] = ()
    radiomics: RadiomicsSettings | None = None

    def __post_init__(self) -> None:
        """Refuse a column that is named twice."""
        names = [column.name for column in self.clinical]
        if len(set(names)) != len(names):
            raise ValueError(f"clinical is {names}; each column must be named once")

    @property
    def used(self) -> bool:
        """Whether the survival head sees more than the images."""
        return bool(self.clinical) or self.radiomics is not None
