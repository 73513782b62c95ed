"""Samples without files, for tests of training and federation: a bright ball whose size decides survival."""

from collections.abc import Sequence

import numpy as np

from adamss_fl.federation.plan import RoundPlan
from adamss_fl.federation.settings import FederationSettings, PlanSettings
from adamss_fl.federation.site_data import SiteData
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample
from adamss_fl.model.settings import ModelSettings
from adamss_fl.training.settings import RuntimeSettings, StageSettings, StagesSettings

ONE_THREAD_FP32 = RuntimeSettings(device="cpu", precision="fp32", channels_last=False, threads=1)


def make_samples(count: int, seed: int, site: str = "site", side: int = 16) -> tuple[Sample, ...]:
    """``count`` samples of side ``side``; every third one is censored."""
    rng = np.random.default_rng(seed)
    axis = np.arange(side)
    samples = []
    for index in range(count):
        radius = rng.uniform(2.0, side / 3)
        centre = rng.uniform(side * 0.35, side * 0.65, size=3)
        squared = sum((g - c) ** 2 for g, c in zip(np.meshgrid(axis, axis, axis, indexing="ij"), centre, strict=True))
        tumour = squared < radius**2
        image = rng.uniform(0.0, 0.3, size=(2, side, side, side)) + 0.5 * tumour
        mask = np.stack([tumour, np.zeros_like(tumour)]).astype(np.uint8)
        samples.append(
            Sample(
                patient_id=f"{site}-{index:03d}",
                site=site,
                image=image.astype(np.float32),
                mask=mask,
                has_mask=True,
                time_days=float(np.round(2000.0 / radius * rng.uniform(0.7, 1.3))),
                event=int(index % 3 != 2),
            )
        )
    return tuple(samples)


def make_data(site: str, train: int = 6, seed: int = 0, side: int = 16, test: int = 4, validation: int = 0) -> SiteData:
    """A site's samples, split."""
    samples = make_samples(train + test + validation, seed, site, side)
    return SiteData(samples[:train], samples[train : train + validation], samples[train + validation :])


def make_task(
    plan: Sequence[int] = (2, 2),
    preset: str = "sequential",
    federation: FederationSettings | None = None,
    norm: str = "batch",
    dropout: float = 0.5,
    epochs: int | None = 1,
    steps: int | None = None,
    validate_every: int = 0,
    **stage: object,
) -> Task:
    """A task small enough for a test: width 1, four bins, batches of three."""
    settings = {"learning_rate": 1e-3, "batch_size": 3, **stage}
    blocks = PlanSettings(preset, plan[0], plan[1], epochs, steps).resolved()  # type: ignore[arg-type]
    return Task(
        name="test",
        plan=RoundPlan(blocks),
        seed=3,
        model=ModelSettings(width=1, bins=4, norm=norm, norm_groups=1, dropout=dropout),  # type: ignore[arg-type]
        stages=StagesSettings(StageSettings(**settings), StageSettings(**settings)),  # type: ignore[arg-type]
        federation=federation or FederationSettings(),
        runtime=ONE_THREAD_FP32,
        validate_every=validate_every,
    )
