"""One stage at one site."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import ONE_THREAD_FP32, make_samples

from adamss_fl.imaging import Sample
from adamss_fl.model import AdaMSS, ModelSettings, parameter_groups, to_weights
from adamss_fl.survival import TimeGrid
from adamss_fl.training import StageSettings, StageWork, infer, inference, train_stage
from adamss_fl.training.optimizer import OptimizerState, build_optimizer, dump_optimizer, load_optimizer
from adamss_fl.training.stage import stage_loss
from adamss_fl.training.tensors import as_batch

GRID = TimeGrid((0.0, 200.0, 400.0, 600.0, 2000.0))
SAMPLES = make_samples(6, seed=1)


def make_model(dropout: float = 0.5) -> AdaMSS:
    torch.manual_seed(0)
    return AdaMSS(ModelSettings(width=1, bins=4, dropout=dropout))


def settings(**changes: object) -> StageSettings:
    return replace(StageSettings(learning_rate=1e-3, batch_size=3), **changes)  # type: ignore[arg-type]


def test_same_seed_same_weights() -> None:
    models = [make_model(), make_model(), make_model()]
    for model, seed in zip(models, (5, 5, 6), strict=True):
        train_stage(model, SAMPLES, StageWork("survival", seed), settings(), ONE_THREAD_FP32, grid=GRID)
    first, second, third = (to_weights(model) for model in models)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert any(not np.array_equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize(("stage", "other"), [("segmentation", "survival_head"), ("survival", "segmentation_head")])
def test_a_stage_trains_all_but_the_other_head(stage: str, other: str) -> None:
    model = make_model()
    before = to_weights(model)
    work = StageWork(stage, 0, epochs=2)  # type: ignore[arg-type]
    train_stage(model, SAMPLES, work, settings(schedule="constant"), ONE_THREAD_FP32, grid=GRID)
    after = to_weights(model)
    for group, names in parameter_groups(model).items():
        changed = [not np.array_equal(before[name], after[name]) for name in names]
        assert not any(changed) if group == other else any(changed), group


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_optimizer_put_back_goes_on_bit_for_bit(optimizer: str) -> None:
    """Against torch's own optimiser that was never interrupted, on the same gradients."""
    kept, whole = make_model(), make_model()
    still = settings(optimizer=optimizer, weight_decay=0.01)
    through = {name: dict(model.named_parameters()) for name, model in (("kept", kept), ("whole", whole))}
    uninterrupted = build_optimizer(through["whole"], still)
    state: OptimizerState = {}
    for step in range(4):
        afresh = build_optimizer(through["kept"], still)
        load_optimizer(afresh, through["kept"], state)
        for parameters, optimiser in ((through["kept"], afresh), (through["whole"], uninterrupted)):
            draws = torch.Generator().manual_seed(step)
            for parameter in parameters.values():
                parameter.grad = torch.randn(parameter.shape, generator=draws)
            optimiser.step()
        state = dump_optimizer(afresh, through["kept"])
    first, second = to_weights(kept), to_weights(whole)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_optimizer_state_of_another_model_is_refused() -> None:
    parameters = dict(make_model().named_parameters())
    with pytest.raises(ValueError, match="no such parameter"):
        load_optimizer(build_optimizer(parameters, settings()), parameters, {"exp_avg/nowhere": np.zeros(1)})


def test_loss_falls() -> None:
    model = make_model(dropout=0.0)
    work = StageWork("segmentation", 0, epochs=1)
    still = settings(schedule="constant", learning_rate=5e-3)
    first = train_stage(model, SAMPLES, work, still, ONE_THREAD_FP32)
    last = first
    for seed in range(1, 12):
        last = train_stage(model, SAMPLES, replace(work, seed=seed), still, ONE_THREAD_FP32, optimizer=last.optimizer)
    assert last.losses["segmentation"] < first.losses["segmentation"] - 0.03


def test_l2_term_is_alpha_times_the_sum_of_squares_of_the_two_linear_layers() -> None:
    model = make_model(dropout=0.0)
    linear = [layer for layer in model.survival_head.modules() if isinstance(layer, torch.nn.Linear)]
    assert len(linear) == 2
    expected = 0.1 * sum(float(layer.weight.detach().double().square().sum()) for layer in linear)
    work = StageWork("survival", 0, steps=1, epochs=None)
    result = train_stage(model, SAMPLES, work, settings(l2=0.1), ONE_THREAD_FP32, grid=GRID)
    assert result.losses["l2"] == pytest.approx(expected, rel=1e-5)


def test_proximal_term_pulls_towards_the_weights_received() -> None:
    start = to_weights(make_model(dropout=0.0))
    moved = []
    for mu in (0.0, 500.0):
        model = make_model(dropout=0.0)
        still = settings(optimizer="sgd", learning_rate=1e-3, schedule="constant", proximal_mu=mu)
        train_stage(model, SAMPLES, StageWork("survival", 0, epochs=5), still, ONE_THREAD_FP32, grid=GRID)
        names = [name for name, _ in model.named_parameters()]
        trained = to_weights(model)
        moved.append(sum(float(np.square(trained[name] - start[name]).sum()) for name in names) ** 0.5)
    assert moved[1] < 0.8 * moved[0]


def test_first_proximal_step_is_free_of_the_term() -> None:
    """At the first step w = w_global, so mu changes nothing (closed form)."""
    results = []
    for mu in (0.0, 10.0):
        model = make_model(dropout=0.0)
        work = StageWork("survival", 0, steps=1, epochs=None)
        train_stage(model, SAMPLES, work, settings(optimizer="sgd", proximal_mu=mu), ONE_THREAD_FP32, grid=GRID)
        results.append(to_weights(model))
    assert all(np.array_equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("stage", ["segmentation", "survival"])
@pytest.mark.parametrize("length", [{"epochs": 2}, {"epochs": None, "steps": 5}])
def test_an_odd_number_of_patients_trains_in_full_batches(stage: str, length: dict[str, int | None]) -> None:
    """A batch of one ends the run on this grid, and holds one class in stage II."""
    model = make_model()
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    work = StageWork(stage, 0, **length)  # type: ignore[arg-type]
    result = train_stage(model, SAMPLES[:5], work, settings(batch_size=2, balanced=True), ONE_THREAD_FP32, grid=GRID)
    assert sizes == [2] * 5  # 2 passes over 5 patients are 10 places
    assert result.steps == 5


def without_mask(sample: Sample) -> Sample:
    """Images far from all others, which the norms' running statistics would show."""
    return replace(sample, has_mask=False, mask=np.zeros_like(sample.mask), image=sample.image + 50.0)


def test_stage_one_trains_on_patients_with_a_mask_only() -> None:
    """Bit for bit as if the others were not there."""
    mixed = [*SAMPLES[:4], *map(without_mask, SAMPLES[4:])]
    models = make_model(), make_model()
    for model, samples in zip(models, (mixed, SAMPLES[:4]), strict=True):
        work = StageWork("segmentation", 0, epochs=2)
        train_stage(model, samples, work, settings(batch_size=2), ONE_THREAD_FP32)
    first, second = map(to_weights, models)
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stage", ["survival", "joint"])
def test_the_other_stages_train_on_patients_without_a_mask_too(stage: str) -> None:
    model = make_model()
    seen: list[float] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0].mean((1, 2, 3, 4)).tolist()))
    mixed = [*SAMPLES[:4], *map(without_mask, SAMPLES[4:])]
    work = StageWork(stage, 0)  # type: ignore[arg-type]
    train_stage(model, mixed, work, settings(batch_size=2), ONE_THREAD_FP32, grid=GRID)
    assert sum(mean > 40 for mean in seen) == 2


def test_survival_stage_without_time_bins_is_refused() -> None:
    with pytest.raises(ValueError, match="time bins"):
        train_stage(make_model(), SAMPLES, StageWork("survival", 0), settings(), ONE_THREAD_FP32)


def test_inference_does_not_depend_on_batch_size_and_counts_voxels() -> None:
    model = make_model()
    one = infer(model, SAMPLES, ONE_THREAD_FP32, grid=GRID, batch_size=1, keep_masks=True)
    many = infer(model, SAMPLES, ONE_THREAD_FP32, grid=GRID, batch_size=4)
    np.testing.assert_allclose(one.survival_logits, many.survival_logits, rtol=1e-4, atol=1e-5)
    assert one.masks is not None
    for index, sample in enumerate(SAMPLES):
        mask = one.masks[index]
        expected = [(mask & (sample.mask > 0)).sum((1, 2, 3)), mask.sum((1, 2, 3)), (sample.mask > 0).sum((1, 2, 3))]
        np.testing.assert_array_equal(one.overlap[index], np.stack(expected, axis=1))
    assert one.loss_survival == pytest.approx(many.loss_survival, rel=1e-4)


def test_inference_takes_fewer_large_samples_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model().eval()
    sizes: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0].shape[0]))
    for most, expected in ((1, [1] * 6), (4 * 16**3, [4, 2]), (100 * 16**3, [6])):
        monkeypatch.setattr(inference, "MOST_VOXELS", most)
        sizes.clear()
        infer(model, SAMPLES, ONE_THREAD_FP32)
        assert sizes == expected


def test_head_factor_multiplies_the_rate_of_the_heads_alone() -> None:
    """Closed form of plain descent: the heads move k times as far on the same gradient, the trunk as far as before."""
    start = to_weights(make_model(dropout=0.0))
    moved = []
    for factor in (1.0, 3.0):
        model = make_model(dropout=0.0)
        plain = settings(optimizer="sgd", schedule="constant", batch_size=6, head_factor=factor)
        train_stage(model, SAMPLES, StageWork("survival", 0, epochs=1), plain, ONE_THREAD_FP32, grid=GRID)
        moved.append({name: to_weights(model)[name] - start[name] for name, _ in model.named_parameters()})
    for name, step in moved[0].items():
        times = 3.0 if name.startswith("survival_head.") else 1.0
        np.testing.assert_allclose(moved[1][name], times * step, rtol=1e-3, atol=1e-7, err_msg=name)


def gradients(stage: str, l2: float = 0.1) -> dict[str, torch.Tensor]:
    """The gradient of a stage's loss on all samples, batch statistics included."""
    model = make_model(dropout=0.0).train()
    batch = as_batch(SAMPLES, torch.device("cpu"))
    terms, _ = stage_loss(
        model,
        stage,  # type: ignore[arg-type]
        batch.image,
        batch.mask,
        batch,
        settings(l2=l2),
        ONE_THREAD_FP32,
        GRID,
    )
    torch.stack(list(terms.values())).sum().backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}


def test_the_joint_stages_gradient_is_the_sum_of_the_two_stages_gradients() -> None:
    joint, first, second = (gradients(stage) for stage in ("joint", "segmentation", "survival"))
    flat = [torch.cat([part[name].flatten() for name in joint]) for part in (joint, first, second)]
    assert float((flat[0] - flat[1] - flat[2]).norm() / flat[0].norm()) < 1e-5
    assert min(float(part.norm()) for part in flat[1:]) > 1e-2
    for name in ("segmentation_head.conv.weight", "survival_head.output.weight"):
        assert float(joint[name].norm()) > 1e-4


def test_the_joint_stage_trains_everything_and_reports_both_losses() -> None:
    model = make_model()
    before = to_weights(model)
    still = settings(schedule="constant", balanced=True)
    result = train_stage(model, SAMPLES, StageWork("joint", 0, epochs=2), still, ONE_THREAD_FP32, grid=GRID)
    after = to_weights(model)
    for group, names in parameter_groups(model).items():
        assert any(not np.array_equal(before[name], after[name]) for name in names), group
    assert set(result.losses) == {"segmentation", "survival"}
    assert result.balanced
    with pytest.raises(ValueError, match="joint stage needs its time bins"):
        train_stage(model, SAMPLES, StageWork("joint", 0), still, ONE_THREAD_FP32)


def test_frozen_norm_statistics_stay_and_everything_else_trains() -> None:
    model = make_model()
    before = to_weights(model)
    frozen = settings(norm_statistics="frozen", schedule="constant")
    train_stage(model, SAMPLES, StageWork("survival", 0), frozen, ONE_THREAD_FP32, grid=GRID)
    after = to_weights(model)
    groups = parameter_groups(model)
    assert all(np.array_equal(before[name], after[name]) for name in groups["norm_statistics"])
    assert any(not np.array_equal(before[name], after[name]) for name in groups["decoder"])
