"""Settings of training: one block per stage, and how the machine is used."""

from dataclasses import dataclass, field
from typing import Literal

Sampling = Literal["without_replacement", "with_replacement"]
"""How batches are drawn from a site's patients, see :class:`~adamss_fl.training.batches.Batches`."""


@dataclass(frozen=True)
class StageSettings:
    """How one stage (segmentation, survival, or both at once) is trained.

    learning_rate : peak learning rate of Adam (or of plain gradient descent).
    head_factor : the stage's own head learns at ``learning_rate * head_factor``; above 1 a new head is learnt on a
        trunk that changes slowly.
    batch_size : patients per step, in every step; a site with fewer training patients is refused by name.
    sampling : how batches are drawn, see :class:`~adamss_fl.training.batches.Batches`; the authors' released code draws
        ``with_replacement``.
    schedule : ``one_cycle`` (warm-up over the first 30 %, cosine to 0), ``steps`` (times ``drops`` from 40 % and from
        80 % of the stage, over all rounds), or ``constant``.
    drops : what ``steps`` multiplies the peak by; published are (0.5, 0.1) in stage I and (0.2, 0.02) in stage II.
    optimizer : ``adam``, or ``sgd`` for plain gradient descent without momentum.
    weight_decay : decoupled weight decay (AdamW) on all weights.
    l2 : alpha of the penalty alpha * sum(W^2) on the survival head's two linear layers (where survival is trained).
    balanced : batches with events and censored patients one to one (where survival is trained).
    clip_norm : largest norm of the gradient; 0 leaves it as it is.
    proximal_mu : FedProx: mu/2 * |w - w_global|^2 is added to the loss; 0 turns it off.
    norm_statistics : ``batch`` normalises by each batch, as published; ``frozen`` by the running statistics, which then
        stay as they are. A batch of few patients hides from the survival head what it reads, the mean of a feature map.
    """

    learning_rate: float = 1e-4
    head_factor: float = 1.0
    batch_size: int = 2
    sampling: Sampling = "without_replacement"
    schedule: Literal["one_cycle", "steps", "constant"] = "one_cycle"
    drops: tuple[float, float] = (0.5, 0.1)
    optimizer: Literal["adam", "sgd"] = "adam"
    weight_decay: float = 0.0
    l2: float = 0.0
    balanced: bool = False
    clip_norm: float = 0.0
    proximal_mu: float = 0.0
    norm_statistics: Literal["batch", "frozen"] = "batch"


@dataclass(frozen=True)
class StagesSettings:
    """The two stages of AdaMSS, and the alternative to them: ``joint`` trains both losses at once (multi-task).

    transfer : what of stage I enters stage II: ``full`` as in the paper; ``encoder`` sets the decoder back to the run's
        initial weights before the first survival round, as the authors' released code does by accident; ``none`` sets
        the encoder back too.
    edges_days : edges of the survival time bins, 0 first, one more than ``model.bins``; empty takes quantiles of the
        training events (in a federation from counts summed over sites, so that all sites share them).
    """

    segmentation: StageSettings = field(default_factory=StageSettings)
    survival: StageSettings = field(default_factory=lambda: StageSettings(learning_rate=5e-5, balanced=True))
    joint: StageSettings = field(default_factory=lambda: StageSettings(balanced=True))
    transfer: Literal["full", "encoder", "none"] = "full"
    edges_days: tuple[float, ...] = ()


@dataclass(frozen=True)
class RuntimeSettings:
    """How a site uses its machine.

    device : ``auto`` takes a GPU where there is one.
    precision : ``auto`` is what suits the machine, see ``model.hardware``; ``bf16`` autocast (losses and small maps
        stay in fp32), ``fp16`` autocast with loss scaling, or ``fp32``.
    channels_last : memory format channels_last_3d for weights and images.
    threads : CPU threads of one training process; part of the seed, since sums depend on it.
    checkpointing : training keeps the inputs of the network's blocks and makes their inner activations a second time in
        the backward pass: the same step in less memory and more time.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    channels_last: bool = True
    threads: int = 2
    checkpointing: bool = False
