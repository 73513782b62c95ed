"""The machine's device and precision: kept as a run began, in words of a closed list, warned of where emulated."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adamss_fl.errors import InputError, MachineError
from adamss_fl.model import hardware
from adamss_fl.model.hardware import MEASURED_VARIABLE, measured_precision
from adamss_fl.training import RuntimeSettings, machine
from adamss_fl.training.machine import (
    Machine,
    emulation_warning,
    introduction,
    machine_of,
    read_machine,
    settle_for_processes,
    settled,
)
from tests.synthetic import ONE_THREAD_FP32

AUTO = RuntimeSettings(device="cpu", threads=1)


@pytest.fixture(autouse=True)
def _nothing_measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv(MEASURED_VARIABLE, "")
    measured_precision.cache_clear()
    yield
    measured_precision.cache_clear()


def measure(monkeypatch: pytest.MonkeyPatch, gain: float) -> None:
    """A CPU with AVX512-BF16 alone, whose next measurement gives ``gain``."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    monkeypatch.setattr(hardware, "gain_over_fp32", lambda precision, device: gain)
    measured_precision.cache_clear()


def test_the_precision_that_a_run_began_with_is_kept_whatever_a_later_measurement_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(monkeypatch, 2.0)
    assert settled(AUTO, tmp_path / "run") == replace(AUTO, precision="bf16")
    measure(monkeypatch, 1.0)
    assert settled(AUTO, tmp_path / "run").precision == "bf16"
    assert settled(AUTO, tmp_path / "another").precision == "fp32"


def test_what_flags_decide_leaves_nothing_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True}, raising=False)
    assert settled(AUTO, tmp_path).precision == "fp32"
    assert settled(replace(AUTO, precision="bf16"), tmp_path).precision == "bf16"
    assert list(tmp_path.iterdir()) == []


def test_a_commands_measurement_holds_for_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure(monkeypatch, 2.0)
    settle_for_processes(AUTO, tmp_path)
    measure(monkeypatch, 1.0)
    assert settled(AUTO, tmp_path / "arm of another process").precision == "bf16"


def test_a_machine_survives_the_wire() -> None:
    for device, precision in itertools.product(("cpu", "cuda", "other"), ("bf16", "fp16", "fp32")):
        one = Machine(device, precision)  # type: ignore[arg-type]
        assert read_machine(one.plain()) == one
    assert str(Machine("cuda", "bf16")) == "GPU, bf16"


@pytest.mark.parametrize(
    "hostile",
    [None, "cpu", {}, {"device": "cpu", "precision": "FP32"}, {"device": 1, "precision": "fp32"}, {"device": ["cpu"]}],
)
def test_any_other_figure_is_no_machine(hostile: Any) -> None:
    assert read_machine(hostile) is None


def test_this_machine_introduces_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_of(ONE_THREAD_FP32) == Machine("cpu", "fp32")
    assert introduction(ONE_THREAD_FP32, ONE_THREAD_FP32) == "device cpu, precision fp32"
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    assert introduction(AUTO, replace(AUTO, precision="bf16")) == "device cpu, precision bf16 (auto)"


def test_a_gpu_that_is_not_there_is_one_line_of_bad_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError) as caught:
        machine_of(replace(AUTO, device="cuda"))
    assert isinstance(caught.value, MachineError)
    assert caught.value.code == "no_device"
    assert "runtime.device" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_emulated_bf16_is_warned_of_with_its_measured_price(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {}, raising=False)
    monkeypatch.setattr(machine, "gain_over_fp32", lambda precision, device: 1 / 3.1)
    assert emulation_warning(replace(AUTO, precision="bf16")) == (
        "bf16 is emulated on this CPU: a convolution takes 3.1 times as long as in fp32; set runtime.precision to auto"
    )
    assert emulation_warning(AUTO) is None
    assert emulation_warning(ONE_THREAD_FP32) is None
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    assert emulation_warning(replace(AUTO, precision="bf16")) is None
