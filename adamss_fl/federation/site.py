"""One hospital: a cohort, a machine and a private state folder, and the verbs a server may ask of it.

A site never knows how it was called: ``LocalSites`` and the Flower client both hand it an :class:`Instruction`. What it
answers is made of sums and means over whole splits of patients; nothing about one patient is in a :class:`Reply`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from adamss_fl import __version__
from adamss_fl.errors import InputError
from adamss_fl.federation.cohort.queries import COHORT_QUERIES, answer_cohort
from adamss_fl.federation.inputs import input_sums
from adamss_fl.federation.messages import Instruction, Reply, SiteFailure, Weights
from adamss_fl.federation.outcome.outcomes import outcomes_of
from adamss_fl.federation.outcome.queries import OUTCOME_QUERIES, answer_kept
from adamss_fl.federation.site_applied import by_patient, losses
from adamss_fl.federation.site_data import SiteCounts, SiteData, event_counts, masks_problem
from adamss_fl.federation.site_features import SiteFeatures
from adamss_fl.federation.site_machine import machine_figure, work_of
from adamss_fl.federation.site_state import SiteState
from adamss_fl.federation.task import Task, augmentations_of
from adamss_fl.federation.versions import may_train_together
from adamss_fl.federation.wire import pack_change, unpack
from adamss_fl.model import (
    AdaMSS,
    architecture_hash,
    keep_freed_memory,
    load_weights,
    prepare,
    tensor_groups,
    to_weights,
)
from adamss_fl.survival import TimeGrid, concordance_counts
from adamss_fl.training import RuntimeSettings, StageWork, infer, train_stage
from adamss_fl.training.machine import settled
from adamss_fl.training.machine_errors import machine_errors
from adamss_fl.training.seeds import derive_seed
from adamss_fl.training.stage import HEADS_OF, drawn_in
from adamss_fl.training.tally import NonFiniteLoss
from adamss_fl.training.tensors import device_of

Progress = Callable[[str, int, int], None]
"""Called with (what is being done, done, total)."""


class Site:
    """A hospital in a run.

    name : the site's name in the run; load : gives its patients, called once, when they are first needed.
    state_dir : private folder (optimiser state, local tensors, ``risks.csv``); nothing in it is ever sent.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], SiteData],
        task: Task,
        state_dir: Path,
        progress: Progress | None = None,
    ) -> None:
        self.name = name
        self.task = task
        self.state_dir = state_dir
        self._load = load
        self._progress = progress
        self._model: AdaMSS | None = None
        self._augmentations = augmentations_of(task)

    @cached_property
    def data(self) -> SiteData:
        """The site's patients."""
        return self._load()

    def network(self, tabular: Mapping[str, Any] | None) -> AdaMSS:
        """The network for a tabular encoding, on the site's device; its weights are whatever was loaded last."""
        settings = self.task.network(tabular)
        if self._model is None or self._model.settings != settings:
            runtime = self.task.runtime
            keep_freed_memory()
            self._model = prepare(AdaMSS(settings), device_of(runtime), runtime.channels_last)
        return self._model

    @lru_cache(maxsize=2)  # noqa: B019 - a site lives as long as its process
    def _features(self, run: str) -> SiteFeatures:
        return SiteFeatures(replace(self.task, runtime=self._runtime(run)), self.state_dir / run / "features")

    def _runtime(self, run: str) -> RuntimeSettings:
        """How this machine is used in a run, with the precision that ``auto`` was when the run began here."""
        return settled(self.task.runtime, self.state_dir / run)

    @cached_property
    def local_names(self) -> frozenset[str]:
        """State-dict names of the tensors that stay at the site."""
        groups = tensor_groups(self.task.model)
        rules = self.task.federation.groups
        return frozenset(name for group, rule in rules.items() if rule.name == "local" for name in groups[group])

    def handle(self, instruction: Instruction) -> Reply:
        """Do what one instruction says; nothing is kept of work that was broken off.

        Raises :class:`SiteFailure` with a code where it cannot or will not, and MachineError where the machine cannot.
        """
        torch.set_num_threads(self.task.runtime.threads)
        with machine_errors(work_of(instruction, self.task, self.name)):
            return self._answer(instruction)

    def _answer(self, instruction: Instruction) -> Reply:
        weights: Weights | None = None
        if instruction.kind == "describe":
            if not may_train_together(instruction.settings.get("version")):
                raise SiteFailure("version_mismatch")
            figures = {**self.describe(), **machine_figure(self._runtime(instruction.run), self.name)}
        elif instruction.kind == "statistics":
            figures = self.statistics(instruction)
        elif instruction.kind == "evaluate":
            figures = self.evaluate(instruction)
        elif instruction.kind == "train":
            figures, weights = self.train(instruction)
        else:
            raise SiteFailure("unknown_instruction")
        head = (instruction.kind, self.name, instruction.run, instruction.round, instruction.attempt)
        return Reply(*head, figures=figures, weights=weights)

    def describe(self) -> dict[str, Any]:
        """Counts of patients and events per split, sums over training images, and what this site would train with.

        Raises InputError where the site lacks what the task needs.
        """
        SiteFeatures(self.task, self.state_dir).check()
        splits = asdict(SiteCounts.of(self.data))
        inputs = input_sums(self.data.train, self.task.imaging)
        return {"version": __version__, "architecture": architecture_hash(self.task.model), **splits, "inputs": inputs}

    def statistics(self, instruction: Instruction) -> dict[str, Any]:
        """Answer a query; what each answer holds is in the query's own function.

        On the training patients: ``event_times`` (see :func:`event_counts`), the ``COHORT_QUERIES``, or a query of
        :class:`SiteFeatures`; ``radiomics`` comes with the weights of the network that predicts the masks. On the test
        patients, by the model that they were last evaluated with: the ``OUTCOME_QUERIES``.
        """
        if instruction.settings.get("query") in (*OUTCOME_QUERIES, *COHORT_QUERIES):
            return self._tables(instruction)
        query, features = instruction.settings, self._features(instruction.run)
        if query.get("query") == "event_times":
            return event_counts(self.data.train, query["edges_days"])
        if query.get("query") == "radiomics":
            self._set_weights(instruction, SiteState(self.state_dir, instruction.run).before(instruction.round + 1))
            everyone = (*self.data.train, *self.data.validation, *self.data.test)
            tabular = query.get("tabular")
            network = self.network(tabular)
            return features.extract(network, everyone, tabular, self._on_step("radiomics"))
        return features.answer(query, self.data.train)

    def train(self, instruction: Instruction) -> tuple[dict[str, Any], Weights]:
        """Train the stages of one round from the global weights; returns figures and the tensors the site shares.

        Where ``wire`` is ``bf16``, weights come and changes go as ``federation.wire`` says.
        settings : ``stages``, ``epochs`` or ``steps``, ``progress`` {stage: [from, to]}, ``edges_days``, ``tabular``,
        ``block_ends`` (rounds whose local tensors are needed again at the end of the run).
        Figures: ``patients``, those whom any of the stages draws from (in stage I only patients with a mask), which
        weigh the weights; ``steps``, losses, ``gate_opening``; where batches should be balanced, ``balanced``: false
        says that they were uniform, since all training patients are of one class.
        Raises SiteFailure ``too_few_masks`` before any training where stage I has not enough patients for a batch.
        """
        settings = instruction.settings
        if problem := masks_problem(self.data.train, settings["stages"], self.task.stages):
            raise SiteFailure("too_few_masks") from InputError(problem)
        packed = settings.get("wire") == "bf16"
        if packed:
            instruction = replace(instruction, weights=unpack(instruction.weights or {}))
        state = SiteState(self.state_dir, instruction.run)
        private = state.before(instruction.round)
        self._set_weights(instruction, private)
        grid = TimeGrid(tuple(settings["edges_days"]))
        model = self.network(settings.get("tabular"))
        samples = self._features(instruction.run).attach(self.data.train, settings.get("tabular"))
        kept: Weights = {name: array for name, array in private.items() if name.startswith("optimizer/")}
        runtime = self._runtime(instruction.run)
        drawn = max(len(drawn_in(stage, samples)) for stage in settings["stages"])
        figures: dict[str, Any] = {"patients": drawn, "steps": 0, **machine_figure(runtime)}
        for position, stage in enumerate(settings["stages"]):
            model.survival_head.restart_mean(stage == "survival" and position > 0)
            prefix = f"optimizer/{stage}/"
            work = StageWork(
                stage=stage,
                seed=derive_seed(self.task.seed, self.name, instruction.round, stage),
                progress=tuple(settings["progress"][stage]),
                epochs=settings.get("epochs"),
                steps=settings.get("steps"),
            )
            try:
                result = train_stage(
                    model,
                    samples,
                    work,
                    getattr(self.task.stages, stage),
                    runtime,
                    grid=grid,
                    augmentations=self._augmentations,
                    optimizer={name.removeprefix(prefix): kept[name] for name in kept if name.startswith(prefix)},
                    on_step=self._on_step(f"round {instruction.round}, {stage}"),
                )
            except NonFiniteLoss as error:
                raise SiteFailure("non_finite_loss") from error
            kept.update({prefix + name: array for name, array in result.optimizer.items()})
            figures["steps"] += result.steps
            figures["gate_opening"] = list(result.gate_opening)
            figures.update({f"loss.{name}": value for name, value in result.losses.items()})
            if "survival" in HEADS_OF[stage] and getattr(self.task.stages, stage).balanced:
                figures["balanced"] = result.balanced
        trained = to_weights(model)
        kept.update({f"local/{name}": trained[name] for name in self.local_names})
        state.save(instruction.round, kept, settings.get("block_ends", ()))
        shared = {name: array for name, array in trained.items() if name not in self.local_names}
        return figures, pack_change(shared, instruction.weights or {}) if packed else shared

    def evaluate(self, instruction: Instruction) -> dict[str, Any]:
        """Sums over one split of patients under the given weights, without training.

        settings : ``split`` (validation or test), ``edges_days``, ``tabular``.
        Of the test split outcomes and predictions are kept here, for later queries.
        Figures: ``patients``, ``events``, ``concordance`` (counts of pairs inside this site), ``overlap`` (2, 3) voxels
        (intersection, predicted, reference; tumour, nodes), mean losses, ``gate_opening``, and of the test split
        ``by_patient``, the ``MaskSums`` of both maps. Risks of the test patients
        are written to the site's own ``risks.csv``.
        """
        split = instruction.settings["split"]
        samples = {"validation": self.data.validation, "test": self.data.test, "train": self.data.train}[split]
        if not samples:
            return {"patients": 0}
        self._set_weights(instruction, SiteState(self.state_dir, instruction.run).before(instruction.round + 1))
        grid = TimeGrid(tuple(instruction.settings["edges_days"]))
        samples = self._features(instruction.run).attach(samples, instruction.settings.get("tabular"))
        model = self.network(instruction.settings.get("tabular"))
        spacing = self.task.imaging.spacing_mm if split == "test" else None
        report = self._on_step(f"evaluate {split}")
        runtime = self._runtime(instruction.run)
        seen = infer(model, samples, runtime, grid=grid, spacing_mm=spacing, on_batch=report)
        days = grid.restricted_mean_days(torch.from_numpy(seen.survival_logits)).numpy()
        if split == "test":
            outcomes = outcomes_of(instruction.round, samples, grid, seen.survival_logits)
            outcomes.keep(self.state_dir / instruction.run, self.state_dir / "risks.csv")
        times, events = [sample.time_days for sample in samples], [sample.event for sample in samples]
        masked = np.array([sample.has_mask for sample in samples])
        return {
            "patients": len(samples),
            "events": int(sum(events)),
            "concordance": asdict(concordance_counts(times, events, -days)),
            "overlap": seen.overlap[masked].sum(axis=0).tolist(),
            "masked": int(masked.sum()),
            "gate_opening": list(seen.gate_opening),
            **by_patient(seen, masked),
            **losses(seen),
        }

    def personal_weights(self, weights: Weights, run: str, round: int | None = None) -> Weights:
        """The global weights of ``round`` (None: the newest) with this site's local groups as of it laid over them."""
        private = SiteState(self.state_dir, run).before(1 << 30 if round is None else round + 1)
        return {**weights, **{name: private.get(f"local/{name}", weights[name]) for name in self.local_names}}

    def _set_weights(self, instruction: Instruction, private: Weights) -> None:
        given = dict(instruction.weights or {})
        for name in self.local_names:
            if f"local/{name}" in private:
                given[name] = private[f"local/{name}"]
        try:
            load_weights(self.network(instruction.settings.get("tabular")), given)
        except InputError as error:
            raise SiteFailure("wrong_architecture") from error

    def _on_step(self, what: str) -> Callable[[int, int], None] | None:
        progress = self._progress
        if progress is None:
            return None
        return lambda done, total: progress(f"{self.name}: {what}", done, total)

    def _tables(self, instruction: Instruction) -> dict[str, Any]:
        """The answer to a query whose tables a minimum cell count holds for."""
        least = max(int(instruction.settings.get("least", 1)), self.task.federation.min_cell)
        query = {**instruction.settings, "round": instruction.round, "least": least}
        try:
            if query["query"] in COHORT_QUERIES:
                return answer_cohort(query, self.data.train, self.task, self.name)
            folder = self.state_dir / instruction.run
            return answer_kept(query, folder) if self.data.test else {"patients": 0}
        except InputError as error:
            raise SiteFailure("bad_input") from error
