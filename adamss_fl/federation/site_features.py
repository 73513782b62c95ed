"""A site's clinical and radiomics features: kept on its own disk, and told only as sums over training patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.federation.features import follow_up_counts
from adamss_fl.federation.messages import SiteFailure
from adamss_fl.federation.task import Task
from adamss_fl.imaging import Sample
from adamss_fl.model import AdaMSS
from adamss_fl.radiomics.clinical import ClinicalSums
from adamss_fl.radiomics.encoding import TabularEncoding
from adamss_fl.radiomics.features import RadiomicsExtraction
from adamss_fl.radiomics.moments import Moments
from adamss_fl.radiomics.selection import CrossProducts
from adamss_fl.survival.screening import cox_sums
from adamss_fl.training.radiomics_table import RadiomicsTable, radiomics_table


class SiteFeatures:
    """Features of a site's patients in one run.

    folder : private; ``table.npz`` holds the run's radiomics features, ``cache`` what one patient's masks gave.
    """

    def __init__(self, task: Task, folder: Path) -> None:
        self._task = task
        self._folder = folder

    @cached_property
    def _extraction(self) -> RadiomicsExtraction:
        settings = self._task.tabular.radiomics
        if settings is None:
            raise SiteFailure("unknown_query")
        return RadiomicsExtraction(settings, self._task.imaging, self._folder.parent / "radiomics-cache")

    def check(self) -> None:
        """Raise InputError where features that the task asks for cannot be extracted here."""
        if self._task.tabular.radiomics is not None:
            _ = self._extraction.names

    @cached_property
    def _table(self) -> RadiomicsTable:
        try:
            return RadiomicsTable.load(self._folder / "table.npz")
        except InputError as error:
            raise SiteFailure("no_radiomics") from error

    def extract(
        self,
        model: AdaMSS,
        samples: Sequence[Sample],
        tabular: Mapping[str, Any] | None,
        on_patient: Callable[[int, int], None] | None = None,
    ) -> dict[str, Any]:
        """Predict the masks of ``samples`` and keep their features; tells the names of the features.

        A patient whose features by this very model are kept already is not looked at again.
        """
        self.__dict__.pop("_table", None)
        prepared = self.attach(samples, tabular)
        try:
            known = RadiomicsTable.load(self._folder / "table.npz")
        except InputError:  # there is none yet
            known = None
        table = radiomics_table(model, prepared, self._task.runtime, self._extraction, known, on_patient)
        table.save(self._folder / "table.npz")
        return {"names": list(table.names), "patients": len(samples)}

    def attach(self, samples: Sequence[Sample], tabular: Mapping[str, Any] | None) -> tuple[Sample, ...]:
        """``samples`` with the vector of an encoding; unchanged where there is none.

        Raises SiteFailure ``no_radiomics`` where the encoding has selected features that were not extracted here.
        """
        if tabular is None:
            return tuple(samples)
        encoding = TabularEncoding.from_plain(tabular)
        features: list[Mapping[str, float] | None] = [None] * len(samples)
        if encoding.selected:
            table = self._table
            try:
                features = [dict(zip(table.names, row.tolist(), strict=True)) for row in table.rows(samples)]
            except KeyError as error:
                raise SiteFailure("no_radiomics") from error
        return tuple(
            replace(sample, tabular=encoding.encode(sample.clinical, found))
            for sample, found in zip(samples, features, strict=True)
        )

    def answer(self, query: Mapping[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
        """Sums over the training patients ``samples``; what each tells of them is said where it is made.

        ``clinical`` (ClinicalSums), ``follow_up`` (patients per time bin), ``radiomics_moments`` (Moments),
        ``radiomics_cox`` (CoxSums at ``beta``) and ``radiomics_products`` (CrossProducts of the features at
        ``places``), the last two of features standardised by ``mean`` and ``sd``.
        """
        name = query.get("query")
        if name == "clinical":
            patients = [sample.clinical for sample in samples]
            return {"sums": ClinicalSums.of(self._task.tabular.clinical, patients).plain()}
        times = [sample.time_days for sample in samples]
        if name == "follow_up":
            return {"counts": follow_up_counts(times, query["edges_days"])}
        if name == "radiomics_moments":
            return {"moments": Moments.of(self._rows(samples)).plain()}
        if name == "radiomics_cox":
            z = self._standardised(query, samples)
            events = [sample.event for sample in samples]
            return {"sums": cox_sums(z, times, events, query["edges_days"], query["beta"]).plain()}
        if name == "radiomics_products":
            return {"products": CrossProducts.of(self._standardised(query, samples)[:, query["places"]]).plain()}
        raise SiteFailure("unknown_query")

    def _rows(self, samples: Sequence[Sample]) -> NDArray[np.float64]:
        try:
            return self._table.rows(samples)
        except KeyError as error:
            raise SiteFailure("no_radiomics") from error

    def _standardised(self, query: Mapping[str, Any], samples: Sequence[Sample]) -> NDArray[np.float64]:
        """(N, F) by the given mean and sd, features that do not exist at the mean."""
        z = (self._rows(samples) - np.asarray(query["mean"])) / np.asarray(query["sd"])
        return np.where(np.isfinite(z), z, 0.0)
