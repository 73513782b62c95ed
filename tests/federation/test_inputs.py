"""Ranges of the training images: numpy's mean and sd from sums over sites, and nothing from a small site."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import make_samples

from adamss_fl.federation.inputs import LEAST_PATIENTS, input_sums, merge_trained_on, ranges_of, unusual
from adamss_fl.imaging import ImagingSettings
from adamss_fl.imaging.figures import LEAST_DIFFERENCE, image_figures

SETTINGS = ImagingSettings(
    grid=(16, 16, 16), spacing_mm=(2.0, 2.0, 2.0), pet_suv_max=10.0, ct_hu_window=(-100.0, 300.0)
)


def described(samples, patients=None):  # type: ignore[no-untyped-def]
    return {"patients": {"train": patients or len(samples)}, "inputs": input_sums(samples, SETTINGS)}


def test_ranges_over_sites_are_numpys_mean_and_sd_over_all_their_patients() -> None:
    sites = [make_samples(6, 1, "a"), make_samples(9, 2, "b")]
    trained_on = merge_trained_on([described(samples) for samples in sites])
    assert trained_on["patients"] == 15
    patients = [sample for samples in sites for sample in samples]
    expected = {
        "suv_p99": [np.percentile(10 * s.image[0][s.image[1] > 0], 99) for s in patients],
        "suv_mean": [10 * s.image[0][s.image[1] > 0].mean() for s in patients],
        "hu_mean": [-100 + 400 * s.image[1][s.image[1] > 0].mean() for s in patients],
        "body_fraction": [(s.image[1] > 0).mean() for s in patients],
        "log10_tumour_ml": [np.log10(s.mask[0].sum() * 0.008) for s in patients],
    }
    found = ranges_of(trained_on)
    assert found.keys() == expected.keys() == LEAST_DIFFERENCE.keys()
    for name, values in expected.items():
        assert found[name].mean == pytest.approx(np.mean(values), rel=1e-4)
        assert found[name].sd == pytest.approx(np.std(values, ddof=1), rel=1e-2, abs=1e-5)


def test_a_site_with_few_patients_or_few_masks_sends_no_sum_over_them() -> None:
    few = make_samples(LEAST_PATIENTS - 1, 0)
    assert input_sums(few, SETTINGS) == {}
    enough = make_samples(LEAST_PATIENTS + 3, 0)
    some = [replace(s, has_mask=index < LEAST_PATIENTS - 1) for index, s in enumerate(enough)]
    assert input_sums(some, SETTINGS).keys() == LEAST_DIFFERENCE.keys() - {"log10_tumour_ml"}


@pytest.mark.parametrize(
    "sent", [None, "x", [1, 2], [10, float("nan"), 3.0], [10, 1.0, -3.0], [3, 1.0, 1.0], ["10", 1.0, 1.0], {"a": 1}]
)
def test_what_a_site_sends_wrongly_is_passed_over(sent: object) -> None:
    good = described(make_samples(6, 1))
    bad = {"patients": {"train": 6}, "inputs": {"suv_mean": sent, "other": [10, 1.0, 1.0]}}
    assert merge_trained_on([good, bad])["inputs"] == good["inputs"]
    assert merge_trained_on([{"patients": {"train": 6}, "inputs": sent}, good])["inputs"] == good["inputs"]


def test_the_training_patients_are_usual_and_an_unscaled_pet_is_not() -> None:
    samples = make_samples(12, 3)
    ranges = ranges_of(merge_trained_on([described(samples)]))
    for sample in samples:
        assert unusual(image_figures(sample.image, SETTINGS), ranges) == []
    hot = samples[0].image.copy()
    hot[0] = 1.0
    assert set(unusual(image_figures(hot, SETTINGS), ranges)) == {"suv_p99", "suv_mean"} & ranges.keys()


def test_an_image_of_air_has_no_figures_but_that() -> None:
    assert image_figures(np.zeros((2, 16, 16, 16), np.float32), SETTINGS) == {"body_fraction": 0.0}
