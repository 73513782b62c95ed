"""A run that begins with another run's stage I, where both would train the very same one.

Variants of stage II share everything up to its first round, so that stage I is trained once and each variant goes on
from it: the result is bit for bit that of a run which trains its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path

from adamss_fl.errors import InputError
from adamss_fl.federation.checkpoint import Checkpoint, Checkpoints
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.settings import BlockSettings
from adamss_fl.federation.task import Task, fingerprint
from adamss_fl.model.settings import ModelSettings
from adamss_fl.radiomics import TabularSettings
from adamss_fl.training.settings import StagesSettings

HEAD = "survival_head."
"""Prefix of the tensors that stage I does not train, and whose shapes depend on the tabular vector."""


def stage_one_fingerprint(task: Task, sites: Sequence[str]) -> str | None:
    """Hash of all that decides the model after stage I: the task without what stage II alone reads, and the sites.

    None unless the plan trains segmentation alone in its first blocks and survival alone in all others.
    """
    blocks = _stage_one_blocks(task.plan)
    if not blocks:
        return None
    head, stages = ModelSettings(), StagesSettings()
    trunk = replace(task.model, bins=head.bins, tabular=head.tabular, dropout=head.dropout, pooled=head.pooled)
    part = replace(
        task,
        name="",
        plan=RoundPlan(blocks),
        model=trunk,
        tabular=TabularSettings(),
        stages=replace(stages, segmentation=task.stages.segmentation),
        validate_every=0,
        select="last",
    )
    return fingerprint(part, sites)


def inherit_stage_one(source: Path, task: Task, sites: Sequence[str], start: Checkpoint) -> Checkpoint:
    """``start``, round 0 of a new run, as it stands when stage I is over: with the model of ``source`` after its own.

    source : folder of a run, finished or not, whose stage I is over. The survival head stays that of ``start``.

    Raises InputError where ``source`` holds no such run, would have trained another stage I or on other patients, or
    where parts of the model stay at the sites, which have them in the other run alone.
    """
    asked = stage_one_fingerprint(task, sites)
    if asked is None:
        raise InputError("plan: stage I of another run needs a plan of segmentation rounds and then survival rounds")
    if any(rule.name == "local" for rule in task.federation.groups.values()):
        raise InputError(
            f"federation.groups: groups that stay at the sites are not in {source}; train stage I in this run"
        )
    last = task.plan.last_round_of("segmentation")
    found = Checkpoints(source / "checkpoints").load(last)
    for key, mine, what in (
        ("stage_one", asked, "with other settings or sites"),
        ("trained_on", start.state["trained_on"], "on other patients"),
    ):
        if found.state.get(key) != mine:
            raise InputError(f"{source}: its stage I was trained {what}; give a run that shares them, or train it anew")
    weights = {n: value if n.startswith(HEAD) else found.weights[n] for n, value in start.weights.items()}
    state = {**start.state, "stages": ["segmentation"], "stage_one_of": found.state["run"]}
    return Checkpoint(last, weights, found.aggregator, state)


def _stage_one_blocks(plan: RoundPlan) -> tuple[BlockSettings, ...]:
    """The blocks of stage I; none where it is not over before stage II begins, or where there is no stage II."""
    first = tuple(takewhile(lambda block: block.stages == ("segmentation",), plan.blocks))
    rest = plan.blocks[len(first) :]
    return first if rest and all(block.stages == ("survival",) for block in rest) else ()
