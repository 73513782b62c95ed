"""fp16 training: the loss is scaled, the steps are not, and the scale survives a restart."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from adamss_fl.model import AdaMSS, ModelSettings
from adamss_fl.training import StageSettings, StageWork, train_stage
from adamss_fl.training import stage as stage_module
from adamss_fl.training.optimizer import OptimizerState
from adamss_fl.training.scaling import FIRST_SCALE, SMALLEST_SCALE, STEPS_TO_GROW, LossScaling
from adamss_fl.training.stage import NonFiniteLoss, StageResult
from tests.synthetic import ONE_THREAD_FP32, make_samples

SAMPLES = make_samples(6, seed=0)
FP16 = replace(ONE_THREAD_FP32, precision="fp16")
CPU = torch.device("cpu")


def network() -> AdaMSS:
    torch.manual_seed(0)
    return AdaMSS(ModelSettings(width=1, bins=4, dropout=0.0))


def train(model: AdaMSS, runtime: Any, steps: int, start: OptimizerState | None = None, **settings: Any) -> StageResult:
    work = StageWork("segmentation", seed=1, epochs=None, steps=steps)
    given = StageSettings(**{"batch_size": 3, "learning_rate": 1e-3, "schedule": "constant", **settings})
    return train_stage(model, SAMPLES, work, given, runtime, optimizer=start)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("extra", [{}, {"clip_norm": 0.05, "proximal_mu": 0.1}])
def test_scaling_by_a_power_of_two_changes_no_bit_of_a_step_in_fp32(
    optimizer: str, extra: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With autocast out of the way a scaled step is the plain one: clipping and FedProx see unscaled gradients."""
    plain, scaled = network(), network()
    train(plain, ONE_THREAD_FP32, 3, optimizer=optimizer, **extra)
    monkeypatch.setattr(stage_module, "autocast", lambda device, precision: nullcontext())
    train(scaled, FP16, 3, optimizer=optimizer, **extra)
    assert all(torch.equal(value, scaled.state_dict()[name]) for name, value in plain.state_dict().items())


def test_fp16_follows_fp32() -> None:
    """Under plain descent, whose steps are in proportion to the gradient (Adam's are not where it is near 0)."""
    exact, low = network(), network()
    for model in (
        exact,
        low,
    ):  # a head that has learnt: at the start hardly any gradient passes it, and that is rounding
        torch.manual_seed(1)
        nn.init.kaiming_normal_(model.segmentation_head.conv.weight, nonlinearity="relu")
        nn.init.zeros_(model.segmentation_head.conv.bias)  # type: ignore[arg-type]
    start = {name: value.clone() for name, value in exact.state_dict().items()}
    settings = {"optimizer": "sgd", "learning_rate": 1e-2}
    wanted = train(exact, ONE_THREAD_FP32, 3, **settings)
    found = train(low, FP16, 3, **settings)
    assert found.losses["segmentation"] == pytest.approx(wanted.losses["segmentation"], abs=1e-2)
    moved = [
        torch.cat([(model.state_dict()[name] - start[name]).flatten() for name, _ in model.named_parameters()])
        for model in (exact, low)
    ]
    assert float(torch.nn.functional.cosine_similarity(moved[0], moved[1], dim=0)) > 0.9


def test_a_stopped_and_resumed_fp16_training_equals_the_uninterrupted_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over a change of the scale: it doubles after the second of four steps, and a forgotten count would delay that."""
    monkeypatch.setattr("adamss_fl.training.scaling.STEPS_TO_GROW", 2)
    whole, parts = network(), network()
    order = [[0, 1, 2], [3, 4, 5], [0, 1, 2], [3, 4, 5]]
    draws = {4: iter([order]), 3: iter([order[:3]]), 1: iter([order[3:]])}
    monkeypatch.setattr(stage_module.Batches, "draw", lambda self, steps, generator: iter(next(draws[steps])))
    uninterrupted = train(whole, FP16, 4)
    first = train(parts, FP16, 3)
    assert first.optimizer["loss_scale/scale"].tolist() == [2 * FIRST_SCALE]
    assert first.optimizer["loss_scale/good_steps"].tolist() == [1]
    second = train(parts, FP16, 1, first.optimizer)
    assert uninterrupted.optimizer.keys() == second.optimizer.keys()
    for name, array in uninterrupted.optimizer.items():
        np.testing.assert_array_equal(array, second.optimizer[name], err_msg=name)
    assert all(torch.equal(value, parts.state_dict()[name]) for name, value in whole.state_dict().items())


def test_only_fp16_leaves_a_scale_behind_and_other_precisions_pass_one_over() -> None:
    left = train(network(), FP16, 1).optimizer
    again = train(network(), ONE_THREAD_FP32, 1, left).optimizer
    assert {name for name in left if name.startswith("loss_scale/")} == {"loss_scale/scale", "loss_scale/good_steps"}
    assert again.keys() == {name for name in left if not name.startswith("loss_scale/")}


def descend(scaling: LossScaling, gradient: Callable[[int], float], steps: int) -> tuple[float, float]:
    """Steps on one weight whose gradient is given; the weight and the scale after them."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for step in range(steps):
        optimizer.zero_grad()
        scaling.backward((weight * gradient(step)).sum())
        scaling.step(optimizer)
    return float(weight.detach()), scaling.dump()["loss_scale/scale"][0]


def test_a_step_with_an_infinite_gradient_is_left_out_and_halves_the_scale() -> None:
    weight, scale = descend(LossScaling("fp16", CPU), lambda step: float("inf") if step == 1 else 0.5, 3)
    assert weight == -1.0
    assert scale == FIRST_SCALE / 2


def test_the_scale_doubles_after_enough_good_steps() -> None:
    assert descend(LossScaling("fp16", CPU), lambda step: 0.5, STEPS_TO_GROW)[1] == 2 * FIRST_SCALE


def test_gradients_that_no_scale_mends_are_reported_and_no_model_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is finite and its gradient is not: each step is left out, and a round of such steps is no training."""

    class NoGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient * float("nan")

    loss = stage_module.dice_focal_loss
    monkeypatch.setattr(stage_module, "dice_focal_loss", lambda *given: NoGradient.apply(loss(*given)))
    halvings = int(np.log2(FIRST_SCALE / SMALLEST_SCALE)) + 1
    state = train(network(), FP16, halvings - 1).optimizer
    with pytest.raises(NonFiniteLoss, match="gradients are not finite in fp16"):
        train(network(), FP16, 1, state)


def test_an_infinite_loss_is_reported_in_fp16_too(monkeypatch: pytest.MonkeyPatch) -> None:
    loss = stage_module.dice_focal_loss
    monkeypatch.setattr(stage_module, "dice_focal_loss", lambda *given: loss(*given) * float("inf"))
    with pytest.raises(NonFiniteLoss, match="loss is not finite at step 1"):
        train(network(), FP16, 1)
