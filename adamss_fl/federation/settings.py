"""Settings of a federation: the plan of rounds, quorum and deadline, and one aggregation rule per parameter group."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

StageName = Literal["segmentation", "survival", "joint"]
"""Stage I, stage II, and ``joint``: both losses at once, in place of the two stages."""


@dataclass(frozen=True)
class BlockSettings:
    """A block of equal rounds: in each, every site trains ``stages`` in order for ``epochs`` or ``steps`` each.

    Exactly one of ``epochs`` (passes over the site's training patients, rounded up to full batches) and ``steps``
    (optimiser steps) is given.
    """

    stages: tuple[StageName, ...]
    rounds: int
    epochs: int | None = None
    steps: int | None = None


@dataclass(frozen=True)
class PluginSettings:
    """A plugin by its registered name, with its own settings."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class FederationSettings:
    """Who must answer, by when, and how answers become one model.

    min_sites : quorum; with fewer accepted replies a round is not aggregated, and ``then`` says what becomes of it.
    deadline_seconds : how long a round waits for replies; 0 waits for ever.
    attempts : how often a round is sent again when its quorum fails.
    then : where the quorum fails in the last attempt too: ``pause`` keeps the last good model, and a server of a
        federation takes the run up again after a while; ``stop`` ends it; ``continue`` aggregates what there is, of one
        site or more (else it is ``pause``).
    max_change : a reply whose model has exploded is refused: the root mean square of its change is more than so many
        times that of the model before (or than 0.1, where that is more); 0 accepts any change.
    min_cell : the least number of patients in a cell of the tables of patients that sites tell, see
        ``federation.outcome.queries`` and ``cohort.queries``; a site's policy may raise it.
    wire : ``bf16`` halves what travels in training, see ``federation.wire``; ``fp32`` sends every bit.
    aggregator : rule of every group that ``groups`` does not name.
    groups : per parameter group another aggregator by name, or ``local``: the group never leaves the site.
    """

    min_sites: int = 1
    deadline_seconds: float = 3600.0
    attempts: int = 1
    then: Literal["continue", "pause", "stop"] = "pause"
    max_change: float = 10.0
    min_cell: int = 1
    wire: Literal["fp32", "bf16"] = "fp32"
    aggregator: PluginSettings = field(default_factory=lambda: PluginSettings("average"))
    groups: Mapping[str, PluginSettings] = field(default_factory=dict)


@dataclass(frozen=True)
class PlanSettings:
    """The rounds of a run, by a preset or block by block.

    preset : ``sequential`` (all rounds of stage I, then all of stage II), ``per-round`` (both stages at every site in
        every round), or None where ``blocks`` says it all.
    segmentation_rounds, survival_rounds : rounds of each stage under a preset; equal under ``per-round``.
    epochs, steps : length of each stage in a round under a preset; exactly one of them is given.
    blocks : the blocks themselves; only without a preset.
    """

    preset: Literal["sequential", "per-round"] | None = "sequential"
    segmentation_rounds: int = 10
    survival_rounds: int = 10
    epochs: int | None = 1
    steps: int | None = None
    blocks: tuple[BlockSettings, ...] = ()

    def resolved(self) -> tuple[BlockSettings, ...]:
        """The blocks that the preset stands for, or ``blocks``; a stage with 0 rounds is left out."""
        if self.preset is None:
            return self.blocks
        if self.preset == "per-round":
            return (BlockSettings(("segmentation", "survival"), self.survival_rounds, self.epochs, self.steps),)
        stages: tuple[tuple[StageName, int], ...] = (
            ("segmentation", self.segmentation_rounds),
            ("survival", self.survival_rounds),
        )
        return tuple(BlockSettings((stage,), rounds, self.epochs, self.steps) for stage, rounds in stages if rounds)
