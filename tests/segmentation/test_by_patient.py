"""DSC and surface distance patient by patient, against means over the pooled patients."""

import numpy as np
import pytest

from adamss_fl.errors import InputError
from adamss_fl.segmentation import MaskSums, dsc, mask_sums, surface_distance_95


def cubes(shift: int, empty: bool = False) -> tuple[np.ndarray, np.ndarray]:
    predicted, reference = np.zeros((2, 12, 12, 12), dtype=bool)
    reference[2:6, 2:6, 2:6] = True
    predicted[2 + shift : 6 + shift, 2:6, 2:6] = not empty
    return predicted, reference


def sums_of(pairs: list[tuple[np.ndarray, np.ndarray]]) -> MaskSums:
    overlap = [[(p & r).sum(), p.sum(), r.sum()] for p, r in pairs]
    found = [surface_distance_95(p, r, (2.0, 1.0, 1.0)) for p, r in pairs]
    return mask_sums(np.array(overlap), np.array([np.nan if each is None else each for each in found]))


def test_two_sites_give_the_means_of_their_patients() -> None:
    first, second = [cubes(0), cubes(1), cubes(0, empty=True)], [cubes(3)]
    told = [MaskSums.from_plain(sums_of(pairs).plain(), 3) for pairs in (first, second)]
    means = (told[0] + told[1]).means()
    known = [dsc([(p & r).sum(), p.sum(), r.sum()]) for p, r in (*first, *second)]
    assert means["dsc_mean"] == pytest.approx(np.mean(known))
    assert means["patients"] == 4
    assert means["hd95_mean_mm"] == pytest.approx(
        (0 + 2 + 6) / 3
    )  # a shift of k voxels of 2 mm; the missed one has none
    assert means["hd95_patients"] == 3


def test_nobody_has_no_means() -> None:
    nothing = mask_sums(np.zeros((2, 3)), np.full(2, np.nan)).means()
    assert nothing == {"dsc_mean": None, "patients": 0, "hd95_mean_mm": None, "hd95_patients": 0}


@pytest.mark.parametrize(
    "change", [{"patients": 9}, {"dsc_total": 4.0}, {"dsc_total": -1.0}, {"dsc_total": float("nan")}, {"more": 1}]
)
def test_impossible_sums_are_refused(change: dict[str, float]) -> None:
    plain = sums_of([cubes(0), cubes(1)]).plain()
    with pytest.raises(InputError):
        MaskSums.from_plain({**plain, **change}, 2)


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="give"):
        mask_sums(np.zeros((2, 3)), np.zeros(3))
