"""The running standardiser and whitener of pooled features."""

import copy

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power

from adamss_fl.model import AdaMSS, ModelSettings, count_parameters, load_weights, parameter_groups, to_weights
from adamss_fl.model.heads import RunningStandardiser, RunningWhitener


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


def test_whitening_is_the_root_of_the_shrunk_correlation_by_scipy() -> None:
    """Against the recursion of the moments in numpy and scipy's matrix power."""
    whiten = RunningWhitener(3, shrinkage=0.3, momentum=0.1)
    mean, covariance = np.zeros(3), np.eye(3)
    rng = np.random.default_rng(0)
    mixing = np.array([[1.0, 0.9, 0.8], [0.0, 0.3, 0.1], [0.0, 0.0, 0.2]])
    for batch in range(1, 31):
        x = 2.0 + 0.1 * rng.normal(size=(4, 3)) @ mixing
        share = max(1 / batch, 0.1)
        mean = (1 - share) * mean + share * x.mean(0)
        covariance = (1 - share) * covariance + share * (x - mean).T @ (x - mean) / 4
        found = whiten(torch.tensor(x, dtype=torch.float32)).numpy()
        sd = np.sqrt(np.diag(covariance) + 1e-5)
        root = fractional_matrix_power(covariance / np.outer(sd, sd) + 0.3 * np.eye(3), -0.5)
        np.testing.assert_allclose(found, (x - mean) / sd @ root, rtol=2e-3, atol=2e-3)
    whiten.eval()
    x = torch.ones(2, 3)
    assert torch.equal(whiten(x), whiten(x))


def test_whitened_features_are_uncorrelated_and_weak_directions_stay_small() -> None:
    """Closed form: a direction of variance v has v / (v + shrinkage) afterwards."""
    draws = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=draws))[0]
    x = torch.randn(200_000, 4, generator=draws) * torch.tensor([3.0, 1.0, 0.5, 0.05]) @ turn.T
    whiten = RunningWhitener(4)
    whiten(x)
    values = torch.linalg.eigvalsh(torch.corrcoef(x.T))
    found = torch.linalg.eigvalsh(torch.cov(whiten.eval()(x).T))
    assert torch.allclose(found, values / (values + 0.5), rtol=1e-2, atol=1e-3)


def test_whitening_lets_gradients_through_with_constant_moments() -> None:
    whiten = RunningWhitener(3)
    whiten(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
    x = torch.zeros(1, 3, requires_grad=True)
    whiten.eval()(x)[0, 0].backward()
    step = whiten(torch.tensor([[1.0, 0.0, 0.0]])) - whiten(torch.zeros(1, 3))
    assert x.grad is not None
    assert torch.allclose(x.grad[0, 0], step[0, 0], atol=1e-6)


def test_standardising_adds_buffers_to_norm_statistics_and_no_parameter() -> None:
    raw, standardised = (AdaMSS(ModelSettings(width=1, pooled=kind)) for kind in ("raw", "standardised"))
    assert count_parameters(raw) == count_parameters(standardised)
    added = set(standardised.state_dict()) - set(raw.state_dict())
    assert added == {f"survival_head.standardise.running_{name}" for name in ("mean", "var", "batches")}
    assert added <= set(parameter_groups(standardised)["norm_statistics"])
    whitened = AdaMSS(ModelSettings(width=1, pooled="whitened"))
    assert count_parameters(raw) == count_parameters(whitened)
    added = set(whitened.state_dict()) - set(raw.state_dict())
    assert added == {f"survival_head.standardise.running_{name}" for name in ("mean", "cov", "batches")}
    assert added <= set(parameter_groups(whitened)["norm_statistics"])


def test_evaluation_whitens_by_one_decomposition_until_the_covariance_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """After every way in which a covariance can change, against a whitener that never kept anything."""
    made: list[int] = []
    decompose = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda x: made.append(1) or decompose(x))
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(6, 3, generator=draws)

    def covariance() -> torch.Tensor:
        half = torch.randn(3, 3, generator=draws)
        return half @ half.T + torch.eye(3)

    def check(whiten: RunningWhitener, decompositions: int) -> None:
        made.clear()
        y = x.to(whiten.running_cov.dtype)
        found = [whiten.eval()(y) for _ in range(3)]
        assert len(made) == decompositions
        fresh = RunningWhitener(3).to(whiten.running_cov.dtype)
        fresh.load_state_dict(whiten.state_dict())
        assert all(torch.equal(each, fresh.eval()(y)) for each in found)

    whiten = RunningWhitener(3)
    check(whiten, 1)
    check(whiten, 0)
    whiten.running_cov.copy_(covariance())
    check(whiten, 1)
    load_weights(whiten, {**to_weights(whiten), "running_cov": covariance().numpy()})
    check(whiten, 1)
    whiten.load_state_dict({**whiten.state_dict(), "running_cov": covariance()})
    check(whiten, 1)
    whiten.train()(x)
    check(whiten, 1)
    whiten.running_cov = covariance()
    check(whiten, 1)
    whiten.double()
    check(whiten, 1)
    other = copy.deepcopy(whiten)
    for _ in range(8):  # whatever the versions of either are, the copy keeps nothing of the other
        other.running_cov.copy_(covariance())
        check(other, 1)
    check(whiten, 0)
    assert set(whiten.state_dict()) == {"running_mean", "running_batches", "running_cov"}


@pytest.mark.parametrize("kind", [RunningStandardiser, RunningWhitener])
def test_after_features_have_moved_the_mean_is_learnt_anew_and_the_variance_kept(kind: type) -> None:
    """Moved by 5 standard deviations, features would look 20 times as variable while the mean lags behind."""
    torch.manual_seed(0)
    lagging, anew = kind(2), kind(2)
    for module in (lagging, anew):
        module.train()
    before, after = 0.1 * torch.randn(400, 2), 0.5 + 0.1 * torch.randn(40, 2)
    for batch in before.split(4):
        lagging(batch), anew(batch)
    anew.restart_mean(True)
    for batch in after.split(4):
        lagging(batch), anew(batch)
    torch.testing.assert_close(anew.running_mean, after.mean(0))

    def variance(module: torch.nn.Module) -> torch.Tensor:
        return module.running_var if kind is RunningStandardiser else module.running_cov.diagonal()

    assert float(variance(anew).max()) < 0.02
    assert float(variance(lagging).min()) > 0.05


def test_without_a_restart_the_mean_forgets_as_before() -> None:
    torch.manual_seed(0)
    untouched, told = RunningStandardiser(3), RunningStandardiser(3)
    for batch in torch.randn(50, 4, 3):
        told.restart_mean(False)
        untouched(batch), told(batch)
    assert torch.equal(untouched.running_mean, told.running_mean)
