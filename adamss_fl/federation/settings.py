"""Settings of a federation: the plan of rounds, quorum and deadline, and one aggregation rule per parameter group."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

StageName = Literal["segmentation", "survival"]


@dataclass(frozen=True)
class BlockSettings:
    """A block of equal rounds: in each, every site trains ``stages`` in order for ``epochs`` or ``steps`` each.

    Exactly one of ``epochs`` (passes over the site's training patients) and ``steps`` (optimiser steps) is given.
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

    min_sites : quorum; a round with fewer accepted replies is not aggregated and the run stops with the last good model.
    deadline_seconds : how long a round waits for replies; 0 waits for ever.
    attempts : how often a round is sent again when its quorum fails.
    aggregator : rule of every group that ``groups`` does not name.
    groups : per parameter group another aggregator by name, or ``local``: the group never leaves the site.
    """

    min_sites: int = 1
    deadline_seconds: float = 3600.0
    attempts: int = 1
    aggregator: PluginSettings = field(default_factory=lambda: PluginSettings("average"))
    groups: Mapping[str, PluginSettings] = field(default_factory=dict)
