"""The stand-in itself: it computes as the CPU does, refuses what CUDA refuses, and counts what makes a host wait."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from stand_in import count_waits, environment_with_stand_in, switch_on
from torch import Tensor
from torch.nn import functional

OTHERS = torch.arange(6.0).reshape(2, 3)


def test_pytorch_reports_it_only_while_it_is_on() -> None:
    assert not torch.accelerator.is_available()
    with switch_on() as device:
        assert torch.accelerator.current_accelerator() == device
        assert torch.accelerator.is_available()
    assert not torch.accelerator.is_available()


def test_views_share_bytes_and_copies_do_not(accelerator: torch.device) -> None:
    base = OTHERS.to(accelerator)
    base.t()[1:, 0].add_(10)
    base.clone().zero_()
    base.data.view(3, 2)[2].mul_(2)
    assert base.cpu().tolist() == [[0.0, 11.0, 12.0], [3.0, 8.0, 10.0]]
    assert torch.equal(OTHERS, torch.arange(6.0).reshape(2, 3))


@pytest.mark.parametrize(
    "mix",
    [
        lambda here: here + OTHERS,
        lambda here: here.add_(OTHERS),
        lambda here: OTHERS.clone().add_(here),
        lambda here: here @ torch.ones(3, 1),
        lambda here: torch.cat((here, OTHERS)),
        lambda here: torch.stack((here[0, 0], OTHERS[0, 0])),
        lambda here: torch.where(OTHERS > 1, here, here),
        lambda here: here[OTHERS > 1],
        lambda here: here.lerp_(here, OTHERS),
        lambda here: functional.linear(here, torch.ones(4, 3)),
        lambda here: functional.grid_sample(here.view(1, 1, 2, 3), torch.zeros(1, 2, 2, 2), align_corners=False),
        lambda here: functional.conv1d(here[None], torch.ones(1, 2, 1)),
        lambda here: torch.tensor(0.0).add_(here[0, 0]),
        lambda here: here.copy_(OTHERS).numpy(),
        lambda here: torch.rand(3, device=here.device, generator=torch.Generator()),
        lambda here: torch.Generator(device=here.device),
    ],
)
def test_what_cuda_refuses_is_refused(accelerator: torch.device, mix: Callable[[Tensor], object]) -> None:
    with pytest.raises((RuntimeError, TypeError), match=r"same device|to numpy|for generator|getNewGenerator"):
        mix(OTHERS.to(accelerator))


def test_a_scalar_of_the_cpu_may_enter_an_elementwise_operator(accelerator: torch.device) -> None:
    assert (OTHERS.to(accelerator) * torch.tensor(2.0)).cpu().equal(OTHERS * 2)


def test_a_fused_optimizer_that_counts_on_the_cpu_is_refused(accelerator: torch.device) -> None:
    weight = torch.nn.Parameter(torch.ones(3, device=accelerator))
    optimizer = torch.optim.AdamW([weight], fused=True)
    weight.sum().backward()
    optimizer.step()
    assert optimizer.state[weight]["step"].device.type == accelerator.type
    optimizer.state[weight]["step"] = torch.tensor(1.0)
    with pytest.raises(RuntimeError, match="same device"):
        optimizer.step()


@pytest.mark.parametrize(
    ("call", "waits"),
    [
        (lambda here: here.sum().item(), True),
        (lambda here: bool(torch.isfinite(here).all()), True),
        (lambda here: here.tolist(), True),
        (lambda here: here.cpu(), True),
        (lambda here: here.nonzero(), True),
        (lambda here: here[here > 1], True),
        (lambda here: torch.linalg.eigh(here.T @ here), True),
        (lambda here: torch.tensor([1.0], device=here.device), True),
        (lambda here: OTHERS.to(here.device), True),
        (lambda here: OTHERS.to(here.device, non_blocking=True), True),
        (lambda here: OTHERS.pin_memory().to(here.device), True),
        (lambda here: OTHERS.pin_memory().to(here.device, torch.float64, non_blocking=True), True),
        (lambda here: OTHERS.pin_memory().to(here.device, non_blocking=True), False),
        (lambda here: here * 2 + torch.zeros((2, 3), device=here.device), False),
        (lambda here: here[torch.zeros(1, dtype=torch.long, device=here.device)], False),
        (lambda here: torch.where(here > 1, here, 0.0).sum().clamp_max(3), False),
    ],
)
def test_calls_that_make_the_host_wait_are_counted(
    accelerator: torch.device, call: Callable[[Tensor], object], waits: bool
) -> None:
    here = OTHERS.to(accelerator)
    with count_waits() as counted:
        call(here)
    assert bool(counted.reasons) is waits, counted.reasons


@pytest.mark.parametrize("channels_last", [False, True])
def test_forward_and_backward_equal_the_cpu(accelerator: torch.device, channels_last: bool) -> None:
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Conv3d(2, 4, 3, padding=1), torch.nn.BatchNorm3d(4), torch.nn.Dropout(0.5))
    x = torch.rand(2, 2, 4, 5, 6)
    layout = torch.channels_last_3d if channels_last else torch.contiguous_format
    found = []
    for device in (torch.device("cpu"), accelerator):
        layer.to(device).zero_grad()
        torch.manual_seed(1)
        given = x.to(device, memory_format=layout).detach().requires_grad_()
        result = layer(given).square().mean()
        result.backward()
        found.append([result.cpu(), given.grad.cpu(), *(each.grad.cpu() for each in layer.parameters())])
    for cpu, here in zip(*found, strict=True):
        torch.testing.assert_close(cpu, here, rtol=1e-6, atol=1e-7)


CHILD = """
import os, torch
print(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "none", flush=True)
if torch.accelerator.is_available():
    torch.ones(2, device="standin").sum().item()
    pid = os.fork()
    if pid == 0:
        try:
            torch.ones(2, device="standin")
        except RuntimeError as error:
            print(error, flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
"""


def test_a_child_process_finds_it_and_its_fork_may_not_use_it(tmp_path: Path) -> None:
    def printed(environment: dict[str, str]) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-P", "-c", CHILD],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        return done.stdout.splitlines()

    assert printed(environment_with_stand_in(tmp_path)) == [
        "standin",
        "Cannot re-initialize the stand-in in a forked subprocess",
    ]
    assert printed(dict(os.environ)) == ["none"]
