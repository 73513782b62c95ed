"""What every site and the server of a run agree on."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from adamss_fl.cohort.settings import SplitSettings
from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.selection import SelectionRule
from adamss_fl.federation.settings import FederationSettings, PluginSettings
from adamss_fl.imaging import fused
from adamss_fl.imaging.settings import ImagingSettings
from adamss_fl.model.settings import ModelSettings
from adamss_fl.plugins import create
from adamss_fl.radiomics.encoding import TabularEncoding
from adamss_fl.radiomics.settings import TabularSettings
from adamss_fl.training.settings import RuntimeSettings, StagesSettings
from adamss_fl.training.stage import Augmentation


@dataclass(frozen=True)
class Task:
    """One training task: the method's settings, without any site's data.

    seed : of initial weights, order of patients, augmentation and dropout.
    validate_every : validation figures every so many rounds; 0 never.
    select : which round's model the run gives, see ``federation.selection``.
    """

    name: str
    plan: RoundPlan
    seed: int = 0
    split: SplitSettings = field(default_factory=SplitSettings)
    imaging: ImagingSettings = field(default_factory=ImagingSettings)
    augmentation: tuple[PluginSettings, ...] = ()
    model: ModelSettings = field(default_factory=ModelSettings)
    tabular: TabularSettings = field(default_factory=TabularSettings)
    stages: StagesSettings = field(default_factory=StagesSettings)
    federation: FederationSettings = field(default_factory=FederationSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    validate_every: int = 1
    select: SelectionRule = "last"

    def network(self, tabular: Mapping[str, Any] | None) -> ModelSettings:
        """Settings of the network whose survival head takes the vector of an encoding (a plain mapping, or None)."""
        if tabular is None:
            return self.model
        return replace(self.model, tabular=TabularEncoding.from_plain(tabular).length)


def augmentations_of(task: Task) -> list[Augmentation]:
    """The augmentations that a task names, an affine map and the crop after it in one.

    Raises InputError for a name or a setting that there is not.
    """
    return fused(
        create("augmentation", plugin.name, plugin.settings, f"augmentation.{plugin.name}")
        for plugin in task.augmentation
    )


def fingerprint(task: Task, sites: Sequence[str]) -> str:
    """Hash of all that decides a run's result: the task and the sites' names.

    ``runtime.device`` and ``runtime.checkpointing`` are left out. They change no more than rounding, and a run that
    stands still after a GPU failed, or its memory was too small, can go on with others.
    """
    runtime = RuntimeSettings()
    settings = asdict(
        replace(task, runtime=replace(task.runtime, device=runtime.device, checkpointing=runtime.checkpointing))
    )
    if task.select == "last":  # the hash of a run that was begun before there was a choice stays as it was
        del settings["select"]
    plain = json.dumps({"task": settings, "sites": sorted(sites)}, sort_keys=True, default=str)
    return hashlib.sha256(plain.encode()).hexdigest()
