"""Settings of training: one block per stage, and how the machine is used."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class StageSettings:
    """How one stage (segmentation or survival) is trained.

    learning_rate : peak learning rate of Adam (or of plain gradient descent).
    head_factor : the stage's own head learns at ``learning_rate * head_factor``; above 1 a new head is learnt on a
        trunk that changes slowly.
    batch_size : patients per step; a site with fewer training patients is refused by name.
    schedule : ``one_cycle`` (warm-up over the first 30 %, cosine to 0), ``steps`` (times 0.5 at 40 % and 0.1 at 80 %
        of the stage, over all rounds), or ``constant``.
    optimizer : ``adam``, or ``sgd`` for plain gradient descent without momentum.
    weight_decay : decoupled weight decay (AdamW) on all weights.
    l2 : alpha of the penalty alpha * sum(W^2) on the survival head's two linear layers (stage II only).
    balanced : batches with events and censored patients one to one (stage II only).
    clip_norm : largest norm of the gradient; 0 leaves it as it is.
    proximal_mu : FedProx: mu/2 * |w - w_global|^2 is added to the loss; 0 turns it off.
    norm_statistics : ``batch`` normalises by each batch, as published; ``frozen`` by the running statistics, which then
        stay as they are. A batch of few patients hides from the survival head what it reads, the mean of a feature map.
    """

    learning_rate: float = 1e-4
    head_factor: float = 1.0
    batch_size: int = 2
    schedule: Literal["one_cycle", "steps", "constant"] = "one_cycle"
    optimizer: Literal["adam", "sgd"] = "adam"
    weight_decay: float = 0.0
    l2: float = 0.0
    balanced: bool = False
    clip_norm: float = 0.0
    proximal_mu: float = 0.0
    norm_statistics: Literal["batch", "frozen"] = "batch"


@dataclass(frozen=True)
class StagesSettings:
    """The two stages of AdaMSS.

    edges_days : edges of the survival time bins, 0 first, one more than ``model.bins``; empty takes quantiles of the
        training events (in a federation from counts summed over sites, so that all sites share them).
    """

    segmentation: StageSettings = field(default_factory=StageSettings)
    survival: StageSettings = field(default_factory=lambda: StageSettings(learning_rate=5e-5, balanced=True))
    edges_days: tuple[float, ...] = ()


@dataclass(frozen=True)
class RuntimeSettings:
    """How a site uses its machine.

    device : ``auto`` takes a GPU where there is one.
    precision : ``bf16`` autocast (losses and small maps stay in fp32) or ``fp32``.
    channels_last : memory format channels_last_3d for weights and images.
    threads : CPU threads of one training process; part of the seed, since sums depend on it.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"
    channels_last: bool = True
    threads: int = 2
