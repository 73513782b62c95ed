"""Fixed fusion gates: the function is the hand-made combination, and what takes no part keeps its weights."""

from dataclasses import replace

import pytest
import torch
from plain_adamss import plain_adamss
from synthetic import ONE_THREAD_FP32, make_samples
from torch import Tensor

from adamss_fl.model import AdaMSS, ModelSettings, architecture_hash, count_parameters, parameter_groups, to_weights
from adamss_fl.model.encoder import FusionGate
from adamss_fl.survival import TimeGrid
from adamss_fl.training import StageSettings, StageWork, train_stage

WEIGHT = {"half": 0.5, "early": 1.0, "late": 0.0}
PLAIN = ModelSettings(width=1, bins=4, dropout=0.0)


def settings(gates: str) -> ModelSettings:
    return replace(PLAIN, gates=gates)  # type: ignore[arg-type]


def gate_parts() -> tuple[Tensor, Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    fuse = torch.rand(2, 4, 8, 8, 8, generator=draws)
    return fuse, *(torch.rand(2, 2, 8, 8, 8, generator=draws) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize("gates", WEIGHT)
def test_a_fixed_gate_is_the_combination_made_by_hand(gates: str) -> None:
    torch.manual_seed(0)
    gate, weight = FusionGate(settings(gates), 4), WEIGHT[gates]
    torch.nn.init.normal_(gate.contrast.weight_a)
    fuse, pet, ct = gate_parts()
    feature, opening = gate(fuse, pet, ct)
    convolved = torch.nn.functional.conv3d(torch.cat((pet, ct), 1), gate.late.conv.weight, padding=1)
    mean, variance = convolved.mean((0, 2, 3, 4), keepdim=True), convolved.var((0, 2, 3, 4), False, keepdim=True)
    late = ((convolved - mean) / (variance + 1e-5).sqrt()).clamp(min=0)
    torch.testing.assert_close(feature, weight * fuse + (1 - weight) * late, rtol=1e-4, atol=1e-5)
    assert float(opening) == weight


def test_half_is_the_learnt_gate_as_it_starts() -> None:
    images = [torch.rand(2, 1, 16, 16, 16) for _ in range(2)]
    outputs = []
    for gates in ("learnt", "half"):
        torch.manual_seed(5)
        model = AdaMSS(settings(gates))
        outputs.append(model(*images))
    assert torch.allclose(outputs[0].survival, outputs[1].survival, atol=1e-5)
    assert torch.equal(outputs[0].gate_opening, outputs[1].gate_opening)


@pytest.mark.parametrize(("gates", "logit"), [("early", 60.0), ("late", -60.0)])
def test_early_and_late_are_the_learnt_gate_driven_to_its_ends(gates: str, logit: float) -> None:
    """The whole network with saturated gates, by the formulas written out."""
    torch.manual_seed(6)
    model = AdaMSS(settings(gates)).double()
    with torch.no_grad():
        for gate in model.encoder.gates.values():
            gate.contrast.bias_a.fill_(logit)  # type: ignore[union-attr]
    pet, ct = (torch.rand(2, 1, 16, 16, 16, dtype=torch.float64) for _ in range(2))
    segmentation, survival, _ = plain_adamss(model.state_dict(), pet, ct)
    output = model(pet, ct)
    torch.testing.assert_close(output.segmentation, segmentation, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(output.survival, survival, rtol=1e-6, atol=1e-8)


def test_every_variant_has_the_same_tensors() -> None:
    learnt = AdaMSS(PLAIN)
    for gates in WEIGHT:
        assert count_parameters(AdaMSS(settings(gates))) == count_parameters(learnt)
        assert architecture_hash(settings(gates)) == architecture_hash(PLAIN)


@pytest.mark.parametrize("gates", WEIGHT)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_stage_trains_what_takes_part_and_goes_on_from_its_optimizer(gates: str, optimizer: str) -> None:
    torch.manual_seed(0)
    model = AdaMSS(settings(gates))
    before = to_weights(model)
    stage = StageSettings(
        learning_rate=1e-2, batch_size=2, optimizer=optimizer, clip_norm=1.0, proximal_mu=0.1, schedule="constant"
    )  # type: ignore[arg-type]
    work = StageWork("survival", 0, steps=2, epochs=None)
    samples, grid = make_samples(4, seed=1), TimeGrid((0.0, 200.0, 400.0, 600.0, 2000.0))
    first = train_stage(model, samples, work, stage, ONE_THREAD_FP32, grid=grid)
    train_stage(model, samples, work, stage, ONE_THREAD_FP32, grid=grid, optimizer=first.optimizer)
    after = to_weights(model)
    idle = {"half": {"fusion_gates"}, "early": {"fusion_gates", "pet_encoder", "ct_encoder"}, "late": {"fusion_gates"}}
    for group, names in parameter_groups(model).items():
        same = [name for name in names if (before[name] == after[name]).all()]
        if group in idle[gates] or group == "segmentation_head":
            assert same == list(names), group
        else:
            assert len(same) < len(names), group
    moments = {key.partition("/")[2] for key in first.optimizer if key.startswith("exp_avg/")}
    assert not any(".contrast." in name for name in moments)
    assert first.gate_opening == (WEIGHT[gates],) * 5
