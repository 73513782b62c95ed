"""A stage trained on an accelerator: the same weights as on the CPU, and no step in which the host waits for it."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from stand_in import DEVICE, Waits, count_waits
from synthetic import make_samples

from adamss_fl.imaging import Sample
from adamss_fl.imaging.augmentation import RandomAffine, RandomCrop, RandomFlip
from adamss_fl.model import AdaMSS, ModelSettings, Weights, prepare, to_weights
from adamss_fl.survival import TimeGrid
from adamss_fl.training import RuntimeSettings, StageResult, StageSettings, StageWork, train_stage
from adamss_fl.training.optimizer import OptimizerState
from adamss_fl.training.stage import Augmentation
from adamss_fl.training.tally import CHECKED_EVERY, NonFiniteLoss
from adamss_fl.training.tensors import as_batch, device_of

GRID = TimeGrid((0.0, 200.0, 400.0, 600.0, 2000.0))
SAMPLES = make_samples(4, seed=1, side=32)
CPU = RuntimeSettings(device="cpu", precision="fp32", channels_last=False, threads=1)
AUTO = replace(CPU, device="auto")
PLAIN = StageSettings(learning_rate=1e-3, batch_size=2, schedule="constant")
EIGENVECTORS = "aten::_linalg_eigh"
"""The one documented wait of a step, of whitened features: PyTorch asks whether the decomposition converged."""


def train(
    runtime: RuntimeSettings,
    stage: str = "joint",
    settings: StageSettings = PLAIN,
    samples: Sequence[Sample] = SAMPLES,
    augmentations: Sequence[Augmentation] = (),
    rounds: int = 1,
    steps: int = 2,
    **model: Any,
) -> tuple[Weights, StageResult, list[list[str]]]:
    """Some rounds from one start: the weights, the last round's result, and what waited from one step to the next.

    Width 2 and a side of 32, since the CPU has kernels of its own for maps of one channel, and for one voxel.
    """
    torch.manual_seed(0)
    network = AdaMSS(ModelSettings(width=2, bins=4, **model))
    network = prepare(network, device_of(runtime), runtime.channels_last)
    state: OptimizerState = {}
    between: list[list[str]] = []
    for number in range(rounds):
        marks: list[int] = []
        with count_waits() as waits:
            result = train_stage(
                network,
                samples,
                StageWork(stage, number, steps=steps),  # type: ignore[arg-type]
                settings,
                runtime,
                grid=GRID,
                augmentations=augmentations,
                optimizer=state,
                on_step=partial(_mark, waits, marks),
            )
        between += [waits.reasons[first:last] for first, last in pairwise(marks)]
        state = result.optimizer
    return to_weights(network), result, between


def _mark(waits: Waits, marks: list[int], _done: int, _total: int) -> None:
    marks.append(len(waits.reasons))


def assert_same_as_on_the_cpu(close: float = 0.0, waits: Sequence[str] = (), **what: Any) -> None:
    cpu, seen, _ = train(CPU if "runtime" not in what else replace(what["runtime"], device="cpu"), **_rest(what))
    here, found, between = train(what.get("runtime", AUTO), **_rest(what))
    assert device_of(what.get("runtime", AUTO)) == DEVICE
    assert between
    assert all(reasons == list(waits) for reasons in between), between
    for name in cpu:
        np.testing.assert_allclose(here[name], cpu[name], rtol=close, atol=close, err_msg=name)
    for key, array in seen.optimizer.items():
        np.testing.assert_allclose(found.optimizer[key], array, rtol=close, atol=close, err_msg=key)
    assert found.losses == pytest.approx(seen.losses, rel=close, abs=close)
    assert found.gate_opening == pytest.approx(seen.gate_opening, rel=close, abs=close)
    assert (found.steps, found.balanced) == (seen.steps, seen.balanced)


def _rest(what: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in what.items() if name != "runtime"}


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("stage", ["segmentation", "survival", "joint"])
def test_each_stage_equals_the_cpu_and_does_not_wait(stage: str) -> None:
    assert_same_as_on_the_cpu(stage=stage, steps=3)


@pytest.mark.parametrize(
    "augmentation",
    [
        RandomAffine(probability=0.7),
        RandomAffine(translation_mode="reference", shear_degrees=0.0),
        RandomFlip(axes=(0, 1, 2)),
        RandomCrop((16, 32, 16)),
    ],
)
def test_augmentation_draws_the_same_numbers_on_every_device(
    accelerator: torch.device, augmentation: Augmentation
) -> None:
    changed = []
    for device in (torch.device("cpu"), accelerator):
        batch = as_batch(SAMPLES, device)
        with count_waits() as waits:
            found = augmentation(batch.image, batch.mask, torch.Generator().manual_seed(4))
        assert waits.reasons == []
        changed.append([each.cpu() for each in found])
    assert all(map(torch.equal, *changed))
    assert not torch.equal(changed[0][0], torch.from_numpy(np.stack([sample.image for sample in SAMPLES])))


@pytest.mark.usefixtures("accelerator")
def test_a_stage_with_every_augmentation_equals_the_cpu() -> None:
    assert_same_as_on_the_cpu(augmentations=[RandomAffine(), RandomCrop((32, 32, 32)), RandomFlip()])


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_three_rounds_with_the_optimizers_state_equal_the_cpu(optimizer: str) -> None:
    settings = replace(PLAIN, optimizer=optimizer, weight_decay=0.01, head_factor=3.0)  # type: ignore[arg-type]
    assert_same_as_on_the_cpu(settings=settings, rounds=3)


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize(
    "changes",
    [
        {"norm_statistics": "frozen"},
        {"proximal_mu": 0.1},
        {"clip_norm": 0.01},
        {"l2": 0.1},
        {"balanced": True, "schedule": "one_cycle"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_setting_of_a_stage_equals_the_cpu(changes: dict[str, Any]) -> None:
    assert_same_as_on_the_cpu(settings=replace(PLAIN, **changes), steps=3)


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize(
    "model",
    [
        {"pooled": "standardised"},
        {"norm": "instance"},
        {"gates": "half"},
        {"gates": "early"},
        {"gates": "late"},
    ],
    ids=lambda model: "-".join(map(str, model.values())),
)
def test_each_kind_of_model_equals_the_cpu(model: dict[str, Any]) -> None:
    assert_same_as_on_the_cpu(**model)


@pytest.mark.usefixtures("accelerator")
def test_group_norm_equals_the_cpus_own_kernel_to_rounding() -> None:
    assert_same_as_on_the_cpu(norm="group", settings=replace(PLAIN, optimizer="sgd"), close=1e-5)


@pytest.mark.usefixtures("accelerator")
def test_whitened_features_wait_for_their_decomposition_only() -> None:
    assert_same_as_on_the_cpu(pooled="whitened", waits=[EIGENVECTORS], steps=3)


@pytest.mark.usefixtures("accelerator")
def test_checkpointing_equals_the_cpu() -> None:
    assert_same_as_on_the_cpu(runtime=replace(AUTO, checkpointing=True))


@pytest.mark.usefixtures("accelerator")
def test_patients_without_a_mask_and_with_a_tabular_vector_equal_the_cpu() -> None:
    rng = np.random.default_rng(0)
    samples = [
        replace(sample, has_mask=number % 2 == 0, tabular=rng.normal(size=3).astype(np.float32))
        for number, sample in enumerate(SAMPLES)
    ]
    assert_same_as_on_the_cpu(samples=samples, tabular=3)


@pytest.mark.usefixtures("accelerator")
def test_channels_last_equals_the_cpus_own_kernels_to_rounding() -> None:
    # On large maps the CPU has kernels of its own in this layout, which sum in another order.
    assert_same_as_on_the_cpu(
        runtime=replace(AUTO, channels_last=True), settings=replace(PLAIN, optimizer="sgd"), close=2e-5
    )


@pytest.mark.usefixtures("accelerator")
def test_bf16_trains_without_a_wait_and_in_the_direction_of_fp32() -> None:
    plain = replace(PLAIN, optimizer="sgd")
    start, _, _ = train(AUTO, settings=plain, steps=0)
    exact, _, _ = train(AUTO, settings=plain)
    found, _, between = train(replace(AUTO, precision="bf16"), settings=plain)
    assert between == [[]]
    assert all(array.dtype == exact[name].dtype for name, array in found.items())
    learnt = [name for name in start if "running" not in name and "num_batches" not in name]
    moved, expected = (np.concatenate([(to[n] - start[n]).ravel() for n in learnt]) for to in (found, exact))
    assert not np.array_equal(moved, expected)
    assert moved @ expected > 0.95 * np.linalg.norm(moved) * np.linalg.norm(expected)


@pytest.mark.usefixtures("accelerator")
@pytest.mark.parametrize(("bad", "noticed"), [(2, CHECKED_EVERY), (CHECKED_EVERY, CHECKED_EVERY + 3)])
def test_a_loss_that_is_not_finite_is_named_by_its_step_though_found_later(
    monkeypatch: pytest.MonkeyPatch, bad: int, noticed: int
) -> None:
    """The loss of step ``bad`` (from 0), and of all after it, is not a number."""
    done: list[int] = []
    monkeypatch.setattr("adamss_fl.training.stage.stage_loss", _losses_without_a_network(bad))
    with pytest.raises(NonFiniteLoss, match=rf"not finite at step {bad + 1} of {CHECKED_EVERY + 3}"):
        _train_one_scalar(AUTO, CHECKED_EVERY + 3, done.append)
    assert len(done) in (noticed - 1, noticed)


def test_on_the_cpu_it_is_found_in_its_own_step(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    monkeypatch.setattr("adamss_fl.training.stage.stage_loss", _losses_without_a_network(2))
    with pytest.raises(NonFiniteLoss, match="not finite at step 3 of 9"):
        _train_one_scalar(CPU, 9, done.append)
    assert done == [1, 2]


def _losses_without_a_network(bad: int) -> Callable[..., Any]:
    step = -1

    def loss(model: AdaMSS, _stage: str, image: torch.Tensor, *_: Any) -> Any:
        nonlocal step
        step += 1
        factor = float("nan") if step >= bad else 1.0
        term = next(model.parameters()).square().sum() * factor
        return {"survival": term}, torch.zeros(5, device=image.device)

    return loss


def _train_one_scalar(runtime: RuntimeSettings, steps: int, done: Callable[[int], None]) -> None:
    network = prepare(AdaMSS(ModelSettings(width=1, bins=4)), device_of(runtime), False)
    work = StageWork("survival", 0, steps=steps)
    train_stage(network, SAMPLES, work, PLAIN, runtime, grid=GRID, on_step=lambda step, total: done(step))
