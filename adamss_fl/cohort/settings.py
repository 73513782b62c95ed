"""Settings of the cohort room."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SplitSettings:
    """How a site divides its patients, stratified by event and deterministic from ``seed``.

    test, validation : fraction of the site's patients with an endpoint, in [0, 1); what is left is for training.
    seed : int, so that every arm of a comparison sees the same test patients.
    """

    test: float = 0.2
    validation: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse fractions that leave nothing to train on."""
        for name, value in (("test", self.test), ("validation", self.validation)):
            if not 0 <= value < 1:
                raise ValueError(f"{name} is {value}; it must be a fraction in [0, 1)")
        if self.test + self.validation >= 1:
            raise ValueError(f"test + validation is {self.test + self.validation}; it must be below 1")


@dataclass(frozen=True)
class CohortSettings:
    """One hospital's patients on disk.

    name : the site's name, unique in a run.
    path : folder of the cohort; relative paths are relative to the configuration file.
    layout : name of a registered ``cohort_layout``.
    """

    name: str
    path: str
    layout: str = "hecktor2022"
