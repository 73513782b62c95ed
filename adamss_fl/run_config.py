"""The configuration of a run as an object: every room's settings together."""

from dataclasses import dataclass, field

from adamss_fl.cohort.settings import CohortSettings, SplitSettings
from adamss_fl.evaluation.settings import EvaluationSettings
from adamss_fl.federation.settings import FederationSettings, PlanSettings, PluginSettings
from adamss_fl.imaging.settings import ImagingSettings
from adamss_fl.model.settings import ModelSettings
from adamss_fl.radiomics.settings import TabularSettings
from adamss_fl.training.settings import RuntimeSettings, StagesSettings


@dataclass(frozen=True)
class RunConfig:
    """All that decides a run.

    name : the run's title in reports.
    sites : the hospitals; their paths are absolute once loaded.
    seed : of weights, batches, augmentation and bootstrap. ``split.seed`` is separate, so that runs that differ in
        ``seed`` have the same test patients.
    augmentation : plugins applied in order to every training batch.
    tabular : clinical columns and radiomics features that join the images before the survival head.
    trackers : plugins that receive every round's figures.
    cache : folder of prepared images; None keeps them inside the run's folder.
    """

    name: str
    sites: tuple[CohortSettings, ...]
    seed: int = 0
    split: SplitSettings = field(default_factory=SplitSettings)
    imaging: ImagingSettings = field(default_factory=ImagingSettings)
    augmentation: tuple[PluginSettings, ...] = (PluginSettings("affine"),)
    model: ModelSettings = field(default_factory=ModelSettings)
    tabular: TabularSettings = field(default_factory=TabularSettings)
    stages: StagesSettings = field(default_factory=StagesSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)
    federation: FederationSettings = field(default_factory=FederationSettings)
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    trackers: tuple[PluginSettings, ...] = ()
    cache: str | None = None
