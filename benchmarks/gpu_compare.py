"""Training and evaluation on the CPU and on a device: the same losses, gradients and outputs, within stated bounds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gpu_report import Report, relative

LOSS = 2e-4
"""Largest relative difference of a loss in fp32: sums over voxels differ in their order."""
GRADIENT = 2e-2
"""Largest relative error (Euclidean) of the whole gradient in fp32."""
TEN_STEPS = 2e-2
"""Largest relative difference of the mean loss of ten steps in fp32; rounding adds up over them."""
OUTPUT = 1e-3
"""Largest difference of a probability, and of a survival logit relative to the largest one, in fp32."""
AUGMENTED = 10.0
"""Times that where images are interpolated: voxels at the rim of a mask fall to either side of its cut."""
COSINE, NORM = 0.90, 0.10
"""Least cosine with the fp32 gradient of one in 16 bits, and largest relative difference of their norms."""


@dataclass(frozen=True)
class Case:
    """One way that training can be set."""

    name: str
    stage: str = "joint"
    model: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    runtime: Mapping[str, Any] = field(default_factory=dict)
    augmented: bool = False


CASES = (
    Case("stage I", "segmentation"),
    Case("stage II", "survival", settings={"l2": 0.01, "balanced": True}),
    Case("joint", "joint"),
    Case("augmented", "segmentation", augmented=True),
    Case("plain descent", "segmentation", settings={"optimizer": "sgd", "learning_rate": 1e-3}),
    Case("weight decay and clipping", "joint", settings={"weight_decay": 0.1, "clip_norm": 1.0}),
    Case("FedProx", "joint", settings={"proximal_mu": 0.1}),
    Case("frozen statistics", "survival", settings={"norm_statistics": "frozen"}),
    Case("whitened", "survival", model={"pooled": "whitened"}),
    Case("standardised", "survival", model={"pooled": "standardised"}),
    Case("group norm", "joint", model={"norm": "group"}),
    Case("instance norm", "segmentation", model={"norm": "instance"}),
    Case("fixed gates", "joint", model={"gates": "half"}),
    Case("tabular", "survival", model={"tabular": 3}),
    Case("checkpointing", "joint", runtime={"checkpointing": True}),
)


def make_samples(count: int, side: int, tabular: int = 0, site: str = "a") -> list[Any]:
    """Balls of uptake in noise; their size decides survival, every third patient is censored."""
    from adamss_fl.imaging import Sample

    rng = np.random.default_rng([count, side, sum(map(ord, site))])
    axis = np.arange(side)
    samples = []
    for index in range(count):
        radius = rng.uniform(2.5, side / 3)
        centre = rng.uniform(side * 0.35, side * 0.65, size=3)
        z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
        ball = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < radius**2
        image = rng.uniform(0.0, 0.3, size=(2, side, side, side)) + 0.5 * ball
        samples.append(
            Sample(
                patient_id=f"{site}-{index}",
                site=site,
                image=image.astype(np.float32),
                mask=np.stack([ball, np.roll(ball, 2, axis=0)]).astype(np.uint8),
                has_mask=True,
                time_days=float(2000.0 / radius),
                event=int(index % 3 != 2),
                tabular=rng.normal(size=tabular).astype(np.float32) if tabular else None,
            )
        )
    return samples


def network(case: Case, width: int) -> Any:
    """The network of a case from the same weights each time, without dropout, whose draws differ between devices."""
    from adamss_fl.model import AdaMSS, ModelSettings

    torch.manual_seed(0)
    return AdaMSS(ModelSettings(**{"width": width, "bins": 4, "dropout": 0.0, **case.model}))


def runtime_of(case: Case, device: str, precision: str = "fp32", channels_last: bool = True) -> Any:
    """Runtime settings of one side of a comparison."""
    from adamss_fl.training import RuntimeSettings

    threads = torch.get_num_threads()
    given = {"device": device, "precision": precision, "channels_last": channels_last, "threads": threads}
    return RuntimeSettings(**{**given, **case.runtime})


def train(case: Case, runtime: Any, width: int, side: int, steps: int) -> tuple[float, dict[str, torch.Tensor], Any]:
    """Mean loss of some steps, the last gradient and the model, all on the CPU."""
    from adamss_fl.imaging.augmentation import RandomAffine, RandomFlip
    from adamss_fl.model import prepare
    from adamss_fl.survival import TimeGrid
    from adamss_fl.training import StageSettings, StageWork, train_stage
    from adamss_fl.training.tensors import device_of

    model = prepare(network(case, width), device_of(runtime), runtime.channels_last)
    settings = StageSettings(**{"batch_size": 2, "learning_rate": 1e-4, "schedule": "constant", **case.settings})
    work = StageWork(case.stage, seed=1, epochs=None, steps=steps)  # type: ignore[arg-type]
    samples = make_samples(6, side, int(case.model.get("tabular", 0)))
    more = (RandomAffine(), RandomFlip()) if case.augmented else ()
    grid = TimeGrid((0.0, 200.0, 400.0, 800.0, 1600.0))
    result = train_stage(model, samples, work, settings, runtime, grid=grid, augmentations=more)
    gradients = {n: p.grad.detach().float().cpu() for n, p in model.named_parameters() if p.grad is not None}
    for array in result.optimizer.values():
        if not isinstance(array, np.ndarray):
            raise TypeError("the optimiser's state did not come back to the CPU")
    return sum(result.losses.values()), gradients, model


def flat(gradients: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """All gradients as one vector, in the order of their names."""
    return torch.cat([gradients[name].flatten() for name in sorted(gradients)])


def compare_devices(report: Report, device: str, quick: bool) -> None:
    """Loss and gradient of a step, and the losses of ten steps, on the CPU and on the device in fp32."""
    width, side = (1, 32) if quick else (2, 32)
    chosen = [case for case in CASES if not quick or case.name in ("joint", "augmented", "whitened", "FedProx")]
    for case in chosen:
        exact, found = runtime_of(case, "cpu", channels_last=False), runtime_of(case, device)
        loss, gradient, _ = train(case, exact, width, side, 1)
        own_loss, own_gradient, _ = train(case, found, width, side, 1)
        a, b = flat(gradient), flat(own_gradient)
        ten, own_ten = train(case, exact, width, side, 10)[0], train(case, found, width, side, 10)[0]
        for what, apart, allowed in (
            ("loss", relative(own_loss, loss), LOSS),
            ("gradient", float((a - b).norm() / a.norm()), GRADIENT),
            ("ten steps", relative(own_ten, ten), TEN_STEPS),
        ):
            least = allowed * (AUGMENTED if case.augmented else 1.0)
            report.check(f"{case.name}, {what}", apart <= least, f"{apart:.1e} of {least:.0e}")
    apply_model(report, device, width, side)


def apply_model(report: Report, device: str, width: int, side: int) -> None:
    """Evaluation of patients, and of a volume window by window, on the CPU and on the device."""
    from adamss_fl.model import prepare
    from adamss_fl.training import infer, sliding_window

    case = Case("applied")
    exact, found = runtime_of(case, "cpu", channels_last=False), runtime_of(case, device)
    samples = make_samples(5, side)
    models = [prepare(network(case, width), one.device, one.channels_last).eval() for one in (exact, found)]
    logits = [infer(model, samples, one).survival_logits for model, one in zip(models, (exact, found), strict=True)]
    # Relative: without training, norms in evaluation mode do not normalise, and features grow from level to level.
    apart = float(np.abs(logits[0] - logits[1]).max() / max(1.0, np.abs(logits[0]).max()))
    report.check("evaluation, survival logits", apart < OUTPUT, f"{apart:.1e} of {OUTPUT:.0e}")
    image = make_samples(1, side + 8)[0].image
    window = (side, side, side)
    maps = [sliding_window(m, image, window, one) for m, one in zip(models, (exact, found), strict=True)]
    apart = float(np.abs(maps[0] - maps[1]).max())
    report.check("sliding window, probabilities", apart < OUTPUT, f"{apart:.1e} of {OUTPUT:.0e}")


def compare_precisions(report: Report, device: str, quick: bool) -> None:
    """A gradient in the precision that ``auto`` comes to, against fp32 on the same device; else in bf16."""
    from adamss_fl.model import resolve_precision

    resolved = resolve_precision("auto", device)
    print(f"  auto is {resolved} here", flush=True)
    precision = "bf16" if resolved == "fp32" else resolved
    width, side = (1, 32) if quick else (4, 64)
    for stage in ("segmentation", "survival"):
        case = Case(stage, stage, settings={"clip_norm": 1e9})  # the gradients of fp16 are then unscaled
        loss, exact, _ = train(case, runtime_of(case, device), width, side, 1)
        low_loss, low, _ = train(case, runtime_of(case, device, precision), width, side, 1)
        a, b = flat(exact), flat(low)
        cosine, ratio = float(a @ b / (a.norm() * b.norm())), float(b.norm() / a.norm())
        report.check(f"{precision} {stage}, loss", relative(low_loss, loss) < 0.02, f"{relative(low_loss, loss):.1e}")
        report.check(
            f"{precision} {stage}, gradient", cosine > COSINE and abs(ratio - 1) < NORM, f"cosine {cosine:.4f}"
        )
