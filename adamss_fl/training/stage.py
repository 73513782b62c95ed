"""One stage of AdaMSS at one site: some passes of one loss over the site's training patients.

Nothing is frozen in either stage: a stage trains the whole trunk and its own head (METHOD: "expanding focus" is
fine-tuning). Only the other stage's head receives no gradient and stays as it is. ``joint`` is the alternative to the
two stages: the sum of both losses, both heads.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from adamss_fl.imaging import Sample
from adamss_fl.imaging.transfer import to_device
from adamss_fl.model import AdaMSS, autocast, parameter_groups, resolve_precision
from adamss_fl.model.network import HEADS
from adamss_fl.segmentation import dice_focal_loss
from adamss_fl.survival import TimeGrid, discrete_likelihood
from adamss_fl.training.batches import Batches
from adamss_fl.training.optimizer import (
    OptimizerState,
    build_optimizer,
    dump_optimizer,
    load_optimizer,
    set_learning_rate,
)
from adamss_fl.training.scaling import LossScaling
from adamss_fl.training.schedule import learning_rate
from adamss_fl.training.seeds import derive_seed
from adamss_fl.training.settings import RuntimeSettings, StageSettings
from adamss_fl.training.tally import NonFiniteLoss, Tally
from adamss_fl.training.tensors import Batch, as_batch, device_of

StageName = Literal["segmentation", "survival", "joint"]
HEADS_OF: Mapping[StageName, tuple[str, ...]] = {
    "segmentation": ("segmentation",),
    "survival": ("survival",),
    "joint": ("segmentation", "survival"),
}
"""The heads, and with them the losses, that a stage trains."""


class Augmentation(Protocol):
    """Extension point ``adamss_fl.augmentation``: the same random change of images and masks of a batch."""

    def __call__(self, image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Change image (B,2,D,H,W) and mask (B,2,D,H,W), drawing from ``generator`` only."""
        ...


@dataclass(frozen=True)
class StageWork:
    """What a stage is to do in one round.

    stage : which loss and head.
    steps : optimiser steps; None means ``epochs`` passes.
    epochs : passes over the training patients, rounded up to full batches, where ``steps`` is None.
    progress : fractions (from, to) of the whole stage, over all rounds, that this work covers; they set the schedule.
    seed : seed of order, augmentation and dropout.
    """

    stage: StageName
    seed: int
    progress: tuple[float, float] = (0.0, 1.0)
    epochs: int | None = 1
    steps: int | None = None


@dataclass(frozen=True)
class StageResult:
    """Figures of a stage: mean losses by term, mean gate opening per level, steps done; and the optimiser's state."""

    losses: Mapping[str, float]
    gate_opening: tuple[float, ...]
    steps: int
    balanced: bool
    optimizer: OptimizerState = field(repr=False)


def train_stage(
    model: AdaMSS,
    samples: Sequence[Sample],
    work: StageWork,
    settings: StageSettings,
    runtime: RuntimeSettings,
    *,
    grid: TimeGrid | None = None,
    augmentations: Sequence[Augmentation] = (),
    optimizer: OptimizerState | None = None,
    on_step: Callable[[int, int], None] | None = None,
) -> StageResult:
    """Train ``model`` in place and return what happened.

    grid : time bins, needed where survival is trained.
    optimizer : state from the last round at this site; None starts afresh.
    on_step : called with (steps done, steps in all).

    Deterministic on a CPU given the model, samples, settings, ``work`` and the number of threads. Augmentation draws
    the same numbers on every device. Raises ValueError where survival is trained without a grid or the batch is larger
    than the cohort, and :class:`NonFiniteLoss`, see :class:`Tally`.
    """
    survives = "survival" in HEADS_OF[work.stage]
    if survives and grid is None:
        raise ValueError(f"the {work.stage} stage needs its time bins")
    device = device_of(runtime)
    balance = [sample.event for sample in samples] if settings.balanced and survives else None
    batches = Batches(len(samples), settings.batch_size, balance, settings.sampling)
    total = work.steps if work.steps is not None else batches.in_epochs(work.epochs or 0)
    torch.manual_seed(derive_seed(work.seed, "dropout"))
    order = np.random.default_rng(derive_seed(work.seed, "order"))
    draws = torch.Generator().manual_seed(derive_seed(work.seed, "augmentation"))
    trained = trained_parameters(model, work.stage)
    optimiser = build_optimizer(trained, settings)
    scaling = LossScaling(resolve_precision(runtime.precision, device), device)
    if optimizer:
        load_optimizer(optimiser, trained, scaling.load(optimizer))
    anchor = {name: value.detach().clone() for name, value in trained.items()} if settings.proximal_mu > 0.0 else {}
    tally = Tally(work.stage, total, device)
    model.train()
    model.checkpointing = runtime.checkpointing
    if settings.norm_statistics == "frozen":
        _freeze_norm_statistics(model)
    first, last = work.progress
    for step, indices in enumerate(batches.draw(total, order)):
        rate = learning_rate(settings, min(1.0, first + (last - first) * (step + 0.5) / total))
        set_learning_rate(optimiser, rate)
        batch = as_batch([samples[index] for index in indices], device)
        image, mask = batch.image, batch.mask
        for augmentation in augmentations:
            image, mask = augmentation(image, mask, draws)
        optimiser.zero_grad(set_to_none=True)
        terms, gates = stage_loss(model, work.stage, image, mask, batch, settings, runtime, grid)
        loss = torch.stack(list(terms.values())).sum()
        tally.add(step, terms, loss, gates)
        scaling.backward(loss)
        if settings.proximal_mu > 0.0 or settings.clip_norm > 0.0:
            scaling.unscale(optimiser)
        _add_proximal_gradient(trained, anchor, settings.proximal_mu)
        if settings.clip_norm > 0.0:
            torch.nn.utils.clip_grad_norm_(list(trained.values()), settings.clip_norm)
        scaling.step(optimiser)
        if on_step is not None:
            on_step(step + 1, total)
    losses, opening = tally.means()
    if scaling.is_lost():
        raise NonFiniteLoss(f"{work.stage} gradients are not finite in fp16 at any scale of the loss")
    return StageResult(
        losses=losses,
        gate_opening=opening,
        steps=total,
        balanced=batches.balanced,
        optimizer={**dump_optimizer(optimiser, trained), **scaling.dump()},
    )


def trained_parameters(model: AdaMSS, stage: StageName) -> dict[str, torch.nn.Parameter]:
    """The parameters a stage trains, by name: all but those of a head that it does not train."""
    groups = parameter_groups(model)
    other = {name for head in HEADS if head not in HEADS_OF[stage] for name in groups[f"{head}_head"]}
    return {name: value for name, value in model.named_parameters() if name not in other}


def stage_loss(
    model: AdaMSS,
    stage: StageName,
    image: Tensor,
    mask: Tensor,
    batch: Batch,
    settings: StageSettings,
    runtime: RuntimeSettings,
    grid: TimeGrid | None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Terms of a stage's loss (their sum is minimised), fp32, and the gate opening (5,) of the forward pass.

    Stage I: ``segmentation``, soft Dice + focal. Stage II: ``survival``, the discrete-time likelihood, and ``l2``,
    alpha * sum(W^2) over the survival head's linear layers where alpha > 0. Joint: all of them.
    """
    with autocast(image.device, runtime.precision):
        output = model(*as_inputs(image, runtime), batch.tabular, heads=HEADS_OF[stage])
    terms: dict[str, Tensor] = {}
    if output.segmentation is not None:
        terms["segmentation"] = dice_focal_loss(output.segmentation, mask, batch.has_mask)
    if output.survival is None:
        return terms, output.gate_opening
    assert grid is not None
    survived, had_event = (to_device(each, image.device) for each in grid.targets(batch.time_days, batch.event))
    terms["survival"] = discrete_likelihood(output.survival, survived, had_event)
    if settings.l2 > 0.0:
        weights = [layer.weight for layer in model.survival_head.modules() if isinstance(layer, torch.nn.Linear)]
        terms["l2"] = settings.l2 * torch.stack([weight.square().sum() for weight in weights]).sum()
    return terms, output.gate_opening


def as_inputs(image: Tensor, runtime: RuntimeSettings) -> tuple[Tensor, Tensor]:
    """PET and CT (B,1,D,H,W) of an image (B,2,D,H,W), in the run's memory format."""
    layout = torch.channels_last_3d if runtime.channels_last else torch.contiguous_format
    return image[:, 0:1].contiguous(memory_format=layout), image[:, 1:2].contiguous(memory_format=layout)


def _freeze_norm_statistics(model: AdaMSS) -> None:
    """Let batch norms use their running statistics and leave them as they are; scales and shifts still train."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.eval()


def _add_proximal_gradient(trained: Mapping[str, Tensor], anchor: Mapping[str, Tensor], mu: float) -> None:
    """Add the gradient mu * (w - w_global) of FedProx's term (Li et al., arXiv 1812.06127, eq. 2)."""
    for name, start in anchor.items():
        gradient: Any = trained[name].grad
        if gradient is not None:
            gradient.add_(trained[name].detach() - start, alpha=mu)
