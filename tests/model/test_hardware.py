"""``precision: auto`` takes what the hardware has, by its flags; it measures only where flags do not decide."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch

from adamss_fl.model import hardware
from adamss_fl.model.hardware import (
    LEAST_GAIN,
    MEASURED_VARIABLE,
    gain_over_fp32,
    is_emulated,
    is_measured,
    measured_precision,
    resolve_precision,
)
from adamss_fl.model.precision import autocast


@pytest.fixture(autouse=True)
def _nothing_measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(MEASURED_VARIABLE, raising=False)
    measured_precision.cache_clear()
    yield
    measured_precision.cache_clear()


def give_cpu(monkeypatch: pytest.MonkeyPatch, *flags: str, gain: float | None = None) -> None:
    """A CPU of these flags, on which bfloat16 is ``gain`` times as fast; measuring one without a gain is an error."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(flags, True), raising=False)

    monkeypatch.setattr(hardware, "gain_over_fp32", (lambda precision, device: gain) if gain else _must_not_measure)


def _must_not_measure(precision: str, device: str) -> float:
    raise AssertionError("measured where the flags decide")


def give_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], hip: str | None = None) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.version, "hip", hip)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ((9, 0), "bf16"),  # H100, H200
        ((8, 0), "bf16"),  # A100
        ((7, 5), "fp16"),  # T4
        ((7, 0), "fp16"),  # V100
        ((6, 1), "fp32"),  # GTX 1080: fp16 at a 64th of fp32's rate
        ((3, 7), "fp32"),
    ],
)
def test_a_gpu_is_judged_by_its_compute_capability(
    capability: tuple[int, int], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_gpu(monkeypatch, capability)
    assert resolve_precision("auto", "cuda") == expected


def test_an_amd_gpu_computes_in_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    give_gpu(monkeypatch, (9, 0), hip="6.2")
    assert resolve_precision("auto", "cuda:1") == "bf16"


def test_a_cpu_with_amx_takes_bf16_and_one_without_bf16_takes_fp32_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    give_cpu(monkeypatch, "avx512_f", "avx512_bf16", "amx_bf16")
    assert resolve_precision("auto", "cpu") == "bf16"
    give_cpu(monkeypatch, "avx512_f", "avx512_vnni")  # oneDNN calls bf16 supported on it, and emulates
    assert resolve_precision("auto", "cpu") == "fp32"


@pytest.mark.parametrize(("gain", "expected"), [(LEAST_GAIN, "bf16"), (LEAST_GAIN - 0.01, "fp32")])
def test_a_cpu_with_avx512_bf16_alone_is_measured(gain: float, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    give_cpu(monkeypatch, "avx512_bf16", gain=gain)
    assert is_measured("auto", "cpu")
    assert resolve_precision("auto", "cpu") == expected


def test_a_measurement_holds_for_the_process_and_for_those_that_inherit_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    give_cpu(monkeypatch, "avx512_bf16", gain=2.0)
    assert resolve_precision("auto", "cpu") == "bf16"
    give_cpu(monkeypatch, "avx512_bf16", gain=1.0)
    assert resolve_precision("auto", "cpu") == "bf16"
    measured_precision.cache_clear()
    monkeypatch.setenv(MEASURED_VARIABLE, "fp32")
    give_cpu(monkeypatch, "avx512_bf16", gain=2.0)
    assert resolve_precision("auto", "cpu") == "fp32"


def test_another_accelerator_computes_in_fp32_unless_its_module_says_that_bf16_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resolve_precision("auto", "xpu") == "fp32" or torch.xpu.is_available()
    monkeypatch.setattr(torch, "mtia", SimpleNamespace(is_bf16_supported=lambda: True))
    assert resolve_precision("auto", "mtia") == "bf16"
    monkeypatch.setattr(torch, "mtia", SimpleNamespace(is_bf16_supported=lambda: False))
    assert resolve_precision("auto", "mtia") == "fp32"


@pytest.mark.parametrize("asked", ["bf16", "fp16", "fp32"])
def test_what_is_asked_for_is_what_runs(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    give_cpu(monkeypatch)
    assert resolve_precision(asked, "cpu") == asked  # type: ignore[arg-type]


def test_emulation_is_seen_by_flags_and_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    give_cpu(monkeypatch, "avx512_vnni")
    assert is_emulated("bf16", "cpu")
    assert is_emulated("fp16", "cpu")
    assert not is_emulated("fp32", "cpu")
    assert not is_emulated("auto", "cpu")
    give_cpu(monkeypatch, "avx512_bf16", "avx512_fp16", gain=1.0)
    assert not is_emulated("bf16", "cpu")
    assert not is_emulated("fp16", "cpu")
    give_gpu(monkeypatch, (7, 5))
    assert is_emulated("bf16", "cuda")
    assert not is_emulated("fp16", "cuda")
    give_gpu(monkeypatch, (6, 0))
    assert is_emulated("fp16", "cuda")


def test_the_measurement_draws_no_random_number_and_leaves_no_mode_behind() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        gain = gain_over_fp32.__wrapped__("bf16", "cpu")
        assert torch.is_inference_mode_enabled()
        assert torch.is_autocast_enabled("cpu")
    assert 0.0 < gain < 100.0
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("flags", "autocasts"), [(("amx_bf16",), True), ((), False)])
def test_autocast_follows_the_resolved_precision(
    flags: tuple[str, ...], autocasts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_cpu(monkeypatch, *flags)
    with autocast("cpu", "auto"):
        assert torch.is_autocast_enabled("cpu") == autocasts
    with autocast("cpu", "fp16"):
        assert torch.get_autocast_dtype("cpu") == torch.float16
