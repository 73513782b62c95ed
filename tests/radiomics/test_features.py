"""Features of predicted masks: names, margins, what is missing, and a cache that is never stale."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lumps import IMAGING, SPACING_MM, lump, scaled

from adamss_fl.errors import InputError
from adamss_fl.radiomics import RadiomicsSettings
from adamss_fl.radiomics.extraction import Pyradiomics
from adamss_fl.radiomics.features import MARGIN_VOXELS, RadiomicsExtraction, intensities

ORIGINAL = RadiomicsSettings(settings={"wavelet": False})


@dataclass(frozen=True)
class Means:
    """Mean SUV and HU in the mask, and a feature that never exists."""

    bias: float = 0.0

    def names(self) -> tuple[str, ...]:
        return "pet.mean", "ct.mean", "pet.never"

    def __call__(self, suv: Any, hu: Any, mask: Any, spacing_mm: Any) -> dict[str, float]:
        CALLS.append(mask.shape)
        return {"pet.mean": suv[mask].mean() + self.bias, "pet.never": np.inf, "ct.mean": hu[mask].mean()}


CALLS: list[tuple[int, ...]] = []


@pytest.fixture
def means(monkeypatch: pytest.MonkeyPatch) -> RadiomicsSettings:
    """Settings whose extractor is ``Means``; ``CALLS`` holds the shapes that it was given."""
    CALLS.clear()
    monkeypatch.setattr("adamss_fl.radiomics.features.create", lambda point, name, settings, where: Means(**settings))
    return RadiomicsSettings(extractor="means", masks=("nodes", "tumour"))


def patient(seed: int = 0) -> tuple[Any, Any, Any, Any]:
    suv, hu, mask = lump(seed)
    return scaled(suv, hu), np.stack([mask, np.roll(mask, 3, axis=2)]), suv, hu


def test_intensities_undo_the_scaling_of_the_images() -> None:
    suv, hu, _ = lump()
    found = intensities(scaled(suv, hu), IMAGING)
    np.testing.assert_allclose(found[0], suv, atol=2e-6)
    np.testing.assert_allclose(found[1], hu, atol=3e-5)


def test_each_mask_has_its_features_in_the_order_of_the_settings(means: RadiomicsSettings) -> None:
    image, masks, suv, hu = patient()
    found = RadiomicsExtraction(means, IMAGING).of("a", image, masks)
    assert found.names == tuple(f"{m}.{n}" for m in ("nodes", "tumour") for n in ("pet.mean", "ct.mean", "pet.never"))
    assert not found.missing
    expected = {
        "tumour.pet.mean": suv[masks[0]].mean(),
        "tumour.ct.mean": hu[masks[0]].mean(),
        "nodes.pet.mean": suv[masks[1]].mean(),
        "nodes.ct.mean": hu[masks[1]].mean(),
    }
    mapping = found.mapping()
    assert {key: mapping[key] for key in expected} == pytest.approx(expected, abs=1e-4)
    assert np.isnan([mapping["tumour.pet.never"], mapping["nodes.pet.never"]]).all()


def test_a_mask_below_min_voxels_is_missing_and_never_reaches_the_extractor(means: RadiomicsSettings) -> None:
    image, masks, *_ = patient()
    masks[1] = False
    masks[1, 3, 3, :9] = True
    found = RadiomicsExtraction(means, IMAGING).of("a", image, masks)
    assert found.missing
    assert len(CALLS) == 1
    assert np.isnan(found.values[:3]).all()
    assert np.isfinite(found.values[3:5]).all()
    masks[1, 3, 3, 9] = True
    assert not RadiomicsExtraction(means, IMAGING).of("a", image, masks).missing


def test_features_of_the_masks_surroundings_are_those_of_the_whole_image() -> None:
    """Wavelets too: a crop must not change what a filter gives inside the mask."""
    pytest.importorskip("radiomics.featureextractor")
    side = 64
    suv, hu, mask = lump(side=side, radius=4)
    imaging = replace(IMAGING, grid=(side, side, side))
    image = scaled(suv, hu)
    found = RadiomicsExtraction(RadiomicsSettings(), imaging).of("a", image, np.stack([mask, mask]))
    assert mask.any(axis=(1, 2)).sum() + 2 * MARGIN_VOXELS < side
    whole = Pyradiomics()(*intensities(image, imaging), mask, SPACING_MM)
    assert found.names == tuple(f"tumour.{name}" for name in whole)
    np.testing.assert_allclose(found.values, list(whole.values()), rtol=1e-9)


# --- cache ------------------------------------------------------------------------------------------------------------


def test_a_cached_entry_gives_the_same_features_without_the_extractor(means: RadiomicsSettings, tmp_path: Path) -> None:
    image, masks, *_ = patient()
    first, again = (RadiomicsExtraction(means, IMAGING, tmp_path / "new").of("a/b", image, masks) for _ in range(2))
    assert len(CALLS) == 2
    assert first.values.tobytes() == again.values.tobytes()
    assert first.missing == again.missing
    assert len(list((tmp_path / "new").iterdir())) == 2


def test_any_change_to_voxels_mask_or_settings_makes_an_entry_of_its_own(
    means: RadiomicsSettings, tmp_path: Path
) -> None:
    image, masks, *_ = patient()
    one = replace(means, masks=("tumour",))
    places = tuple(np.argwhere(masks[0])[0])
    brighter, smaller = image.copy(), masks.copy()
    brighter[(1, *places)] += 0.01
    smaller[(0, *places)] = False
    variants = [
        (one, IMAGING, image, masks),
        (one, IMAGING, brighter, masks),
        (one, IMAGING, image, smaller),
        (replace(one, settings={"bias": 1.0}), IMAGING, image, masks),
        (one, replace(IMAGING, pet_suv_max=10.0), image, masks),
        (one, replace(IMAGING, spacing_mm=(1.0, 1.0, 1.0)), image, masks),
    ]
    for count, (settings, imaging, voxels, contours) in enumerate(variants, start=1):
        RadiomicsExtraction(settings, imaging, tmp_path).of("a", voxels, contours)
        assert len(CALLS) == count
    for settings, imaging, voxels, contours in variants:
        RadiomicsExtraction(settings, imaging, tmp_path).of("a", voxels, contours)
    assert len(CALLS) == len(variants)


def damage_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    at = content.index(np.float64(np.load(path)["values"][0]).tobytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        damage_byte,
        lambda path: path.write_bytes(path.read_bytes()[:-30]),
        lambda path: path.write_bytes(b""),
        lambda path: np.savez(path, values=np.zeros(2)),
        lambda path: np.savez(path, values=np.array([object()] * 3)),
        lambda path: np.savez(path, other=np.zeros(3)),
    ],
)
def test_a_damaged_entry_is_made_anew(damage: Any, means: RadiomicsSettings, tmp_path: Path) -> None:
    image, masks, *_ = patient()
    extraction = RadiomicsExtraction(replace(means, masks=("tumour",)), IMAGING, tmp_path)
    whole = extraction.of("a", image, masks)
    (entry,) = tmp_path.iterdir()
    damage(entry)
    assert extraction.of("a", image, masks).values.tobytes() == whole.values.tobytes()
    assert len(CALLS) == 2
    extraction.of("a", image, masks)
    assert len(CALLS) == 2


def test_a_hundred_patients_are_read_from_the_cache_in_well_under_a_second(tmp_path: Path) -> None:
    pytest.importorskip("radiomics.featureextractor")
    image, masks, *_ = patient()
    extraction = RadiomicsExtraction(ORIGINAL, IMAGING, tmp_path)
    made = extraction.of("a", image, masks)
    start = time.process_time()
    for _ in range(100):
        assert extraction.of("a", image, masks).values.tobytes() == made.values.tobytes()
    assert time.process_time() - start < 1.0


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_other_shapes_are_refused(means: RadiomicsSettings) -> None:
    image, masks, *_ = patient()
    for one, two in ((image[:1], masks), (image, masks[:, 1:]), (image[0], masks[0])):
        with pytest.raises(InputError, match="must both be"):
            RadiomicsExtraction(means, IMAGING).of("a", one, two)


def test_an_extractor_that_keeps_no_word_is_refused_by_name(
    means: RadiomicsSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, masks, *_ = patient()
    monkeypatch.setattr(Means, "names", lambda self: ("pet.mean", "ct.mean"))
    with pytest.raises(InputError, match=r"'means'.*pet\.never.*mend the plugin"):
        RadiomicsExtraction(means, IMAGING).of("a", image, masks)
    monkeypatch.setattr("adamss_fl.radiomics.features.create", lambda *_: object())
    with pytest.raises(InputError, match="has no names"):
        _ = RadiomicsExtraction(means, IMAGING).names


def test_unknown_extractors_and_settings_are_refused() -> None:
    with pytest.raises(InputError, match=r"tabular\.radiomics: unknown feature_extractor 'pyradiomix'; did you mean"):
        _ = RadiomicsExtraction(RadiomicsSettings(extractor="pyradiomix"), IMAGING).names
    with pytest.raises(InputError, match="no setting 'wavelets'"):
        _ = RadiomicsExtraction(RadiomicsSettings(settings={"wavelets": True}), IMAGING).names
