"""Order of patients and learning rate."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from adamss_fl.training import Batches, StageSettings, learning_rate
from adamss_fl.training.seeds import derive_seed
from adamss_fl.training.settings import Sampling

COHORTS = st.lists(st.sampled_from([0, 1]), min_size=1, max_size=40)


def drawn_from(batches: Batches, steps: int, seed: int) -> list[list[int]]:
    return list(batches.draw(steps, np.random.default_rng(seed)))


def times_seen(drawn: list[list[int]], members: Sequence[int]) -> list[int]:
    seen = Counter(index for batch in drawn for index in batch)
    return [seen[index] for index in members]


@given(
    COHORTS,
    st.integers(1, 12),
    st.integers(0, 30),
    st.booleans(),
    st.sampled_from(["without_replacement", "with_replacement"]),
    st.integers(0, 5),
)
def test_every_batch_is_full(
    events: list[int], size: int, steps: int, balanced: bool, sampling: Sampling, seed: int
) -> None:
    size = min(size, len(events))
    drawn = drawn_from(Batches(len(events), size, events if balanced else None, sampling), steps, seed)
    assert [len(batch) for batch in drawn] == [size] * steps
    assert {index for batch in drawn for index in batch} <= set(range(len(events)))


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 30), st.integers(0, 5))
def test_uniform_batches_see_every_patient_equally_often_and_none_twice_in_a_batch(
    patients: int, size: int, steps: int, seed: int
) -> None:
    size = min(size, patients)
    drawn = drawn_from(Batches(patients, size), steps, seed)
    assert all(len(set(batch)) == size for batch in drawn)
    for count in range(1, steps + 1):
        seen = times_seen(drawn[:count], range(patients))
        assert max(seen) - min(seen) <= 1


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 4))
def test_epochs_are_the_fewest_full_batches_that_hold_every_patient_so_many_times(
    patients: int, size: int, epochs: int
) -> None:
    size = min(size, patients)
    batches = Batches(patients, size)
    steps = batches.in_epochs(epochs)
    assert min(times_seen(drawn_from(batches, steps, 0), range(patients))) >= epochs
    assert (steps - 1) * size < epochs * patients


def test_a_full_batch_is_one_step_an_epoch_and_holds_everyone() -> None:
    batches = Batches(5, 5)
    assert batches.in_epochs(3) == 3
    assert all(sorted(batch) == list(range(5)) for batch in drawn_from(batches, 3, 0))


@given(COHORTS, st.integers(1, 12), st.integers(1, 30), st.integers(0, 5))
def test_balanced_batches_hold_events_and_censored_one_to_one(
    events: list[int], size: int, steps: int, seed: int
) -> None:
    size = min(size, len(events))
    batches = Batches(len(events), size, events)
    drawn = drawn_from(batches, steps, seed)
    if not 0 < sum(events) < len(events):  # the released sampler never ends here
        assert not batches.balanced
        assert drawn == drawn_from(Batches(len(events), size), steps, seed)
        return
    assert batches.balanced
    surplus = [2 * sum(events[index] for index in batch) - size for batch in drawn]
    assert set(surplus) <= ({0} if size % 2 == 0 else {-1, 1})
    assert all(first == -second for first, second in pairwise(surplus))
    for value in (0, 1):
        members = [index for index, event in enumerate(events) if event == value]
        for count in range(1, steps + 1):
            seen = times_seen(drawn[:count], members)
            assert max(seen) - min(seen) <= 1
        for batch in drawn:
            share = [index for index in batch if events[index] == value]
            most = math.ceil(len(share) / len(members))  # 1 unless the class is smaller than its share
            assert max(Counter(share).values(), default=0) <= most


@given(COHORTS, st.booleans(), st.sampled_from(["without_replacement", "with_replacement"]), st.integers(0, 5))
def test_batches_depend_on_the_seed_only(events: list[int], balanced: bool, sampling: Sampling, seed: int) -> None:
    batches = Batches(len(events), min(3, len(events)), events if balanced else None, sampling)
    drawn = drawn_from(batches, 10, seed)
    assert drawn == drawn_from(batches, 10, seed)
    assert drawn[:4] == drawn_from(batches, 4, seed)


def test_patients_come_in_every_order() -> None:
    """The batch that spans two passes does not tie the second one: all pairs of places see all pairs of patients."""
    pairs = Counter(
        (drawn[2][0], drawn[3][1]) for drawn in (drawn_from(Batches(5, 2), 5, seed) for seed in range(3000))
    )
    assert len(pairs) == 5 * 5
    found = stats.chisquare([sum(count for (first, _), count in pairs.items() if first == i) for i in range(5)])
    assert found.pvalue > 1e-3


def test_with_replacement_draws_every_place_independently() -> None:
    """Against the binomial distribution: a patient's places among n independent draws from N."""
    drawn = drawn_from(Batches(8, 4, sampling="with_replacement"), 3000, 0)
    in_a_batch = Counter(batch.count(0) for batch in drawn)
    expected = stats.binom.pmf(range(5), 4, 1 / 8) * len(drawn)
    found = stats.chisquare(
        [*(in_a_batch[k] for k in range(3)), in_a_batch[3] + in_a_batch[4]], [*expected[:3], expected[3] + expected[4]]
    )
    assert found.pvalue > 1e-3


def test_balanced_with_replacement_draws_independently_within_each_class() -> None:
    events = [1, 1, 0, 0, 0, 0]
    drawn = drawn_from(Batches(6, 4, events, "with_replacement"), 3000, 0)
    assert all(sum(events[index] for index in batch) == 2 for batch in drawn)
    twice = sum(len(set(batch) & {2, 3, 4, 5}) == 1 for batch in drawn)  # 1 in 4
    assert stats.binomtest(twice, len(drawn), 1 / 4).pvalue > 1e-3


def test_a_batch_larger_than_the_site_is_refused() -> None:
    with pytest.raises(ValueError, match="batch of 4 cannot be drawn from 3"):
        Batches(3, 4)


def test_one_cycle_equals_torchs() -> None:
    """Against torch.optim.lr_scheduler.OneCycleLR sampled densely."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    steps = 10_000
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1e-2, total_steps=steps, pct_start=0.3, div_factor=25, final_div_factor=1000
    )
    settings = StageSettings(learning_rate=1e-2, schedule="one_cycle")
    for step in range(steps):
        if step % 500 == 0:
            ours = learning_rate(settings, step / (steps - 1))
            assert math.isclose(ours, scheduler.get_last_lr()[0], rel_tol=5e-3, abs_tol=1e-8)
        optimizer.step()
        scheduler.step()


def test_steps_schedule_drops_at_40_and_80_per_cent() -> None:
    settings = StageSettings(learning_rate=1e-4, schedule="steps")
    found = [learning_rate(settings, fraction) for fraction in (0.0, 0.39, 0.41, 0.79, 0.81, 1.0)]
    assert found == pytest.approx([1e-4, 1e-4, 5e-5, 5e-5, 1e-5, 1e-5])


def test_published_drops_of_stage_two() -> None:
    settings = StageSettings(learning_rate=5e-5, schedule="steps", drops=(0.2, 0.02))
    found = [learning_rate(settings, fraction) for fraction in (0.0, 0.39, 0.41, 0.79, 0.81, 1.0)]
    assert found == pytest.approx([5e-5, 5e-5, 1e-5, 1e-5, 1e-6, 1e-6])


def test_seeds_tell_their_parts_apart() -> None:
    seeds = {derive_seed(1, "a", 2), derive_seed(1, "a", 3), derive_seed(1, "a2"), derive_seed("1", "a", 2)}
    assert len(seeds) == 4
    assert derive_seed(1, "a") == derive_seed(1, "a")
