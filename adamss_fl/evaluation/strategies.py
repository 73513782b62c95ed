"""Strategies of federated training as arms of a comparison: each a pure function from the configured task to its own.

Those of the literature (FedAvg, FedProx, FedAdam, FedBN, local gates) are plain averaging but for the one thing that
gives them their name; ``personal``, ``sequential`` and ``per-round`` keep the configured federation. All of them pass
as often over each patient, stage by stage, as the configured plan.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from adamss_fl.errors import InputError
from adamss_fl.evaluation.settings import StrategySettings
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.settings import BlockSettings, PluginSettings, StageName
from adamss_fl.federation.task import Task
from adamss_fl.model import tensor_groups

PERSONAL = "personal"
"""The strategy whose arm is one model a site."""


_TWO_STAGES: tuple[StageName, StageName] = ("segmentation", "survival")


@dataclass(frozen=True)
class Strategy:
    """A row of :data:`STRATEGIES`. change : the configured task to the strategy's own; meaning : one line on it."""

    change: Callable[[Task, StrategySettings], Task]
    meaning: str


def task_of_strategy(name: str, task: Task, settings: StrategySettings) -> Task:
    """The task that the strategy ``name`` trains. Raises InputError where the configured task does not allow it."""
    return STRATEGIES[name].change(task, settings)


def read_strategies(text: str) -> tuple[str, ...]:
    """Names from a text such as ``fedprox,fedbn``, in that order.

    Raises InputError for an unknown name or one that is given twice.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in STRATEGIES:
            raise InputError(f"--strategies: there is no strategy {name!r}; known are {', '.join(STRATEGIES)}")
        if names.count(name) > 1:
            raise InputError(f"--strategies: {name!r} is given twice; name each strategy once")
    return names


def without_proximal(task: Task) -> Task:
    """The same task without a pull to the global model in any stage."""
    return with_proximal(task, 0.0)


def with_proximal(task: Task, mu: float) -> Task:
    """The same task with FedProx's mu in every stage."""
    names = typing.get_args(StageName)
    return replace(
        task,
        stages=replace(task.stages, **{name: replace(getattr(task.stages, name), proximal_mu=mu) for name in names}),
    )


def fedavg(task: Task, settings: StrategySettings) -> Task:
    """Every tensor averaged by training patients (McMahan et al., arXiv 1602.05629); norm moments are pooled."""
    federation = replace(task.federation, aggregator=PluginSettings("average"), groups={})
    return without_proximal(replace(task, federation=federation))


def fedprox(task: Task, settings: StrategySettings) -> Task:
    """FedAvg with mu/2 |w - w_global|^2 in every stage's loss (Li et al., arXiv 1812.06127)."""
    return with_proximal(fedavg(task, settings), settings.proximal_mu)


def fedadam(task: Task, settings: StrategySettings) -> Task:
    """FedAvg whose mean change is the gradient of an Adam step at the server (Reddi et al., arXiv 2003.00295)."""
    plain = fedavg(task, settings)
    adam = PluginSettings("flower:FedAdam", {"eta": settings.server_learning_rate})
    return replace(plain, federation=replace(plain.federation, aggregator=adam))


def fedbn(task: Task, settings: StrategySettings) -> Task:
    """FedAvg with the group ``norm_statistics`` local (Li et al., arXiv 2102.07623).

    Local are the running means, variances and covariances of the norms, the survival head's included. Their scales and
    shifts are averaged: they belong to the groups of their blocks, as no group of the model holds them alone.
    """
    return _with_local(fedavg(task, settings), "fedbn", "norm_statistics")


def local_gates(task: Task, settings: StrategySettings) -> Task:
    """FedAvg with the group ``fusion_gates`` local: every site weighs PET against CT by itself."""
    return _with_local(fedavg(task, settings), "local-gates", "fusion_gates")


def personal(task: Task, settings: StrategySettings) -> Task:
    """The configured federation without its last ``personal_epochs`` passes, which every site then makes alone.

    The passes are those of each stage of the plan's last block; ``evaluation.personal`` makes them.
    """
    last, passes = task.plan.blocks[-1], settings.personal_epochs
    epochs = last.epochs or 0
    left = last.rounds * epochs - passes
    if left < 1:
        raise InputError(
            f"evaluation.strategies.personal_epochs: {passes} passes are all of the plan's last block "
            f"({last.rounds * epochs}); take fewer, so that the sites have a global model to begin with"
        )
    whole, rest = divmod(left, epochs)
    blocks = [replace(last, rounds=whole)] if whole else []
    blocks += [replace(last, rounds=1, epochs=rest)] if rest else []
    return replace(task, plan=RoundPlan((*task.plan.blocks[:-1], *blocks)))


def sequential(task: Task, settings: StrategySettings) -> Task:
    """All passes of stage I, then all of stage II."""
    lengths, epochs = _passes(task, "sequential")
    return replace(task, plan=_plan([(stage, lengths.get(stage, 0)) for stage in _TWO_STAGES], epochs))


def per_round(task: Task, settings: StrategySettings) -> Task:
    """Both stages at every site in every round; passes that one stage has more of come before (I) or after (II)."""
    lengths, epochs = _passes(task, "per-round")
    if task.tabular.radiomics is not None:
        raise InputError("--strategies per-round: radiomics features need a finished stage I; leave it out")
    if task.stages.transfer != "full":
        raise InputError(f"--strategies per-round: stages.transfer {task.stages.transfer!r} needs a stage I before II")
    first, second = lengths.get("segmentation", 0), lengths.get("survival", 0)
    both = min(first, second)
    parts: list[tuple[StageName | tuple[StageName, ...], int]] = [
        ("segmentation", first - both),
        (_TWO_STAGES, both),
        ("survival", second - both),
    ]
    return replace(task, plan=_plan(parts, epochs))


STRATEGIES: Mapping[str, Strategy] = {
    "fedavg": Strategy(fedavg, "every tensor averaged by training patients"),
    "fedprox": Strategy(fedprox, "FedAvg with a pull to the global model"),
    "fedadam": Strategy(fedadam, "FedAvg with an Adam step at the server"),
    "fedbn": Strategy(fedbn, "FedAvg with each site's own norm statistics"),
    "local-gates": Strategy(local_gates, "FedAvg with each site's own fusion gates"),
    PERSONAL: Strategy(personal, "the configured federation, then fine-tuned at each site"),
    "sequential": Strategy(sequential, "all rounds of stage I, then all of stage II"),
    "per-round": Strategy(per_round, "both stages at every site in every round"),
}
"""Every strategy by the name that ``--strategies`` knows it by."""


def _with_local(task: Task, name: str, group: str) -> Task:
    if not tensor_groups(task.model)[group]:
        raise InputError(
            f"--strategies {name}: a model with model.norm {task.model.norm!r} has no {group}; leave it out"
        )
    if task.select != "last":
        raise InputError(f"--strategies {name}: evaluation.select {task.select!r} needs whole models; leave it out")
    return replace(task, federation=replace(task.federation, groups={group: PluginSettings("local")}))


def _passes(task: Task, name: str) -> tuple[dict[StageName, int], int]:
    """Passes of each stage, and how many of them a round makes: the most that divides those of every block."""
    lengths = task.plan.stage_lengths()
    if "joint" in lengths:
        raise InputError(f"--strategies {name}: a joint plan has no two stages to put in order; leave it out")
    return lengths, math.gcd(*(block.epochs or 0 for block in task.plan.blocks))


def _plan(parts: Sequence[tuple[StageName | tuple[StageName, ...], int]], epochs: int) -> RoundPlan:
    """Blocks of ``epochs`` passes a round from (stages, passes); parts of no pass are left out."""
    blocks = [
        BlockSettings((stages,) if isinstance(stages, str) else stages, passes // epochs, epochs)
        for stages, passes in parts
        if passes
    ]
    return RoundPlan(tuple(blocks))
