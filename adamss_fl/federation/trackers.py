"""Trackers: a run's events in the form another tool reads. ``events.jsonl`` stays the truth."""

import csv
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adamss_fl.errors import InputError

_HEAD = ("time", "kind", "round", "site")


def figures_of(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Yield every number of an event as (name, value), nested ones under names joined by dots.

    ``{"loss": {"dice": 0.5}, "gates": [0.4, 0.6]}`` gives ``loss.dice``, ``gates.0``, ``gates.1``. Texts, flags and
    nulls are no figures.
    """
    for key, value in record.items():
        if key not in _HEAD:
            yield from _flat(key, value)


@dataclass
class CsvTracker:
    """Every figure of a run in one CSV table in the run's folder: kind, round, site, figure, value.

    file : name of the table. A resumed run goes on in the same table.
    """

    file: str = "metrics.csv"
    _path: Path | None = field(default=None, init=False, repr=False)

    def start(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        """Open the table in ``run_dir``; a new one gets its header."""
        self._path = run_dir / self.file
        if not self._path.exists():
            run_dir.mkdir(parents=True, exist_ok=True)
            self._append([("kind", "round", "site", "figure", "value")])

    def log(self, record: Mapping[str, Any]) -> None:
        """Append one row per figure of ``record``; ``site`` is empty where the figure is the federation's."""
        head = (record.get("kind", ""), record.get("round", ""), record.get("site") or "")
        self._append([(*head, name, repr(value)) for name, value in figures_of(record)])

    def finish(self) -> None:
        """Nothing is left open between two events."""

    def _append(self, rows: list[tuple[Any, ...]]) -> None:
        if self._path is None:
            raise RuntimeError("start() comes before log()")
        with self._path.open("a", newline="", encoding="utf-8") as table:
            csv.writer(table).writerows(rows)


@dataclass
class MlflowTracker:
    """A run in MLflow: settings as parameters, figures as metrics over rounds (needs the extra `mlflow`).

    experiment : name of MLflow's experiment.
    uri : MLflow's tracking URI; where empty, an sqlite file ``mlflow.db`` in the run's folder.
    """

    experiment: str = "adamss-fl"
    uri: str = ""
    _client: Any = field(default=None, init=False, repr=False)
    _run: str = field(default="", init=False, repr=False)

    def start(self, run_dir: Path, config: Mapping[str, Any]) -> None:
        """Start MLflow's run, or go on with the one this folder started; raises InputError where MLflow is missing."""
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # a hospital's machine calls nobody
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise InputError("tracker mlflow: MLflow is not installed; pip install 'adamss-fl[mlflow]'") from None
        run_dir.mkdir(parents=True, exist_ok=True)
        self._client = MlflowClient(tracking_uri=self.uri or f"sqlite:///{(run_dir / 'mlflow.db').resolve()}")
        known = self._client.get_experiment_by_name(self.experiment)
        artifacts = (run_dir / "mlflow-artifacts").resolve().as_uri()
        number = known.experiment_id if known else self._client.create_experiment(self.experiment, artifacts)
        folder = str(run_dir.resolve())
        earlier = [run for run in self._client.search_runs([number]) if run.data.tags.get("run_dir") == folder]
        if earlier:
            self._run = earlier[0].info.run_id
            return
        run = self._client.create_run(number, run_name=run_dir.resolve().name, tags={"run_dir": folder})
        self._run = run.info.run_id
        for name, value in _leaves("", config):
            self._client.log_param(self._run, _safe(name), value[:500])

    def log(self, record: Mapping[str, Any]) -> None:
        """Log each figure of ``record`` as a metric, its round as the step; a site's figures under ``<site>/``."""
        site = f"{record['site']}/" if record.get("site") else ""
        step, now = int(record.get("round") or 0), int(time.time() * 1000)
        for name, value in figures_of(record):
            metric = _safe(f"{site}{record.get('kind', '')}/{name}")
            self._client.log_metric(self._run, metric, float(value), timestamp=now, step=step)

    def finish(self) -> None:
        """Mark MLflow's run as finished."""
        self._client.set_terminated(self._run)


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, bool):
        return
    if isinstance(value, (int, float)):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    elif isinstance(value, (list, tuple)):
        for index, inner in enumerate(value):
            yield from _flat(f"{name}.{index}", inner)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield a configuration's settings as (dotted name, text)."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), inner)
    else:
        yield name, value if isinstance(value, str) else json.dumps(value, default=str)


def _safe(name: str) -> str:
    """Return ``name`` with only the characters that MLflow takes in a name."""
    return "".join(letter if letter.isalnum() or letter in "_-. /" else "_" for letter in name)[:250]
