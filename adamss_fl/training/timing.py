"""How long a training step and a patient's evaluation take on this machine, measured on real patients."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from adamss_fl.imaging import Sample
from adamss_fl.model import AdaMSS, ModelSettings, prepare
from adamss_fl.survival import TimeGrid
from adamss_fl.training.inference import infer
from adamss_fl.training.machine_errors import machine_errors
from adamss_fl.training.settings import RuntimeSettings, StagesSettings
from adamss_fl.training.stage import Augmentation, StageName, StageWork, train_stage
from adamss_fl.training.tensors import device_of

_LONG_SECONDS = 5.0
"""A first step that takes longer is taken for all: its warm-up is then a small part."""

_STEPS = 3


@dataclass(frozen=True)
class Speed:
    """Seconds of one optimiser step by stage, and of one patient's evaluation by one model."""

    step: Mapping[StageName, float]
    patient: float


def measure_speed(
    model: ModelSettings,
    stages: StagesSettings,
    runtime: RuntimeSettings,
    names: Sequence[StageName],
    samples: Sequence[Sample],
    augmentations: Sequence[Augmentation] = (),
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Time a few steps of each stage in ``names``, and one evaluation, with a network that is thrown away.

    samples : patients of a site; at least a batch of each stage. PyTorch's global random state is left as it was.
    Raises MachineError where the machine cannot do a step.
    """
    torch.set_num_threads(runtime.threads)
    grid = TimeGrid(tuple(np.linspace(0.0, 3650.0, model.bins + 1)))
    # A mask that is missing takes as long as one that is there, and stage I would not draw its patient.
    bare = [replace(sample, tabular=None, has_mask=True) for sample in samples]
    seconds: dict[StageName, float] = {}
    with torch.random.fork_rng(devices=[]), machine_errors("a step to measure the time"):
        device = device_of(runtime)
        network = prepare(AdaMSS(model), device, runtime.channels_last)
        for stage in names:
            stamps = [clock()]

            def note(done: int, total: int, stamps: list[float] = stamps) -> None:
                _wait_for(device)  # a GPU only queues its work; elsewhere no step waits for it
                stamps.append(clock())

            def train(steps: int, stage: StageName = stage, note: Callable[[int, int], None] = note) -> None:
                work = StageWork(stage, seed=0, epochs=None, steps=steps)
                settings = getattr(stages, stage)
                train_stage(
                    network, bare, work, settings, runtime, grid=grid, augmentations=augmentations, on_step=note
                )

            train(1)
            first = stamps[1] - stamps[0]
            if first < _LONG_SECONDS:
                del stamps[:]
                train(1 + _STEPS)
                seconds[stage] = (stamps[-1] - stamps[0]) / _STEPS
            else:
                seconds[stage] = first
        start = clock()
        infer(network, bare[:1], runtime)
    return Speed(seconds, clock() - start)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
