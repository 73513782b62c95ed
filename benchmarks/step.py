"""One training step of AdaMSS as training runs it against eager fp32 in contiguous layout, measured in turn in one run.

    python3 benchmarks/step.py                       # the published network at 64^3, on the machine's GPU or CPU
    python3 benchmarks/step.py --size 112 --device cuda
    python3 benchmarks/step.py --width 2 --size 32 --batch 6 --threads 1 --json

Needs only torch and numpy. A step is forward, loss, backward and Adam. The precision is what `runtime.precision: auto`
takes on this machine, or `--precision`. Each pair runs both variants, in alternating
order, and gives one ratio, so that a machine busy with other work disturbs both alike; on a busy CPU the ratio of
processor time is the steadier of the two.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adamss_fl.errors import InputError
from adamss_fl.model import AdaMSS, ModelSettings, Resolved, autocast, prepare, resolve_precision
from adamss_fl.model.hardware import cpu_bf16_flags
from adamss_fl.model.layout import keep_freed_memory
from adamss_fl.segmentation import dice_focal_loss
from adamss_fl.survival import discrete_likelihood

Stage = Literal["segmentation", "survival"]
BINS = 10


@dataclass(frozen=True)
class Variant:
    """A way to run the same step."""

    name: str
    precision: Resolved
    channels_last: bool
    fused_adam: bool
    checkpointing: bool = False


BASELINE = Variant("eager fp32", "fp32", channels_last=False, fused_adam=False)


def variants(arguments: argparse.Namespace) -> tuple[Variant, Variant]:
    """Baseline, and the variant that training takes on this machine unless the arguments say otherwise."""
    precision = resolve_precision(arguments.precision, arguments.device)
    name = f"{precision} channels_last_3d"
    chosen = Variant(name, precision, channels_last=True, fused_adam=True, checkpointing=arguments.checkpointing)
    return BASELINE, chosen


@dataclass(frozen=True)
class Batch:
    """Balls of uptake in noise, with their masks and made-up outcomes."""

    pet: Tensor
    ct: Tensor
    masks: Tensor
    survived: Tensor
    had_event: Tensor


def make_batch(size: int, batch: int, device: str) -> Batch:
    """PET, CT (B,1,S,S,S) with a hot ball for each of two masks (B,2,S,S,S), and survival targets (B,K)."""
    generator = torch.Generator().manual_seed(0)
    axis = torch.arange(size) / size
    centres = 0.25 + 0.5 * torch.rand(batch, 2, 3, generator=generator)
    squared = [(axis - centres[:, :, i, None]) ** 2 for i in range(3)]
    distance = squared[0][..., :, None, None] + squared[1][..., None, :, None] + squared[2][..., None, None, :]
    masks = (distance < 0.02).float()
    pet, ct = (
        share * masks.amax(1, keepdim=True) + 0.3 * torch.rand(batch, 1, size, size, size, generator=generator)
        for share in (0.7, 0.2)
    )
    event_bin = torch.arange(batch)[:, None] % BINS
    survived, had_event = (torch.arange(BINS) < event_bin).float(), (torch.arange(BINS) == event_bin).float()
    return Batch(*(tensor.to(device) for tensor in (pet, ct, masks, survived, had_event)))


class Step:
    """A model, its optimiser and one batch, stepped in one variant."""

    def __init__(self, variant: Variant, width: int, batch: Batch, stage: Stage) -> None:
        self.variant, self.batch, self.stage = variant, batch, stage
        self.device = batch.pet.device.type
        torch.manual_seed(0)
        model = AdaMSS(ModelSettings(width=width, bins=BINS, dropout=0.0))
        self.model = prepare(model, self.device, variant.channels_last)
        self.model.checkpointing = variant.checkpointing
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, fused=variant.fused_adam or None)

    def gradient(self) -> Tensor:
        """Forward, loss and backward; returns the loss."""
        self.optimizer.zero_grad(set_to_none=True)
        batch = self.batch
        with autocast(self.device, self.variant.precision):
            output = self.model(batch.pet, batch.ct, heads=(self.stage,))
        if self.stage == "segmentation":
            loss = dice_focal_loss(output.segmentation, batch.masks)
        else:
            loss = discrete_likelihood(output.survival, batch.survived, batch.had_event)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def __call__(self) -> None:
        self.gradient()
        self.optimizer.step()


def timed(step: Step) -> tuple[float, float]:
    """(wall, processor) seconds of one step; on a GPU both are the time between two events on the stream."""
    if step.device == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        start.record()
        step()
        end.record()
        torch.cuda.synchronize()
        seconds = start.elapsed_time(end) / 1e3
        return seconds, seconds
    wall, processor = time.perf_counter(), time.process_time()
    step()
    return time.perf_counter() - wall, time.process_time() - processor


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest, to four digits."""
    return {
        name: float(f"{pick(values):.4g}") for name, pick in (("median", statistics.median), ("min", min), ("max", max))
    }


def compare_times(steps: Sequence[Step], pairs: int) -> dict[str, Any]:
    """Seconds per step of both variants and their ratio per pair, after two warm-up steps each."""
    for step in steps:
        step()
        step()
    seconds: list[list[tuple[float, float]]] = [[], []]
    for pair in range(pairs):
        for i in (0, 1) if pair % 2 == 0 else (1, 0):
            seconds[i].append(timed(steps[i]))
    result: dict[str, Any] = {}
    for clock, name in enumerate(("wall", "processor")):
        baseline, chosen = ([one[clock] for one in variant] for variant in seconds)
        result[name] = {
            "baseline_s": spread(baseline),
            "chosen_s": spread(chosen),
            "ratio": spread([a / b for a, b in zip(baseline, chosen, strict=True)]),
        }
    return result


def compare_gradients(both: Sequence[Variant], width: int, batch: Batch, stage: Stage) -> dict[str, Any]:
    """Whole gradient of the chosen variant against the baseline's, same weights and batch."""
    flat: list[Tensor] = []
    losses: list[float] = []
    for variant in both:
        step = Step(variant, width, batch, stage)
        losses.append(float(step.gradient()))
        gradients = (parameter.grad for parameter in step.model.parameters())
        flat.append(torch.cat([gradient.float().cpu().flatten() for gradient in gradients if gradient is not None]))
    exact, low = flat
    return {
        "finite": bool(torch.isfinite(low).all()),
        "cosine": float(torch.dot(exact, low) / (exact.norm() * low.norm())),
        "relative_error": float((low - exact).norm() / exact.norm()),
        "norm_ratio": float(low.norm() / exact.norm()),
        "loss_difference": abs(losses[1] - losses[0]),
    }


def peak_mib(step: Step) -> float | None:
    """Greatest memory of one step in MiB: the GPU's allocations, or this process's resident size (Linux)."""
    if step.device == "cuda":
        step()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() / 2**20
    step()
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def peak_in_own_process(index: int, arguments: argparse.Namespace) -> float | None:
    """:func:`peak_mib` of one variant, in a process of its own so that variants do not add up."""
    command = [sys.executable, __file__, "--peak-of", str(index), "--device", arguments.device]
    for name in ("size", "batch", "width", "threads", "stage", "precision"):
        command += [f"--{name}", str(getattr(arguments, name))]
    command += ["--checkpointing"] if arguments.checkpointing else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    value: float | None = json.loads(done.stdout)
    return value


def describe(device: str) -> str:
    """The hardware in words, as far as it matters here."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    avx512, amx = cpu_bf16_flags()
    bf16 = "AMX bf16" if amx else "AVX512 bf16" if avx512 else "no native bf16"
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}, {bf16}, {torch.get_num_threads()} threads"


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one configuration."""
    batch = make_batch(arguments.size, arguments.batch, arguments.device)
    both = variants(arguments)
    steps = [Step(variant, arguments.width, batch, arguments.stage) for variant in both]
    result: dict[str, Any] = {
        "device": describe(arguments.device),
        "torch": torch.__version__,
        "size": arguments.size,
        "batch": arguments.batch,
        "width": arguments.width,
        "stage": arguments.stage,
        "precision": both[1].precision,
        "checkpointing": arguments.checkpointing,
        "pairs": arguments.steps,
        "parameters": sum(p.numel() for p in steps[0].model.parameters()),
        "time": compare_times(steps, arguments.steps),
    }
    del steps
    result["gradient"] = compare_gradients(both, arguments.width, batch, arguments.stage)
    peaks = [None, None] if arguments.no_memory else [peak_in_own_process(i, arguments) for i in (0, 1)]
    result["peak_mib"] = dict(zip(("baseline", "chosen"), peaks, strict=True))
    return result


def as_table(result: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"AdaMSS width {result['width']} ({result['parameters']:,} parameters), {result['stage']} step, batch "
        f"{result['batch']} of {result['size']}^3, {result['pairs']} pairs",
        f"{result['device']}, torch {result['torch']}{', checkpointing' if result['checkpointing'] else ''}",
        "",
        f"{'':24}{'median':>10}{'min':>10}{'max':>10}",
    ]
    for clock, label in (("wall", "wall"), ("processor", "CPU time")):
        if clock == "processor" and not result["device"].startswith("CPU"):
            continue
        rows = (
            ("baseline_s", f"{BASELINE.name} s"),
            ("chosen_s", f"{result['precision']} chosen s"),
            ("ratio", "times faster"),
        )
        for key, name in rows:
            values = result["time"][clock][key]
            row = "".join(f"{values[k]:>10.3f}" for k in ("median", "min", "max"))
            lines.append(f"{label + ', ' + name:24}{row}")
    gradient, peaks = result["gradient"], result["peak_mib"]
    lines += [
        "",
        f"gradient against fp32: {'finite' if gradient['finite'] else 'NOT FINITE'}, cosine {gradient['cosine']:.4f}, "
        f"relative error {gradient['relative_error']:.3f}, norm ratio {gradient['norm_ratio']:.3f}",
    ]
    if peaks["baseline"] and peaks["chosen"]:
        lines.append(f"peak memory of a process: {peaks['baseline']:.0f} MiB -> {peaks['chosen']:.0f} MiB")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Command line, with ``auto`` resolved."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="side of the cubic input, divisible by 16")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5, help="pairs of measured steps")
    parser.add_argument("--width", type=int, default=8, help="channels of the first PET and CT level (8: as published)")
    parser.add_argument("--stage", choices=("segmentation", "survival"), default="segmentation")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (0: as torch chooses)")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp16", "fp32"), default="auto")
    parser.add_argument("--checkpointing", action="store_true", help="the chosen variant recomputes activations")
    parser.add_argument("--no-memory", action="store_true", help="skip the two processes that measure peak memory")
    parser.add_argument("--json", action="store_true", help="one JSON object in place of the table")
    parser.add_argument("--peak-of", type=int, choices=(0, 1), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit code 1 where the gradient is not finite."""
    arguments = parse(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch finds no GPU here; take cpu")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    # IEEE fp32 is the baseline on a GPU too, not TF32.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    if arguments.device == "cpu":
        keep_freed_memory()
    if arguments.peak_of is not None:
        batch = make_batch(arguments.size, arguments.batch, arguments.device)
        print(
            json.dumps(peak_mib(Step(variants(arguments)[arguments.peak_of], arguments.width, batch, arguments.stage)))
        )
        return 0
    result = measure(arguments)
    print(json.dumps(result) if arguments.json else as_table(result))
    return 0 if result["gradient"]["finite"] else 1


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
