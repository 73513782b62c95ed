"""Checks of ``gpu.py`` as they are made."""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field

import torch


@dataclass
class Report:
    """Checks as they are made, and those that failed."""

    passed: int = 0
    failures: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def check(self, name: str, holds: bool, figure: str = "") -> None:
        """Note one check and print it."""
        print(f"  {'ok  ' if holds else 'FAIL'} {name}{': ' + figure if figure else ''}", flush=True)
        if holds:
            self.passed += 1
        else:
            self.failures.append(f"{name}{' (' + figure + ')' if figure else ''}")

    def leave_out(self, what: str, why: str) -> None:
        """Note what this machine cannot run."""
        print(f"  left out: {what}: {why}", flush=True)
        self.left_out.append(what)

    def part(self, name: str, work: Callable[[], None]) -> None:
        """Run a part; an exception in it is a failure of it and ends no other."""
        print(f"{name}:", flush=True)
        try:
            work()
        except Exception as error:
            text = str(error).strip() or "no reason given"
            self.check(name, False, f"{type(error).__name__}: {text.splitlines()[0][:300]}")


def is_installed(name: str) -> bool:
    """Whether a module can be imported here."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def describe(device: str) -> str:
    """The hardware in words."""
    return torch.cuda.get_device_name() if device == "cuda" else f"CPU ({torch.backends.cpu.get_cpu_capability()})"


def relative(found: float, expected: float) -> float:
    """Relative difference of two figures."""
    return abs(found - expected) / max(abs(expected), 1e-12)
