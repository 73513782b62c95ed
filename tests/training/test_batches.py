"""Order of patients and learning rate."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from adamss_fl.training import Batches, StageSettings, learning_rate
from adamss_fl.training.seeds import derive_seed


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5))
def test_every_patient_is_seen_once_a_pass(patients: int, size: int, seed: int) -> None:
    size = min(size, patients)
    batches = Batches(patients, size)
    drawn = list(batches.draw(batches.per_epoch, np.random.default_rng(seed)))
    assert sorted(index for batch in drawn for index in batch) == list(range(patients))
    assert all(1 <= len(batch) <= size for batch in drawn)
    assert max(map(len, drawn)) - min(map(len, drawn)) <= 1


@given(st.lists(st.sampled_from([0, 1]), min_size=4, max_size=40), st.integers(0, 5))
def test_balanced_batches_hold_events_and_censored_one_to_one(events: list[int], seed: int) -> None:
    batches = Batches(len(events), 4, events)
    drawn = list(batches.draw(batches.per_epoch, np.random.default_rng(seed)))
    assert sum(map(len, drawn)) == len(events)
    if 0 < sum(events) < len(events):
        assert batches.balanced
        for batch in drawn:
            assert abs(2 * sum(events[index] for index in batch) - len(batch)) <= 1
    else:  # the released sampler never ends here
        assert not batches.balanced
        assert sorted(index for batch in drawn for index in batch) == list(range(len(events)))


def test_steps_run_over_the_end_of_a_pass() -> None:
    drawn = list(Batches(5, 2).draw(7, np.random.default_rng(0)))
    assert len(drawn) == 7


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
