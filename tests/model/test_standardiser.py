"""The running standardiser of pooled features."""

import numpy as np
import torch

from adamss_fl.model import AdaMSS, ModelSettings, count_parameters, parameter_groups
from adamss_fl.model.heads import RunningStandardiser


def test_moments_are_plain_averages_at_first_and_exponential_ones_later() -> None:
    """Against the recursion written out in numpy."""
    standardise = RunningStandardiser(3, momentum=0.1)
    mean, variance = np.zeros(3), np.ones(3)
    rng = np.random.default_rng(0)
    for batch in range(1, 41):
        x = rng.normal([2.0, -1.0, 0.0], [0.1, 1.0, 3.0], size=(5, 3))
        share = max(1 / batch, 0.1)
        mean = (1 - share) * mean + share * x.mean(0)
        variance = (1 - share) * variance + share * ((x - mean) ** 2).mean(0)
        found = standardise(torch.tensor(x, dtype=torch.float32)).numpy()
        np.testing.assert_allclose(found, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-4, atol=1e-4)
    standardise.eval()
    x = torch.ones(2, 3)
    first = standardise(x)
    assert torch.equal(first, standardise(x))


def test_a_few_batches_are_enough_to_know_the_moments() -> None:
    """A site sees some ten batches a round; the true sd is 0.1, where a buffer starts at 1."""
    standardise = RunningStandardiser(4)
    draws = torch.Generator().manual_seed(0)
    for _ in range(10):
        standardise(2.0 + 0.1 * torch.randn(8, 4, generator=draws))
    assert torch.allclose(standardise.running_mean, torch.full((4,), 2.0), atol=0.05)
    assert torch.allclose(standardise.running_var.sqrt(), torch.full((4,), 0.1), rtol=0.25)


def test_a_batch_of_one_patient_keeps_its_difference_from_the_others() -> None:
    """Batch norm would give 0 for it."""
    standardise = RunningStandardiser(1)
    draws = torch.Generator().manual_seed(0)
    for _ in range(200):
        standardise(2.0 + 0.1 * torch.randn(4, 1, generator=draws))
    assert float(standardise(torch.tensor([[2.3]]))) > 1.5


def test_standardising_adds_buffers_to_norm_statistics_and_no_parameter() -> None:
    raw, standardised = (AdaMSS(ModelSettings(width=1, pooled=kind)) for kind in ("raw", "standardised"))
    assert count_parameters(raw) == count_parameters(standardised)
    added = set(standardised.state_dict()) - set(raw.state_dict())
    assert added == {f"survival_head.standardise.running_{name}" for name in ("mean", "var", "batches")}
    assert added <= set(parameter_groups(standardised)["norm_statistics"])
