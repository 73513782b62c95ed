"""The extension point ``feature_extractor``: what a contour says about the voxels inside it."""

import logging
import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError

IMAGES = ("pet", "ct")
CLASSES = ("shape", "firstorder", "glcm", "glrlm", "glszm", "gldm", "ngtdm")
SUBBANDS = ("LLH", "LHL", "LHH", "HLL", "HLH", "HHL", "HHH", "LLL")


@runtime_checkable
class FeatureExtractor(Protocol):
    """Features of one mask on PET and CT."""

    def names(self) -> tuple[str, ...]:
        """Every name that a call returns, in its order, for example ``pet.original.firstorder.Mean``."""
        ...

    def __call__(
        self,
        suv: NDArray[Any],
        hu: NDArray[Any],
        mask: NDArray[np.bool_],
        spacing_mm: tuple[float, float, float],
    ) -> Mapping[str, float]:
        """Features of one patient and one mask that holds a voxel or more.

        suv, hu : (D, H, W) float, PET in SUV and CT in HU; mask : (D, H, W) bool; spacing_mm : (D, H, W). The volumes
            are the mask's surroundings (see ``features.MARGIN_VOXELS``), not the whole image.
        Returns a finite number per name of ``names()``, or NaN where the feature does not exist for this mask. The
        same voxels give the same numbers. Raises only for what a user must mend.
        """
        ...


@dataclass(frozen=True)
class Pyradiomics:
    """IBSI-named shape, first-order and texture features of PET and CT by pyradiomics (needs the extra `radiomics`).

    wavelet : also of the eight subbands of one coif1 wavelet level (undecimated), 851 features per image and not 107.
    ct_bin_width, ct_wavelet_bin_width : HU per grey level, in the CT and in its subbands.
    pet_bin_width, pet_wavelet_bin_width : SUV per grey level. A quarter of an SUV gives a tumour of SUV 2 to 20 some 70
        levels; the low-pass subband is 2.8 times as wide, so a narrower bin there makes matrices of mostly zeros.

    Grey levels are of fixed width counted from 0 (pyradiomics' rule; IBSI's counts from the minimum), so that a level
    means the same uptake in every patient. Shape comes from the mask alone and is the same under ``pet`` and
    ``ct``, as pyradiomics counts it. A mask of less than two dimensions has no features: all are NaN.

    Source: van Griethuysen et al., "Computational radiomics system to decode the radiographic phenotype", Cancer
    Research 77:e104 (2017).
    """

    wavelet: bool = True
    ct_bin_width: float = 25.0
    ct_wavelet_bin_width: float = 10.0
    pet_bin_width: float = 0.25
    pet_wavelet_bin_width: float = 0.25

    def __post_init__(self) -> None:
        """Refuse widths that make no grey levels."""
        for name in ("ct_bin_width", "ct_wavelet_bin_width", "pet_bin_width", "pet_wavelet_bin_width"):
            width = getattr(self, name)
            if not (math.isfinite(width) and width > 0):
                raise ValueError(f"{name} is {width}; it must be more than 0")

    def names(self) -> tuple[str, ...]:
        """Names of both images in order; raises InputError where pyradiomics is not installed."""
        of_class = _library().getFeatureClasses()
        kinds = ["original", *(f"wavelet-{band}" for band in SUBBANDS if self.wavelet)]
        return tuple(
            f"{image}.{kind}.{each}.{feature}"
            for image in IMAGES
            for kind in kinds
            for each in CLASSES
            if kind == "original" or each != "shape"
            for feature, deprecated in sorted(of_class[each].getFeatureNames().items())
            if not deprecated
        )

    def __call__(
        self,
        suv: NDArray[Any],
        hu: NDArray[Any],
        mask: NDArray[np.bool_],
        spacing_mm: tuple[float, float, float],
    ) -> dict[str, float]:
        """See ``FeatureExtractor``; raises InputError for other shapes, an empty mask or a missing pyradiomics."""
        if mask.ndim != 3 or suv.shape != mask.shape or hu.shape != mask.shape:
            raise InputError(f"radiomics: PET {suv.shape}, CT {hu.shape} and mask {mask.shape} must be one (D, H, W)")
        if not mask.any():
            raise InputError("radiomics: the mask is empty; give one with voxels")
        names = self.names()
        if sum(int(np.ptp(places)) > 0 for places in np.nonzero(mask)) < 2:
            return dict.fromkeys(names, math.nan)
        if mask.all():  # pyradiomics takes a mask without any background for an empty one
            suv, hu, mask = np.pad(suv, 1, mode="edge"), np.pad(hu, 1, mode="edge"), np.pad(mask, 1)
        found: dict[str, float] = {}
        widths = {
            "pet": (self.pet_bin_width, self.pet_wavelet_bin_width),
            "ct": (self.ct_bin_width, self.ct_wavelet_bin_width),
        }
        for image, voxels in zip(IMAGES, (suv, hu), strict=True):
            for key, value in self._of_image(voxels, mask, spacing_mm, *widths[image]).items():
                kind, each, feature = key.split("_")
                found[f"{image}.{kind}.{each}.{feature}"] = value if math.isfinite(value) else math.nan
        return {name: found[name] for name in names}

    def _of_image(
        self,
        voxels: NDArray[Any],
        mask: NDArray[np.bool_],
        spacing_mm: tuple[float, float, float],
        bin_width: float,
        wavelet_bin_width: float,
    ) -> dict[str, float]:
        import SimpleITK

        def image_of(array: NDArray[Any]) -> Any:
            image: Any = SimpleITK.GetImageFromArray(array)
            image.SetSpacing(tuple(float(step) for step in reversed(spacing_mm)))  # SimpleITK counts x, y, z
            return image

        extractor = _library().RadiomicsFeatureExtractor(additionalInfo=False)
        kinds = {"Original": {"binWidth": bin_width}}
        if self.wavelet:
            kinds["Wavelet"] = {"binWidth": wavelet_bin_width}
        extractor.disableAllImageTypes()
        extractor.enableImageTypes(**kinds)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # means of nothing, in masks without some texture: NaN says it
            values = extractor.execute(image_of(voxels.astype(np.float64)), image_of(mask.astype(np.uint8)))
        return {key: float(value) for key, value in values.items() if not key.startswith("diagnostics")}


def _library() -> Any:
    """pyradiomics' feature extractor, silenced: it tells of every image and mask that it is given."""
    try:
        from radiomics import featureextractor
    except ImportError as error:
        raise InputError(
            "feature_extractor pyradiomics: pyradiomics is not installed; run scripts/setup, which builds it, or "
            "install numpy, setuptools, wheel, versioneer and cython, then pip install --no-build-isolation pyradiomics"
        ) from error
    logging.getLogger("radiomics").setLevel(logging.CRITICAL)  # importing it sets the level to INFO
    return featureextractor
