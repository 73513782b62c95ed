"""Flower's strategies as aggregation rules, against their formulas written in numpy."""

import itertools

import numpy as np
import pytest

from adamss_fl.errors import AdamssError, InputError
from adamss_fl.federation.aggregation import Contribution
from adamss_fl.federation.flower_strategies import UNUSABLE, USABLE, flower_strategy

SHAPES = {"a.weight": (3, 4), "b.bias": (5,), "c": (1,)}
PATIENTS = (12, 30, 7, 20, 16, 9, 11)


@pytest.fixture(autouse=True)
def _without_forced_collection(monkeypatch):
    """Bulyan forces a garbage collection per reply, a fifth of a second each once torch is loaded."""
    monkeypatch.setattr("flwr.app.message.arrayrecord.gc.collect", lambda: 0)


def weights(seed: int, spread: float = 1.0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {name: (spread * random.normal(size=shape)).astype(np.float32) for name, shape in SHAPES.items()}


def replies(sites: int, seed: int = 0) -> list[Contribution]:
    return [Contribution(f"site-{k}", PATIENTS[k], weights(100 * seed + k + 1)) for k in range(sites)]


def mean(parts: list[Contribution]) -> dict[str, np.ndarray]:
    total = sum(part.patients for part in parts)
    return {
        name: sum(part.patients / total * part.weights[name].astype(np.float64) for part in parts) for name in SHAPES
    }


def assert_close(left, right, tolerance=2e-6):
    assert sorted(left) == sorted(right)
    for name, array in left.items():
        np.testing.assert_allclose(array, right[name], rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("strategy", ["FedAvg", "FedProx"])
def test_fedavg_is_the_mean_weighted_by_patients(strategy):
    parts = replies(3)
    assert_close(flower_strategy(strategy).aggregate(weights(0), parts, 1), mean(parts))


def test_fedmedian_is_the_median():
    parts = replies(5)
    expected = {name: np.median([part.weights[name] for part in parts], axis=0) for name in SHAPES}
    assert_close(flower_strategy("FedMedian").aggregate(weights(0), parts, 1), expected)


def test_fedtrimmedavg_leaves_out_both_tails():
    parts = replies(5)
    expected = {name: np.sort([part.weights[name] for part in parts], axis=0)[1:4].mean(axis=0) for name in SHAPES}
    assert_close(flower_strategy("FedTrimmedAvg", beta=0.2).aggregate(weights(0), parts, 1), expected)


def test_fedavgm_is_gradient_descent_with_momentum_on_the_change():
    rule = flower_strategy("FedAvgM", server_learning_rate=0.5, server_momentum=0.9)
    current = weights(0)
    velocity = None
    for round_ in (1, 2, 3):
        parts = replies(3, seed=round_)
        step = {name: current[name] - value for name, value in mean(parts).items()}
        velocity = step if velocity is None else {name: 0.9 * velocity[name] + step[name] for name in SHAPES}
        expected = {name: current[name] - 0.5 * velocity[name] for name in SHAPES}
        current = rule.aggregate(current, parts, round_)
        assert_close(current, expected, 1e-5)


@pytest.mark.parametrize("strategy", ["FedAdam", "FedYogi", "FedAdagrad"])
def test_adaptive_strategies_follow_reddi_et_al(strategy):
    """arXiv 2003.00295, algorithm 2; FedAdam with the bias correction of Kingma and Ba."""
    eta, tau = 0.03, 1e-3
    b1, b2 = (0.0, 0.0) if strategy == "FedAdagrad" else (0.9, 0.99)
    settings = {"eta": eta, "tau": tau} | ({} if strategy == "FedAdagrad" else {"beta_1": b1, "beta_2": b2})
    rule = flower_strategy(strategy, **settings)
    current = weights(0)
    m = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    v = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for round_ in (1, 2, 3):
        parts = replies(3, seed=round_)
        change = {name: value - current[name] for name, value in mean(parts).items()}
        rate = eta
        expected = {}
        for name, d in change.items():
            m[name] = b1 * m[name] + (1 - b1) * d
            if strategy == "FedAdam":
                v[name] = b2 * v[name] + (1 - b2) * d**2
                rate = eta * np.sqrt(1 - b2 ** (round_ + 1)) / (1 - b1 ** (round_ + 1))
            elif strategy == "FedYogi":
                v[name] = v[name] - (1 - b2) * d**2 * np.sign(v[name] - d**2)
            else:
                v[name] = v[name] + d**2
            expected[name] = current[name] + rate * m[name] / (np.sqrt(v[name]) + tau)
        current = rule.aggregate(current, parts, round_)
        assert_close(current, expected, 1e-4)


def krum_order(parts: list[Contribution], malicious: int) -> list[int]:
    """Sites by Krum score (Blanchard et al. 2017): summed squared distances to the n - f - 2 nearest others."""
    flat = [np.concatenate([part.weights[name].ravel() for name in SHAPES]).astype(np.float64) for part in parts]
    near = len(parts) - malicious - 2
    scores = [
        sum(sorted(float(((one - other) ** 2).sum()) for j, other in enumerate(flat) if j != i)[:near])
        for i, one in enumerate(flat)
    ]
    return [int(i) for i in np.argsort(scores)]


def test_krum_takes_the_site_nearest_to_its_neighbours():
    parts = [*replies(4), Contribution("site-x", 500, weights(9, spread=50.0))]
    chosen = parts[krum_order(parts, 1)[0]]
    merged = flower_strategy("Krum", num_malicious_nodes=1).aggregate(weights(0), parts, 1)
    assert_close(merged, chosen.weights, 0)


def test_multikrum_averages_the_best_sites():
    parts = replies(6)
    best = [parts[i] for i in krum_order(parts, 1)[:3]]
    merged = flower_strategy("MultiKrum", num_malicious_nodes=1, num_nodes_to_select=3).aggregate(weights(0), parts, 1)
    assert_close(merged, mean(best))


def test_bulyan_without_malicious_sites_is_the_plain_mean():
    parts = replies(3)
    expected = {name: np.mean([part.weights[name] for part in parts], axis=0) for name in SHAPES}
    assert_close(flower_strategy("Bulyan").aggregate(weights(0), parts, 1), expected)


@pytest.mark.parametrize("strategy", USABLE)
def test_every_usable_strategy_keeps_names_shapes_types_and_its_inputs(strategy):
    rule, current, parts = flower_strategy(strategy), weights(0), replies(7)
    merged = rule.aggregate(current, parts, 1)
    for name, array in merged.items():
        assert (array.shape, array.dtype) == (current[name].shape, current[name].dtype)
    assert_close(current, weights(0), 0)
    for part, again in zip(parts, replies(7), strict=True):
        assert_close(part.weights, again.weights, 0)


@pytest.mark.parametrize("strategy", USABLE)
def test_a_resumed_strategy_goes_on_bit_for_bit(strategy):
    settings = {"server_momentum": 0.9} if strategy == "FedAvgM" else {}
    through = flower_strategy(strategy, **settings)
    middle = through.aggregate(weights(0), replies(7, 1), 1)
    resumed = flower_strategy(strategy, **settings)
    resumed.load_state({name: array.copy() for name, array in through.state().items()})
    end, again = (rule.aggregate(middle, replies(7, 2), 2) for rule in (through, resumed))
    for name in SHAPES:
        assert end[name].tobytes() == again[name].tobytes()
    assert all(through.state()[name].tobytes() == array.tobytes() for name, array in resumed.state().items())


@pytest.mark.parametrize("strategy", USABLE)
def test_the_order_of_the_replies_does_not_matter_once_sorted(strategy):
    results = set()
    for order in itertools.islice(itertools.permutations(replies(7)), 0, 5040, 1009):
        parts = sorted(order, key=lambda part: part.site)
        merged = flower_strategy(strategy).aggregate(weights(0), parts, 1)
        results.add(b"".join(merged[name].tobytes() for name in SHAPES))
    assert len(results) == 1


@pytest.mark.parametrize(("strategy", "needed"), [("Krum", 5), ("MultiKrum", 5), ("Bulyan", 7)])
def test_too_few_sites_are_said_so(strategy, needed):
    rule = flower_strategy(strategy, num_malicious_nodes=1)
    with pytest.raises(AdamssError, match=f"needs {needed} sites, and 3 answered"):
        rule.aggregate(weights(0), replies(3), 1)


def test_a_step_that_overflows_is_an_error_not_a_model():
    with pytest.raises(AdamssError, match="non-finite in round 1"):
        flower_strategy("FedAdam", eta=1e40).aggregate(weights(0), replies(3), 1)


@pytest.mark.parametrize(
    ("strategy", "settings", "message"),
    [
        ("FedSGD", {}, "not one of Flower's strategies; usable are Bulyan, FedAdagrad"),
        ("QFedAvg", {}, "not usable: it needs each site's training loss"),
        ("FedXgbBagging", {}, "XGBoost"),
        ("FedAdam", {"lr": 1.0}, "no setting 'lr'; its settings are: eta, eta_l"),
        ("FedAvg", {"fraction_train": 0.5}, "no setting 'fraction_train'; its settings are: none"),
        ("FedAdam", {"eta": "big"}, "a number, 0 or more, not 'big'"),
        ("FedAdam", {"eta": float("nan")}, "a number, 0 or more"),
        ("Krum", {"num_malicious_nodes": 1.5}, "a whole number"),
        ("MultiKrum", {"num_nodes_to_select": 0}, "1 or more"),
        ("FedTrimmedAvg", {"beta": 0.7}, r"beta"),
        ("FedProx", {"proximal_mu": 0.1}, "set proximal_mu of a stage"),
    ],
)
def test_bad_strategies_and_settings_are_refused_in_one_line(strategy, settings, message):
    with pytest.raises(InputError, match=message) as caught:
        flower_strategy(strategy, **settings)
    assert "\n" not in str(caught.value)


def test_every_strategy_of_flower_is_either_usable_or_explained():
    import flwr.serverapp.strategy as strategies

    assert set(USABLE) | set(UNUSABLE) == set(strategies.__all__) - {"Strategy", "Result"}


def test_state_of_another_strategy_is_refused():
    adam = flower_strategy("FedAdam")
    adam.aggregate(weights(0), replies(3), 1)
    with pytest.raises(ValueError, match="another aggregator"):
        flower_strategy("FedMedian").load_state(adam.state())
