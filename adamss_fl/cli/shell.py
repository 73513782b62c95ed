"""What every command shares: ``--json``, tidy output, progress on stderr, and one-line failures with exit codes.

Exit codes: 0 success, 1 failure, 2 bad input, 130 interrupted. Results go to stdout, everything else to stderr.
"""

import dataclasses
import functools
import json as json_module
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adamss_fl.errors import AdamssError, InputError

P = ParamSpec("P")
R = TypeVar("R")

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout; logs stay on stderr.")]

SetOption = Annotated[
    list[str],
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a configuration key, e.g. stages.survival.learning_rate=1e-3."
    ),
]
"""Overrides of a configuration; a command takes it as ``overrides: SetOption = []`` and gives it to ``load_config``."""

console = Console(stderr=True, highlight=False)
"""For people, on stderr; nothing that a program reads goes here."""

WIDTH_OF_A_PIPE = 160
"""Columns of tables where stdout is not a terminal."""

SECONDS_BETWEEN_LINES = 10.0
"""How often progress prints a line where stderr is not a terminal."""


# --- results --------------------------------------------------------------------------------------


def emit(result: Mapping[str, Any], json: bool = False) -> None:
    """Print a command's result on stdout.

    result : scalars, lists of mappings and mappings of mappings; dataclasses and paths are converted.
    json : one JSON object on one line (numbers that are not finite become null) instead of a rendering for people.
    """
    plain = _plain(result)
    if json:
        sys.stdout.write(json_module.dumps(plain, allow_nan=False, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    out = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    if not out.is_terminal:
        out.width = WIDTH_OF_A_PIPE
    scalars = {_title(key): _text(value) for key, value in plain.items() if not isinstance(value, (dict, list))}
    indent = max(map(len, scalars), default=0) + 2
    for title, text in scalars.items():
        out.print(Text.assemble((title.ljust(indent), "bold"), text), soft_wrap=True)
    for key, value in plain.items():
        if isinstance(value, (dict, list)):
            _print_nested(out, key, value)


def _print_nested(out: Console, key: str, value: dict[str, Any] | list[Any]) -> None:
    """Print a list of records or a mapping of records as a table, anything else as one line."""
    rows: list[Any] = value if isinstance(value, list) else [_row(name, item) for name, item in value.items()]
    title = Text(_title(key), style="bold")
    if not rows or not all(isinstance(row, dict) for row in rows):
        line = ", ".join(_text(row) for row in rows) if rows else "none"
        out.print(Text.assemble(title, "  ", line), soft_wrap=True)
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(_title(column), overflow="fold")
    for row in rows:
        table.add_row(*(_text(row.get(column)) for column in columns))
    out.print(table)


def _row(name: str, item: Any) -> dict[str, Any]:
    return {"": name} | (item if isinstance(item, dict) else {"value": item})


def _title(key: str) -> str:
    return key.replace("_", " ")


def _text(value: Any) -> str:
    """One cell: figures to four digits."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    return str(value)


def _plain(value: Any) -> Any:
    """``value`` in JSON's own types: tuples as lists, paths as text, numbers that are not finite as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


# --- progress -------------------------------------------------------------------------------------


@contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr; yields ``advance(note="")``, which counts one of ``total`` steps as done.

    Where stderr is no terminal, a line is printed at the start, at the end and about every ten seconds.
    """
    with following(description, one_task=True) as report:
        done = 0
        report("", 0, total)

        def advance(note: str = "") -> None:
            nonlocal done
            done += 1
            report(note, done, total)

        yield advance


@contextmanager
def following(description: str, one_task: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """Like ``progress``, for work that reports itself: yields a callback ``report(note, done, total)``.

    one_task : all reports count towards one total, whose end is always printed; else many tasks follow each other.
    """
    if not console.is_terminal:
        yield _line_reporter(description, one_task)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as bars:
        task = bars.add_task(description, total=None, note="")
        yield lambda note, done, total: bars.update(task, completed=done, total=total, note=note)


def _line_reporter(description: str, one_task: bool) -> Callable[[str, int, int], None]:
    last = -math.inf

    def report(note: str, done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if (one_task and done >= total) or now - last >= SECONDS_BETWEEN_LINES:
            last = now
            print(f"{description}: {done} of {total}{'  ' + note if note else ''}", file=sys.stderr, flush=True)

    return report


# --- failures -------------------------------------------------------------------------------------


def handled(function: Callable[P, R]) -> Callable[P, R]:
    """Turn what ``function`` raises into one line on stderr and an exit code; typer sees the same signature."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (AdamssError, KeyboardInterrupt) as error:
            raise typer.Exit(fail(error)) from error

    return wrapper


def fail(error: BaseException) -> int:
    """Say on stderr, in one line, what ended the command; returns the exit code (2 for InputError, 130 interrupted).

    Any exception that is not ours is a defect, unless the machine could not do the work: the traceback is printed only
    where ``ADAMSS_DEBUG=1``.
    """
    if isinstance(error, KeyboardInterrupt):
        _say("interrupted")
        return 130
    if isinstance(error, AdamssError):
        if _debugging():
            traceback.print_exception(error)
        _say(f"{'error' if isinstance(error, InputError) else 'failed'}: {error}")
        return 2 if isinstance(error, InputError) else 1
    if _debugging():
        traceback.print_exception(error)
    machine = _machine_error(error)
    if machine is not None:
        _say(f"error: {machine}")
        return 2
    hint = "" if _debugging() else " (a defect of adamss-fl; ADAMSS_DEBUG=1 shows where)"
    _say(f"failed: {type(error).__name__}: {error}{hint}")
    return 1


def _machine_error(error: BaseException) -> AdamssError | None:
    if "torch" not in sys.modules and not isinstance(
        error, MemoryError
    ):  # what did not import it cannot raise its errors
        return None
    from adamss_fl.training.machine_errors import machine_error

    needed = "free memory on this machine or take a larger one; in training take a smaller batch_size, grid or width"
    return machine_error(error, needed=needed)


def usage(message: str) -> int:
    """Say on stderr that the command line is wrong; returns exit code 2."""
    _say(f"error: {message}")
    return 2


def _debugging() -> bool:
    return os.environ.get("ADAMSS_DEBUG", "") not in ("", "0")


def _say(message: str) -> None:
    print(" ".join(message.split()), file=sys.stderr, flush=True)
