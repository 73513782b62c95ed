"""What PyTorch raises when a machine cannot do the work, as one line and a code."""

import gc
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from adamss_fl.errors import MachineError

_NO_KERNEL = ("no kernel image is available",)
_NO_DEVICE = (
    "No CUDA GPUs are available",
    "Found no NVIDIA driver",
    "not compiled with CUDA",
    "invalid device ordinal",
    "no CUDA-capable device",
    "driver version is insufficient",
    "NVIDIA driver on your system is too old",
)
_MEMORY = (
    "can't allocate memory",  # c10's allocator of CPU memory
    "not enough memory",  # the same on Windows
    "CUDA out of memory",
    "HIP out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "cannot allocate memory",
)
_FAILED = ("CUDA error", "CUDA driver error", "cuDNN error", "CUDNN_STATUS", "CUBLAS_STATUS", "HIP error", "NCCL error")

LESS_MEMORY = (
    "set runtime.checkpointing to true, and the same command goes on after the last finished round; or begin another "
    "run with a smaller stages.*.batch_size, imaging.grid or model.width"
)


def machine_error(error: BaseException, where: str = "", needed: str = LESS_MEMORY) -> MachineError | None:
    """``error`` as a MachineError, None where it is anything else.

    where : what ran, for example ``round 3, survival, 2 patients of 112x112x112``. needed : what to change where
    memory was short.
    """
    if isinstance(error, MachineError):
        return error
    if not isinstance(error, (RuntimeError, MemoryError, AssertionError)):
        return None
    text, at = str(error), f"{where}: " if where else ""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or _says(text, _MEMORY):
        asked = re.search(r"tried to allocate ([0-9.]+ ?[A-Za-z]+)", text, re.IGNORECASE)
        more = f" ({asked[1]} more were asked for)" if asked else ""
        return MachineError(f"{at}{_whose_memory(error)} is too small{more}; {needed}", "out_of_memory")
    if _says(text, _NO_KERNEL):
        return MachineError(
            f"{at}the GPU is too old for this build of PyTorch ({torch.__version__}), which has no kernels for it; "
            "install a build that has, or set runtime.device to cpu",
            "no_device",
        )
    if _says(text, _NO_DEVICE):
        return MachineError(
            f"{at}PyTorch finds no usable GPU ({_first_line(text)}); look at its driver, or set runtime.device to cpu",
            "no_device",
        )
    accelerator_error = getattr(torch, "AcceleratorError", None)  # of PyTorch 2.8 and later
    if _says(text, _FAILED) or (accelerator_error is not None and isinstance(error, accelerator_error)):
        return MachineError(
            f"{at}the GPU failed ({_first_line(text)}); nothing is lost, finished rounds are kept: start again, and "
            "where it fails again restart the machine or look at the GPU's own log (dmesg, nvidia-smi)",
            "device_failed",
        )
    return None


@contextmanager
def machine_errors(where: str = "", needed: str = LESS_MEMORY) -> Iterator[None]:
    """Raise what the machine cannot do as a MachineError, the memory of the broken-off work being free by then."""
    found: MachineError | None = None
    try:
        yield
    except (RuntimeError, MemoryError, AssertionError) as error:
        found = machine_error(error, where, needed)
        if found is None:
            raise
        traceback.clear_frames(error.__traceback__)
    if found is not None:  # outside the handler, which would keep the frames, and all activations in them, alive
        gc.collect()
        _free_cached_memory()
        raise found


def _free_cached_memory() -> None:
    if _uses_cuda():
        try:
            torch.cuda.empty_cache()
        except RuntimeError:  # a GPU that has failed refuses this, too; its process ends anyway
            return


def _uses_cuda() -> bool:
    return torch.cuda.is_available() and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _says(text: str, words: tuple[str, ...]) -> bool:
    return any(each.lower() in text.lower() for each in words)


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:200] if text.strip() else "no reason given"


def _whose_memory(error: BaseException) -> str:
    text = str(error)
    if isinstance(error, torch.OutOfMemoryError) or _says(text, ("cuda", "hip", "cublas", "cudnn")):
        if _uses_cuda():
            try:
                _, total = torch.cuda.mem_get_info()
            except RuntimeError:
                return "the GPU's memory"
            return f"the GPU's memory ({total / 2**30:.1f} GiB in all)"
        return "the GPU's memory"
    return "this machine's memory"
