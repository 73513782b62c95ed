"""Leaked patients and images are found whatever their names, and the arm that has them is named."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import make_data, make_samples, make_task

from adamss_fl.errors import InputError
from adamss_fl.evaluation.arms import NULL, POOLED, arms_of, data_of_arm, pool, with_shuffled_outcomes
from adamss_fl.evaluation.leakage import hash_of_content, hash_of_patients, refuse_leakage, refuse_other_patients
from adamss_fl.evaluation.predictions import Predictions
from adamss_fl.evaluation.settings import Design
from adamss_fl.federation.site_data import SiteData
from adamss_fl.imaging import Sample


def make_sites() -> dict[str, SiteData]:
    return {name: make_data(name, 3, seed, test=2, validation=2) for seed, name in enumerate(("north", "south"))}


def arms_and_test(data: dict[str, SiteData]) -> tuple[dict[str, dict[str, SiteData]], tuple[Sample, ...]]:
    arms = arms_of(tuple(data), Path("nowhere"), Design(null=True))
    return {arm.name: data_of_arm(arm, make_task(), data) for arm in arms}, pool(data).test


def test_patients_and_images_that_are_distinct_pass() -> None:
    refuse_leakage(*arms_and_test(make_sites()))


@pytest.mark.parametrize("part", ["train", "validation"])
@pytest.mark.parametrize("arm", ["federated", "local:south", NULL])
def test_a_test_patient_in_one_arms_data_is_refused_by_the_arms_name(arm: str, part: str) -> None:
    arms, test = arms_and_test(make_sites())
    site = next(iter(arms[arm]))
    own = arms[arm][site]
    arms[arm] = {**arms[arm], site: replace(own, **{part: (*getattr(own, part), test[1])})}
    message = f"arm {arm}: 1 test patients are also in training, the first {test[1].patient_id!r}"
    with pytest.raises(InputError, match=message):
        refuse_leakage(arms, test)


@pytest.mark.parametrize("part", ["train", "validation"])
def test_the_same_images_under_another_name_are_refused(part: str) -> None:
    data = make_sites()
    copied = replace(data["north"].test[1], patient_id="someone-else", site="south", event=0, time_days=1.0)
    copied = replace(copied, image=copied.image.copy())
    data["south"] = replace(data["south"], **{part: (*getattr(data["south"], part), copied)})
    message = "arm federated: test patient 'north-006' of north has the very images of 'someone-else' of south"
    with pytest.raises(InputError, match=message):
        refuse_leakage(*arms_and_test(data))


def test_images_that_differ_in_one_voxel_that_the_first_look_passes_over_are_two_patients() -> None:
    data = make_sites()
    image = data["north"].test[1].image.copy()
    image[1, 3, 5, 7] += np.float32(1e-3)
    other = replace(data["north"].test[1], patient_id="someone-else", image=image)
    data["south"] = replace(data["south"], train=(*data["south"].train, other))
    refuse_leakage(*arms_and_test(data))


def test_predictions_of_other_patients_are_refused_by_the_arms_name() -> None:
    samples = make_samples(4, 0)
    n = len(samples)
    found = Predictions(
        patient=np.array([sample.patient_id for sample in samples]),
        site=np.array([sample.site for sample in samples]),
        time_days=np.ones(n),
        event=np.ones(n, int),
        risk=np.ones(n),
        survival=np.ones((n, 1)),
        edges_days=np.array([0.0, 1.0]),
        overlap=np.zeros((n, 2, 3), int),
        has_mask=np.ones(n, bool),
    )
    refuse_other_patients("pooled", found.subset(np.array([2, 0, 3, 1])), hash_of_patients(samples))
    with pytest.raises(InputError, match="arm pooled: is judged on other test patients"):
        refuse_other_patients("pooled", found.subset(np.array([0, 1, 2])), hash_of_patients(samples))


def test_the_hash_of_content_sees_every_part_of_a_sample() -> None:
    samples = make_samples(2, 0)
    first = samples[0]
    image, mask = first.image.copy(), first.mask.copy()
    image[0, 0, 0, 0] += 1
    mask[1, 2, 3, 4] = 1
    others = [
        replace(first, image=image),
        replace(first, mask=mask),
        replace(first, clinical={"age_years": 50.0}),
        replace(first, time_days=first.time_days + 1),
        replace(first, event=1 - first.event),
        replace(first, patient_id="x"),
    ]
    hashes = {hash_of_content([each, samples[1]]) for each in (first, *others)}
    assert len(hashes) == 1 + len(others)
    assert hash_of_content(make_samples(2, 0)) == hash_of_content(samples)


def test_shuffling_permutes_outcomes_inside_training_and_inside_validation_and_leaves_test_patients() -> None:
    data = pool({name: make_data(name, 20, seed, test=3, validation=8) for seed, name in enumerate(("a", "b"))})
    found = with_shuffled_outcomes(data, 5)
    assert found == with_shuffled_outcomes(data, 5)
    assert found.test == data.test
    for part in ("train", "validation"):
        before, after = getattr(data, part), getattr(found, part)
        outcomes = [[(s.time_days, s.event) for s in each] for each in (before, after)]
        assert sorted(outcomes[0]) == sorted(outcomes[1])
        assert outcomes[0] != outcomes[1]
        assert [s.patient_id for s in before] == [s.patient_id for s in after]
        assert all(one.image is other.image for one, other in zip(before, after, strict=True))
    assert [s.time_days for s in with_shuffled_outcomes(data, 6).train] != [s.time_days for s in found.train]
    # Outcomes cross from one hospital to the other.
    own = {(s.time_days, s.event) for s in data.train if s.site == "a"}
    assert not {(s.time_days, s.event) for s in found.train if s.site == "a"} <= own


def test_the_null_arm_trains_over_the_pooled_cohort() -> None:
    arms, _ = arms_and_test(make_sites())
    assert set(arms[NULL]) == {POOLED}
    assert len(arms[NULL][POOLED].train) == 6
