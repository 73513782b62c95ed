"""Aggregation rules against closed forms, numpy and torch's own optimiser."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.federation.aggregation import Average, Contribution, GroupedAggregation, PooledMoments, ServerMomentum
from adamss_fl.federation.messages import Weights
from adamss_fl.federation.settings import FederationSettings, PluginSettings
from adamss_fl.federation.update import Update
from adamss_fl.model import GROUPS

SHAPES = {"layer.weight": (3, 2), "layer.bias": (4,)}


def draw(seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def parts_of(patients: Sequence[int], seed: int = 1) -> list[Contribution]:
    return [Contribution(f"site-{k}", n, draw(seed * 100 + k)) for k, n in enumerate(patients)]


patients_of_sites = st.lists(st.integers(1, 500), min_size=1, max_size=5)


@given(patients_of_sites, st.integers(0, 1000))
@settings(max_examples=30)
def test_average_is_numpys_weighted_average(patients: list[int], seed: int) -> None:
    parts = parts_of(patients, seed)
    found = Average().aggregate(draw(0), parts, 1)
    for name in SHAPES:
        expected = np.average([part.weights[name].astype(np.float64) for part in parts], axis=0, weights=patients)
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("rule", [Average(), PooledMoments(), ServerMomentum(momentum=0.0)])
@given(patients=st.integers(1, 10**6), seed=st.integers(0, 1000))
@settings(max_examples=20)
def test_one_site_alone_keeps_its_own_bits(
    rule: Average | PooledMoments | ServerMomentum, patients: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    own: Weights = {
        "norm.running_mean": rng.normal(size=5).astype(np.float32),
        "norm.running_var": rng.uniform(1e-6, 9, size=5).astype(np.float32),
        "weight": (rng.normal(size=7) * 10.0 ** rng.integers(-6, 6, 7)).astype(np.float32),
    }
    current = {name: (array * np.float32(1.1)).astype(np.float32) for name, array in own.items()}
    found = rule.aggregate(current, [Contribution("alone", patients, own)], 1)
    for name, array in own.items():
        assert found[name].tobytes() == array.tobytes(), name


def test_server_momentum_is_torchs_sgd_with_momentum_on_the_mean_change() -> None:
    """The pseudo-gradient is the old model minus the sites' mean (Hsu et al., arXiv 1909.06335)."""
    momentum, learning_rate = 0.8, 0.5
    rule = ServerMomentum(momentum, learning_rate)
    current = draw(0)
    twin = {name: torch.nn.Parameter(torch.from_numpy(array.astype(np.float64))) for name, array in current.items()}
    sgd = torch.optim.SGD(twin.values(), lr=learning_rate, momentum=momentum)
    for round_ in range(1, 5):
        parts = parts_of((3, 5, 1), seed=round_)
        for name, parameter in twin.items():
            mean = np.average([part.weights[name].astype(np.float64) for part in parts], axis=0, weights=[3, 5, 1])
            parameter.grad = parameter.detach() - torch.from_numpy(mean)
        sgd.step()
        current = rule.aggregate(current, parts, round_)
        for name, parameter in twin.items():
            np.testing.assert_allclose(current[name], parameter.detach().numpy(), rtol=2e-6, atol=2e-6)


def test_server_momentum_goes_on_from_its_saved_state_bit_for_bit() -> None:
    whole, first = ServerMomentum(), ServerMomentum()
    current = other = draw(0)
    for round_ in (1, 2):
        current = whole.aggregate(current, parts_of((2, 3), round_), round_)
        other = first.aggregate(other, parts_of((2, 3), round_), round_)
    resumed = ServerMomentum()
    resumed.load_state(first.state())
    after, again = (
        rule.aggregate(model, parts_of((2, 3), 3), 3) for rule, model in ((whole, current), (resumed, other))
    )
    assert all(after[name].tobytes() == again[name].tobytes() for name in SHAPES)


@pytest.mark.parametrize("values", [(-0.1, 1.0), (1.0, 1.0), (0.5, 0.0)])
def test_server_momentum_refuses_settings_that_diverge(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="momentum lies in"):
        ServerMomentum(*values)


@given(patients_of_sites, st.integers(0, 1000))
@settings(max_examples=30)
def test_pooled_moments_are_those_of_the_union_of_all_patients(patients: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = [rng.normal(rng.normal(0, 3, 4), rng.uniform(0.1, 2, 4), size=(n, 4)) for n in patients]
    parts = [
        Contribution(f"s{k}", len(own), {"bn.running_mean": own.mean(axis=0), "bn.running_var": own.var(axis=0)})
        for k, own in enumerate(values)
    ]
    current = {"bn.running_mean": np.zeros(4), "bn.running_var": np.ones(4)}
    found = PooledMoments().aggregate(current, parts, 1)
    union = np.concatenate(values)
    np.testing.assert_allclose(found["bn.running_mean"], union.mean(axis=0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found["bn.running_var"], union.var(axis=0), rtol=1e-9, atol=1e-9)


def test_a_variance_without_its_mean_is_refused() -> None:
    own: Weights = {"bn.running_var": np.ones(2)}
    with pytest.raises(ValueError, match=r"bn\.running_var cannot be merged without bn\.running_mean"):
        PooledMoments().aggregate(own, [Contribution("a", 1, own)], 1)


# --- the rules together -----------------------------------------------------------------------------------------------

NAMES = {group: (f"{group}.weight",) for group in GROUPS} | {
    "norm_statistics": ("bn.num_batches_tracked", "bn.running_mean", "bn.running_var")
}


def model(seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    weights: Weights = {
        name: rng.normal(size=3).astype(np.float32) for group in GROUPS for name in NAMES[group] if group in name
    }
    weights["bn.running_mean"] = rng.normal(size=3).astype(np.float32)
    weights["bn.running_var"] = rng.uniform(0.5, 2, 3).astype(np.float32)
    weights["bn.num_batches_tracked"] = np.array([seed], dtype=np.int64)
    return weights


def updates_of(patients: Sequence[int]) -> list[Update]:
    return [Update(f"site-{k}", n, 1, model(10 + k)) for k, n in enumerate(patients)]


def mean_of(updates: Sequence[Update], name: str) -> NDArray[np.float64]:
    weights = [update.patients for update in updates]
    return np.average([update.weights[name].astype(np.float64) for update in updates], axis=0, weights=weights)


def test_integer_buffers_keep_the_servers_value() -> None:
    current = model(7)
    found = GroupedAggregation(FederationSettings(), NAMES).aggregate(current, updates_of((4, 9)), 1)
    assert found["bn.num_batches_tracked"].dtype == np.int64
    assert found["bn.num_batches_tracked"].tolist() == [7]


def test_norm_statistics_are_pooled_moments_and_all_else_the_average_unless_settings_say_otherwise() -> None:
    current, updates = model(0), updates_of((4, 9, 2))
    found = GroupedAggregation(FederationSettings(), NAMES).aggregate(current, updates, 1)
    assert found.keys() == current.keys()
    for group in GROUPS:
        if group != "norm_statistics":
            name = NAMES[group][0]
            np.testing.assert_allclose(found[name], mean_of(updates, name), rtol=1e-6)
    spread = [np.square(u.weights["bn.running_mean"] - mean_of(updates, "bn.running_mean")) for u in updates]
    expected = mean_of(updates, "bn.running_var") + np.average(spread, axis=0, weights=[4, 9, 2])
    np.testing.assert_allclose(found["bn.running_var"], expected, rtol=1e-5)
    plain = FederationSettings(groups={"norm_statistics": PluginSettings("average")})
    found = GroupedAggregation(plain, NAMES).aggregate(current, updates, 1)
    np.testing.assert_allclose(found["bn.running_var"], mean_of(updates, "bn.running_var"), rtol=1e-6)


def test_merged_covariances_are_those_of_the_union_by_numpy() -> None:
    rng = np.random.default_rng(0)
    sites = {name: rng.normal(shift, 1, size=(n, 3)) for name, n, shift in (("a", 40, 0), ("b", 7, 2), ("c", 21, -1))}
    parts = [
        Contribution(
            name,
            len(rows),
            {"x.running_mean": rows.mean(0), "x.running_cov": np.cov(rows, rowvar=False, ddof=0)},
        )
        for name, rows in sites.items()
    ]
    current = {"x.running_mean": np.zeros(3), "x.running_cov": np.eye(3)}
    found = PooledMoments().aggregate(current, parts, 1)
    union = np.concatenate(list(sites.values()))
    np.testing.assert_allclose(found["x.running_mean"], union.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found["x.running_cov"], np.cov(union, rowvar=False, ddof=0), rtol=1e-12, atol=1e-12)
    alone = PooledMoments().aggregate(current, parts[:1], 1)
    np.testing.assert_array_equal(alone["x.running_cov"], parts[0].weights["x.running_cov"])
    with pytest.raises(ValueError, match=r"without x\.running_mean"):
        PooledMoments().aggregate({"x.running_cov": np.eye(3)}, parts, 1)


def test_where_sites_trunks_moved_apart_the_spread_of_their_means_is_no_variance_of_features() -> None:
    rng = np.random.default_rng(5)
    cohorts = [rng.normal(loc, 1.0, size=(n, 2)) for n, loc in ((40, 0.0), (20, 9.0))]

    def part(k: int, rows: np.ndarray) -> Contribution:
        cov, mean, var = np.cov(rows, rowvar=False, ddof=0), rows.mean(0), rows.var(0)
        features = {"survival_head.standardise.running_mean": mean, "survival_head.standardise.running_cov": cov}
        return Contribution(f"s{k}", len(rows), {**features, "bn.running_mean": mean, "bn.running_var": var})

    parts = [part(k, rows) for k, rows in enumerate(cohorts)]
    found = PooledMoments(feature_spread=False).aggregate(parts[0].weights, parts, 1)
    within = (
        40 * parts[0].weights["survival_head.standardise.running_cov"]
        + 20 * parts[1].weights["survival_head.standardise.running_cov"]
    ) / 60
    union = np.concatenate(cohorts)
    np.testing.assert_allclose(found["survival_head.standardise.running_cov"], within, rtol=1e-12)
    np.testing.assert_allclose(found["survival_head.standardise.running_mean"], union.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found["bn.running_var"], union.var(0), rtol=1e-12)


def test_each_group_follows_its_own_rule_and_a_local_one_stays_out() -> None:
    groups = {"decoder": PluginSettings("momentum", {"learning_rate": 0.5}), "survival_head": PluginSettings("local")}
    rules = GroupedAggregation(FederationSettings(groups=groups), NAMES)
    current, updates = model(0), updates_of((4, 9))
    for update in updates:
        del update.weights["survival_head.weight"]
    assert rules.shared(current).keys() == current.keys() - {"survival_head.weight"}
    found = rules.aggregate(current, updates, 1)
    before = current["decoder.weight"]
    half_way = before + 0.5 * (mean_of(updates, "decoder.weight") - before)
    np.testing.assert_allclose(found["decoder.weight"], half_way, rtol=1e-5)
    np.testing.assert_allclose(found["pet_encoder.weight"], mean_of(updates, "pet_encoder.weight"), rtol=1e-6)
    assert found["survival_head.weight"].tobytes() == current["survival_head.weight"].tobytes()


@given(st.permutations(range(4)))
@settings(max_examples=24)
def test_the_order_of_updates_changes_no_bit(order: list[int]) -> None:
    federation = FederationSettings(groups={"decoder": PluginSettings("flower:FedAvg")})
    current, updates = model(0), updates_of((4, 9, 2, 31))
    straight = GroupedAggregation(federation, NAMES).aggregate(current, updates, 1)
    shuffled = GroupedAggregation(federation, NAMES).aggregate(current, [updates[k] for k in order], 1)
    assert all(straight[name].tobytes() == shuffled[name].tobytes() for name in current)


def test_every_rules_state_is_kept_apart_and_put_back() -> None:
    federation = FederationSettings(
        aggregator=PluginSettings("momentum"), groups={"decoder": PluginSettings("flower:FedAdam")}
    )
    first, resumed = GroupedAggregation(federation, NAMES), GroupedAggregation(federation, NAMES)
    current = first.aggregate(model(0), updates_of((4, 9)), 1)
    resumed.load_state(first.state())
    again = [replace(update, weights=model(50 + k)) for k, update in enumerate(updates_of((4, 9)))]
    after, other = (rules.aggregate(current, again, 2) for rules in (first, resumed))
    assert all(after[name].tobytes() == other[name].tobytes() for name in current)
    fresh = GroupedAggregation(federation, NAMES).aggregate(current, again, 2)
    assert any(after[name].tobytes() != fresh[name].tobytes() for name in current)


def test_the_state_of_another_rule_is_refused() -> None:
    momentum = GroupedAggregation(FederationSettings(aggregator=PluginSettings("momentum")), NAMES)
    momentum.aggregate(model(0), updates_of((4, 9)), 1)
    with pytest.raises(ValueError, match="Average keeps no state"):
        GroupedAggregation(FederationSettings(), NAMES).load_state(momentum.state())


def test_an_unknown_aggregator_is_refused_by_its_place() -> None:
    with pytest.raises(InputError, match=r"federation\.groups\.decoder: unknown aggregator 'averag'"):
        GroupedAggregation(FederationSettings(groups={"decoder": PluginSettings("averag")}), NAMES)
