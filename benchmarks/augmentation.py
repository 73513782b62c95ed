"""The published affine map and crop: only the box sampled, against the whole volume sampled and then cut, in one run.

    python3 benchmarks/augmentation.py                         # 160^3 to 112^3, batch 2, one thread
    python3 benchmarks/augmentation.py --side 64 --crop 32 --device cuda

Needs torch and numpy only. Both draw the same numbers, so that their results are compared as well. The exit code is 1
where they differ by more than rounding.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from adamss_fl.imaging import Augmentation, RandomAffine, RandomCrop, fused


def run(chain: list[Augmentation], image: Tensor, mask: Tensor, seed: int) -> tuple[float, Tensor, Tensor]:
    """Seconds, images and masks of one pass through ``chain``."""
    draws = torch.Generator().manual_seed(seed)
    _wait(image)
    start = time.perf_counter()
    for augmentation in chain:
        image, mask = augmentation(image, mask, draws)
    _wait(image)
    return time.perf_counter() - start, image, mask


def _wait(image: Tensor) -> None:
    if image.is_cuda:
        torch.cuda.synchronize()


def main() -> int:
    """Print median seconds of both, their ratio, and the largest differences."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=160)
    parser.add_argument("--crop", type=int, default=112)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    generator = torch.Generator().manual_seed(0)
    shape = (arguments.batch, 2, *[arguments.side] * 3)
    image = torch.rand(shape, generator=generator)
    mask = (torch.nn.functional.avg_pool3d(image, 5, stride=1, padding=2) > 0.5).float()
    image, mask = image.to(arguments.device), mask.to(arguments.device)
    chain: list[Augmentation] = [RandomAffine(), RandomCrop((arguments.crop,) * 3)]
    whole_s: list[float] = []
    box_s: list[float] = []
    image_difference = mask_difference = 0.0
    for seed in range(arguments.pairs + 1):
        whole, box = run(chain, image, mask, seed), run(fused(chain), image, mask, seed)
        image_difference = max(image_difference, float((whole[1] - box[1]).abs().max()))
        mask_difference = max(mask_difference, float((whole[2] != box[2]).double().mean()))
        if seed:  # the first pair warms up
            whole_s.append(whole[0])
            box_s.append(box[0])
    ratio = statistics.median(a / b for a, b in zip(whole_s, box_s, strict=True))
    print(
        f"{arguments.side}^3 to {arguments.crop}^3, batch {arguments.batch}, {arguments.device}: "
        f"{statistics.median(whole_s):.3f} s then {statistics.median(box_s):.3f} s, {ratio:.2f} times faster; "
        f"images equal to {image_difference:.1e}, masks but for {mask_difference:.1e} of the voxels"
    )
    return 0 if image_difference < 1e-4 and mask_difference < 1e-4 else 1


if __name__ == "__main__":
    raise SystemExit(main())
