"""The built-in extractor against pyradiomics itself."""

import builtins
import logging
import math
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from lumps import SPACING_MM, lump

from adamss_fl.errors import InputError
from adamss_fl.radiomics.extraction import Pyradiomics

pytest.importorskip("radiomics.featureextractor")


def direct(voxels: Any, mask: Any, widths: tuple[float, float]) -> dict[str, float]:
    """Every feature that pyradiomics has by default, by its own names."""
    import SimpleITK
    from radiomics.featureextractor import RadiomicsFeatureExtractor

    image, contour = SimpleITK.GetImageFromArray(voxels), SimpleITK.GetImageFromArray(mask.astype(np.uint8))
    for each in (image, contour):
        each.SetSpacing(SPACING_MM[::-1])
    extractor = RadiomicsFeatureExtractor(binWidth=widths[0])
    extractor.enableImageTypes(Wavelet={"binWidth": widths[1]})
    return {key: float(value) for key, value in extractor.execute(image, contour).items() if "diagnos" not in key}


def test_features_equal_those_of_pyradiomics_called_directly() -> None:
    suv, hu, mask = lump()
    found = Pyradiomics(pet_wavelet_bin_width=0.5)(suv, hu, mask, SPACING_MM)
    expected = {
        f"{image}.{key.replace('_', '.')}": value
        for image, voxels, widths in (("pet", suv, (0.25, 0.5)), ("ct", hu, (25.0, 10.0)))
        for key, value in direct(voxels, mask, widths).items()
    }
    assert found == expected


def test_there_are_851_features_an_image_with_wavelets_and_107_without() -> None:
    names = Pyradiomics().names()
    assert len(names) == len(set(names)) == 2 * 851
    assert Counter(name.split(".")[0] for name in names) == {"pet": 851, "ct": 851}
    of_pet = Counter(name.split(".")[2] for name in names if name.startswith("pet.original."))
    assert of_pet == {"shape": 14, "firstorder": 18, "glcm": 24, "glrlm": 16, "glszm": 16, "gldm": 14, "ngtdm": 5}
    assert Counter(name.split(".")[1] for name in names)["wavelet-HLL"] == 2 * 93
    assert len(Pyradiomics(wavelet=False).names()) == 2 * 107


def test_names_are_those_that_a_call_returns_in_its_order() -> None:
    suv, hu, mask = lump(side=16, radius=3)
    for extractor in (Pyradiomics(), Pyradiomics(wavelet=False)):
        assert tuple(extractor(suv, hu, mask, SPACING_MM)) == extractor.names()


def test_the_volume_of_a_box_is_its_voxels_times_their_size() -> None:
    """Axes are not swapped on the way to SimpleITK: only then is the longest axis the one of the widest spacing."""
    mask = np.zeros((16, 16, 16), bool)
    mask[4:12, 6:10, 6:10] = True
    rng = np.random.default_rng(0)
    found = Pyradiomics(wavelet=False)(rng.random(mask.shape), rng.random(mask.shape), mask, SPACING_MM)
    assert found["pet.original.shape.VoxelVolume"] == pytest.approx(8 * 4 * 4 * math.prod(SPACING_MM))
    assert found["ct.original.shape.Maximum2DDiameterRow"] == pytest.approx(math.hypot(8 * 3.0, 4 * 2.0), rel=0.1)


def test_a_line_of_voxels_has_no_features_and_a_plane_has_only_finite_ones_or_nan() -> None:
    suv, hu, _ = lump(side=16)
    line, plane = np.zeros((2, 16, 16, 16), bool)
    line[8, 8, 2:14] = True
    plane[8, 4:12, 4:12] = True
    assert all(math.isnan(value) for value in Pyradiomics()(suv, hu, line, SPACING_MM).values())
    values = Pyradiomics(wavelet=False)(suv, hu, plane, SPACING_MM).values()
    assert not any(math.isinf(value) for value in values)
    assert any(math.isfinite(value) for value in values)


def test_a_mask_that_fills_its_box_has_the_features_of_the_same_voxels_in_a_larger_one() -> None:
    """pyradiomics takes a mask without background for an empty one."""
    suv, hu, _ = lump(side=12)
    full = np.ones_like(suv, dtype=bool)
    found = Pyradiomics(wavelet=False)(suv, hu, full, SPACING_MM)
    larger = Pyradiomics(wavelet=False)(np.pad(suv, 3), np.pad(hu, 3), np.pad(full, 3), SPACING_MM)
    assert found == pytest.approx(larger, nan_ok=True)
    assert math.isfinite(Pyradiomics()(suv, hu, full, SPACING_MM)["pet.wavelet-HLL.firstorder.Mean"])


def test_extraction_says_nothing(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    suv, hu, mask = lump(side=16, radius=3)
    with caplog.at_level(logging.DEBUG, logger=""):
        Pyradiomics(wavelet=False)(np.ones_like(suv), hu, mask, SPACING_MM)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_a_missing_installation_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.split(".")[0] == "radiomics":
            raise ImportError(f"no module named {name}")
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "radiomics", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    for use in (lambda: Pyradiomics().names(), lambda: Pyradiomics()(*lump(side=16), SPACING_MM)):
        with pytest.raises(InputError, match="scripts/setup"):
            use()


def test_wrong_shapes_and_an_empty_mask_are_refused() -> None:
    suv, hu, mask = lump(side=16)
    with pytest.raises(InputError, match="must be one"):
        Pyradiomics()(suv[1:], hu, mask, SPACING_MM)
    with pytest.raises(InputError, match="empty"):
        Pyradiomics()(suv, hu, np.zeros_like(mask), SPACING_MM)


@pytest.mark.parametrize("width", [0.0, -1.0, math.nan, math.inf])
def test_a_bin_width_that_makes_no_grey_levels_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match="ct_bin_width"):
        Pyradiomics(ct_bin_width=width)
