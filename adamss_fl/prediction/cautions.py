"""What is unusual about a patient, so that a prediction says where it should not be trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from adamss_fl.federation.inputs import Range, unusual
from adamss_fl.imaging import ImagingSettings
from adamss_fl.imaging.native import spacing_dhw
from adamss_fl.imaging.volumes import Image, simpleitk

COARSEST_PET_MM, COARSEST_CT_MM = 6.0, 5.0
"""Voxels that clinical PET and CT of the head and neck stay within; a coarser grid of the run allows twice its own."""

HIGHEST_SUV = 100.0
NO_AIR_HU, NO_BONE_HU = -300.0, 100.0
SHORT_SIGHT = 0.5
"""A scan that fills less than this share of the box leaves most of it empty."""

_NAMES = {
    "suv_p99": ("99th percentile of the SUV in the body", ""),
    "suv_mean": ("mean SUV in the body", ""),
    "hu_mean": ("mean CT number of the body", " HU"),
    "body_fraction": ("share of the box that is body", ""),
    "log10_tumour_ml": ("volume of the primary tumour (decimal logarithm of mL)", ""),
}


@dataclass(frozen=True)
class Caution:
    """A short ``code`` for programs and a sentence for people."""

    code: str
    message: str


def scan_cautions(pet: Image, ct: Image, settings: ImagingSettings) -> list[Caution]:
    """What is unusual about the volumes as read, whatever the run was trained on.

    ``coarse_voxels``; ``pet_not_suv`` where PET cannot be SUV; ``ct_not_hu`` where CT cannot be HU.
    """
    found = []
    for name, image, limit in (("PET", pet, COARSEST_PET_MM), ("CT", ct, COARSEST_CT_MM)):
        spacing = spacing_dhw(image)
        if any(step > max(limit, 2 * own) for step, own in zip(spacing, settings.spacing_mm, strict=True)):
            size = " x ".join(f"{step:.1f}" for step in spacing)
            found.append(Caution("coarse_voxels", f"the {name}'s voxels of {size} mm (D, H, W) are coarse"))
    sitk = simpleitk()
    suv, hu = (sitk.GetArrayViewFromImage(image) for image in (pet, ct))
    if float(np.percentile(suv, 99)) > HIGHEST_SUV or float(suv.max()) < 1.0:
        found.append(Caution("pet_not_suv", f"the PET goes from {suv.min():.4g} to {suv.max():.4g}: is it in SUV?"))
    if float(hu.min()) > NO_AIR_HU or float(hu.max()) < NO_BONE_HU:
        found.append(Caution("ct_not_hu", f"the CT goes from {hu.min():.4g} to {hu.max():.4g}: is it in HU?"))
    return found


def range_cautions(figures: Mapping[str, float], ranges: Mapping[str, Range]) -> list[Caution]:
    """``outside_training`` for each figure far from the training patients'; ``training_unknown`` without ranges."""
    if not ranges:
        return [Caution("training_unknown", "the run does not say what images it was trained on: nothing to compare")]
    found = []
    for name in unusual(figures, ranges):
        what, unit = _NAMES[name]
        usual = f"{ranges[name].mean:.3g} +- {ranges[name].sd:.2g}{unit} (mean, sd)"
        found.append(
            Caution("outside_training", f"{what} is {figures[name]:.3g}{unit}; the training patients' is {usual}")
        )
    return found


def clinical_cautions(missing: Sequence[str]) -> list[Caution]:
    """``missing_clinical`` where values that the model uses are not known."""
    return [Caution("missing_clinical", f"not known: {', '.join(missing)}")] if missing else []
