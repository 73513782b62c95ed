"""Weights travel whole: nothing is lost, nothing is loaded in part without saying so."""

import hashlib

import numpy as np
import pytest
import torch

from adamss_fl.errors import InputError
from adamss_fl.model import (
    AdaMSS,
    ModelSettings,
    Weights,
    architecture_hash,
    load_weights,
    parameter_groups,
    prepare,
    to_weights,
)
from adamss_fl.model.weights import misfits

SETTINGS = ModelSettings(width=1)


def model(seed: int) -> AdaMSS:
    torch.manual_seed(seed)
    return AdaMSS(SETTINGS)


@pytest.fixture
def weights() -> Weights:
    return to_weights(model(1))


def test_weights_are_named_sorted_contiguous_and_never_scalar(weights: Weights) -> None:
    assert list(weights) == sorted(model(0).state_dict())
    assert {array.dtype for array in weights.values()} == {np.dtype(np.float32), np.dtype(np.int64)}
    assert all(array.ndim > 0 and array.flags.c_contiguous for array in weights.values())


def test_round_trip_is_exact_across_memory_formats(weights: Weights) -> None:
    other = prepare(model(2), channels_last=True)
    load_weights(other, weights)
    back = to_weights(other)
    assert all(np.array_equal(weights[name], back[name]) for name in weights)
    kernel = other.get_parameter("encoder.fusion.level2.convs.0.conv.weight")
    assert kernel.is_contiguous(memory_format=torch.channels_last_3d)


def test_weights_are_a_copy(weights: Weights) -> None:
    one = model(1)
    taken = to_weights(one)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.zero_()
    assert all(np.array_equal(taken[name], weights[name]) for name in weights)


def test_read_only_arrays_can_be_loaded(weights: Weights) -> None:
    for array in weights.values():
        array.flags.writeable = False
    load_weights(model(2), weights)


KERNEL = "decoder.level1.block.convs.0.conv.weight"
COUNTER = "decoder.level1.block.convs.0.norm.num_batches_tracked"


@pytest.mark.parametrize(
    ("name", "array", "says"),
    [
        (KERNEL, None, f"{KERNEL} is missing"),
        ("decoder.extra", np.zeros(1, np.float32), "decoder.extra is unexpected"),
        (KERNEL, np.zeros((2, 6, 3, 3), np.float32), f"{KERNEL} has shape (2, 6, 3, 3), not (2, 6, 3, 3, 3)"),
        (KERNEL, np.zeros((2, 6, 3, 3, 3)), f"{KERNEL} is float64, not float32"),
        (COUNTER, np.zeros(1, np.float32), f"{COUNTER} is float32, not int64"),
        (KERNEL, np.full((2, 6, 3, 3, 3), np.nan, np.float32), f"{KERNEL} is not finite"),
        (KERNEL, np.full((2, 6, 3, 3, 3), np.inf, np.float32), f"{KERNEL} is not finite"),
        (KERNEL, [0.0], f"{KERNEL} is no array"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_and_nothing_is_loaded(
    weights: Weights, name: str, array: object, says: str
) -> None:
    weights.pop(name, None)
    if array is not None:
        weights[name] = array  # type: ignore[assignment]
    target = model(2)
    before = to_weights(target)
    with pytest.raises(InputError) as error:
        load_weights(target, weights)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert all(np.array_equal(before[key], value) for key, value in to_weights(target).items())


def test_five_are_named_and_the_rest_counted(weights: Weights) -> None:
    with pytest.raises(InputError, match=rf"\({len(weights)} tensors\).*and {len(weights) - 5} more; use weights"):
        load_weights(model(2), {})


def test_chosen_groups_alone_are_loaded(weights: Weights) -> None:
    groups = ("pet_encoder", "norm_statistics")
    target = model(2)
    names = {name for group in groups for name in parameter_groups(target)[group]}
    before = to_weights(target)
    part = {name: weights[name] for name in names}
    load_weights(target, part, groups=groups)
    after = to_weights(target)
    assert all(np.array_equal(after[name], (weights if name in names else before)[name]) for name in before)
    with pytest.raises(InputError, match="is missing"):
        load_weights(target, part)
    with pytest.raises(InputError, match="is unexpected"):
        load_weights(target, weights, groups=groups)


def test_partial_groups_may_stay_away_or_come(weights: Weights) -> None:
    target = model(2)
    local = set(parameter_groups(target)["norm_statistics"])
    load_weights(target, {n: a for n, a in weights.items() if n not in local}, partial_groups=("norm_statistics",))
    load_weights(target, weights, partial_groups=("norm_statistics",))
    with pytest.raises(InputError, match="is missing"):
        load_weights(target, {}, partial_groups=("norm_statistics",))


@pytest.mark.parametrize(
    "settings", [ModelSettings(), ModelSettings(width=2, norm="group", tabular=3, pooled="whitened")]
)
def test_hash_is_that_of_the_network_itself(settings: ModelSettings) -> None:
    """Written out from a network whose weights were really made."""
    weights = to_weights(AdaMSS(settings))
    lines = "".join(f"{name} {weights[name].shape} {weights[name].dtype}\n" for name in sorted(weights))
    assert architecture_hash(settings) == hashlib.sha256(lines.encode()).hexdigest()
    assert misfits(settings, weights) == []


def test_hash_tells_architectures_apart_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    hashes = {
        architecture_hash(settings)
        for settings in (
            SETTINGS,
            ModelSettings(width=2),
            ModelSettings(width=1, norm="group"),
            ModelSettings(width=1, bins=9),
        )
    }
    assert len(hashes) == 4
    assert architecture_hash(ModelSettings(width=1, dropout=0.1)) == architecture_hash(SETTINGS)
    assert torch.equal(before, torch.get_rng_state())
