"""What PyTorch raises where a machine cannot do the work: one line, what to change, and a code."""

import gc
import weakref

import numpy as np
import pytest
import torch

from adamss_fl.errors import InputError, MachineError
from adamss_fl.training.machine_errors import machine_error, machine_errors

CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:128] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
GPU_MEMORY = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.79 GiB\nmore\nlines"
SIDES = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported"


def accelerator_error(text: str) -> RuntimeError:
    """What PyTorch 2.8 and later raise for a failed CUDA call; older ones raise a RuntimeError."""
    kind = getattr(torch, "AcceleratorError", RuntimeError)
    return kind(text)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("raised", "code", "words"),
    [
        (torch.OutOfMemoryError(GPU_MEMORY), "out_of_memory", "2.50 GiB more were asked for"),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might"), "out_of_memory", "GPU"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"), "out_of_memory", "GPU"),
        (RuntimeError(CPU_MEMORY), "out_of_memory", "this machine's memory is too small (4000000000000 bytes more"),
        (MemoryError(), "out_of_memory", "this machine's memory"),
        (accelerator_error("CUDA error: no kernel image is available for execution on the device"), "no_device", "old"),
        (RuntimeError("No CUDA GPUs are available"), "no_device", "No CUDA GPUs"),
        (AssertionError("Torch not compiled with CUDA enabled"), "no_device", "runtime.device"),
        (RuntimeError("Found no NVIDIA driver on your system. Please check"), "no_device", "driver"),
        (accelerator_error(SIDES), "device_failed", "start again"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), "device_failed", "illegal memory"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "device_failed", "CUDNN_STATUS"),
    ],
)
def test_each_is_one_line_of_bad_input_with_a_code(raised: BaseException, code: str, words: str) -> None:
    found = machine_error(raised, "site a, train of round 2")
    assert isinstance(found, MachineError)
    assert isinstance(found, InputError)
    assert found.code == code
    assert str(found).startswith("site a, train of round 2: ")
    assert words in str(found)
    assert "\n" not in str(found)


def test_short_memory_says_what_to_change() -> None:
    text = str(machine_error(torch.OutOfMemoryError(GPU_MEMORY)))
    for key in ("batch_size", "imaging.grid", "model.width", "runtime.checkpointing"):
        assert key in text


@pytest.mark.parametrize(
    "defect",
    [
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        AssertionError("a plan is never empty"),
        ValueError("CUDA error"),
        KeyError("out of memory"),
    ],
)
def test_a_defect_stays_a_defect(defect: Exception) -> None:
    assert machine_error(defect) is None
    with pytest.raises(type(defect)), machine_errors():
        raise defect


def test_numpy_and_torch_really_raise_what_is_recognised_as_short_memory() -> None:
    with pytest.raises(MachineError) as caught, machine_errors():
        np.empty((2**46,), dtype=np.uint8)
    assert caught.value.code == "out_of_memory"
    with pytest.raises(MachineError) as caught, machine_errors():
        torch.empty(2**46, dtype=torch.uint8)
    assert caught.value.code == "out_of_memory"


def test_the_memory_of_the_work_is_free_when_the_error_is_reported() -> None:
    """Else the activations of the broken step would live as long as the report of it."""

    class Activations:
        pass

    held: list[weakref.ref[Activations]] = []

    def step() -> None:
        large = Activations()
        held.append(weakref.ref(large))
        raise torch.OutOfMemoryError(GPU_MEMORY)

    with pytest.raises(MachineError), machine_errors():
        step()
    gc.collect()
    assert held[0]() is None
