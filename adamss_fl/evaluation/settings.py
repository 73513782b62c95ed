"""Settings of evaluation."""

import math
from dataclasses import dataclass, field

from adamss_fl.federation.selection import SelectionRule


@dataclass(frozen=True)
class StrategySettings:
    """Figures of the strategies that ``compare --strategies`` adds as arms, see ``evaluation.strategies``.

    proximal_mu : of FedProx, in every stage; above 0.
    server_learning_rate : step of FedAdam at the server (its eta); above 0.
    personal_epochs : passes over its own patients with which every site fine-tunes the final global model; 1 or more.
    """

    proximal_mu: float = 0.01
    server_learning_rate: float = 0.01
    personal_epochs: int = 1

    def __post_init__(self) -> None:
        """Refuse figures that make a strategy another one."""
        for name, value in (
            ("proximal_mu", self.proximal_mu),
            ("server_learning_rate", self.server_learning_rate),
        ):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; it must be a number above 0")
        if self.personal_epochs < 1:
            raise ValueError(f"personal_epochs is {self.personal_epochs}; it must be 1 or more")


@dataclass(frozen=True)
class EvaluationSettings:
    """How figures are made.

    bootstrap : resamples of the test patients behind each 95 % interval.
    every : validation figures every so many rounds (0: never).
    select : which round's model a run gives: the last, or the one of the highest C-index on validation patients, see
        ``federation.selection``.
    risk_groups : number of equal-sized predicted risk groups in the Kaplan-Meier figure.
    strategies : figures of the further strategies that a comparison is asked for.
    """

    bootstrap: int = 1000
    every: int = 1
    select: SelectionRule = "last"
    risk_groups: int = 2
    strategies: StrategySettings = field(default_factory=StrategySettings)


@dataclass(frozen=True)
class Design:
    """What a comparison holds besides the federated, pooled and local arms.

    strategies : names of ``evaluation.strategies.STRATEGIES``, an arm each; settings : their figures.
    tune : settings that every arm is trained with, the best on its validation patients being kept; 0 takes the
        configured one untried.
    null : an arm trained on shuffled outcomes.
    """

    strategies: tuple[str, ...] = ()
    settings: StrategySettings = field(default_factory=StrategySettings)
    tune: int = 0
    null: bool = False
