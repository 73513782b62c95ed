"""The discrete-time likelihood against pycox and against its published formula."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adamss_fl.survival import TimeGrid, discrete_likelihood

EDGES = (0, 100, 250, 300, 700, 900)


def _batch(seed, patients=40):
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.normal(0, 3, (patients, 5)))
    return logits, rng.uniform(0, 850, patients), rng.integers(0, 2, patients)


@pytest.mark.parametrize("seed", range(5))
def test_likelihood_equals_pycox(seed):
    from pycox.models.loss import nll_logistic_hazard

    logits, time, event = _batch(seed)
    grid = TimeGrid(EDGES)
    survived, had_event = grid.targets(time, event)
    kept = np.flatnonzero((event == 1) | (survived.numpy().sum(axis=1) > 0))
    survived, had_event, logits = survived[kept], had_event[kept], logits[kept]
    # pycox takes the bin of an event, or the last bin that a censored patient is known to have survived.
    index = torch.where(had_event.sum(1) > 0, had_event.argmax(1), survived.sum(1).long() - 1)
    theirs = nll_logistic_hazard(-logits, index, had_event.sum(1).double())
    ours = discrete_likelihood(logits, survived, had_event)
    assert (ours * grid.bins).item() == pytest.approx(theirs.item(), abs=1e-12)


def test_likelihood_equals_the_published_formula():
    logits, time, event = _batch(9)
    s, e = TimeGrid(EDGES).targets(time, event)
    p = torch.sigmoid(logits)
    published = -(torch.log(1 + s * (p - 1)) + torch.log(1 - e * p)).mean()
    assert discrete_likelihood(logits, s, e).item() == pytest.approx(published.item(), abs=1e-12)


@settings(max_examples=50, deadline=None)
@given(st.floats(-100, 100), st.floats(0, 1000), st.integers(0, 1), st.sampled_from([torch.bfloat16, torch.float32]))
def test_loss_and_gradient_are_finite_for_any_logit(logit, time, event, dtype):
    logits = torch.full((1, 5), logit, dtype=dtype, requires_grad=True)
    loss = discrete_likelihood(logits, *TimeGrid(EDGES).targets([time], [event]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert loss >= 0
    assert torch.isfinite(logits.grad).all()


def test_bfloat16_logits_lose_nothing_in_the_loss():
    logits = torch.tensor([[6.0, 9.0, -7.0, 3.0, 11.0]])
    targets = TimeGrid(EDGES).targets([299.0], [1])
    exact = discrete_likelihood(logits, *targets)
    assert torch.equal(discrete_likelihood(logits.bfloat16(), *targets), exact)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match="batch, bins"):
        discrete_likelihood(torch.zeros(2, 5), torch.zeros(2, 4), torch.zeros(2, 5))
