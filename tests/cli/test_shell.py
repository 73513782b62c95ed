"""What all commands share: output, progress, failures and exit codes."""

import io
import json
import math
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st

from adamss_fl.cli import shell
from adamss_fl.errors import AdamssError, InputError


@dataclass(frozen=True)
class Problem:
    patient: str
    code: str


def test_json_is_one_object_on_one_line_of_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    result = {
        "c_index": np.float32(0.5),
        "missing": math.nan,
        "run": Path("runs/a"),
        "problems": (Problem("p1", "no_ct"),),
        "counts": np.arange(3),
    }
    shell.emit(result, json=True)
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert err == ""
    assert json.loads(out) == {
        "c_index": 0.5,
        "missing": None,
        "run": "runs/a",
        "problems": [{"patient": "p1", "code": "no_ct"}],
        "counts": [0, 1, 2],
    }


words = st.text("ab[/]\\: \n<é", max_size=8)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(words, anything, max_size=3))
@settings(max_examples=60, deadline=None)
def test_every_result_is_valid_json_and_can_be_shown_to_people(result: dict[str, Any]) -> None:
    with redirect_stdout(io.StringIO()) as out:
        shell.emit(result, json=True)
    json.loads(out.getvalue(), parse_constant=pytest.fail)
    with redirect_stdout(io.StringIO()):
        shell.emit(result)


def test_people_see_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    arms = {"federated": {"c_index": 0.6571, "pairs": 120}, "pooled": {"c_index": None, "pairs": 0}}
    shell.emit({"run": "runs/[a]", "arms": arms, "problems": [], "names": ["x", "y"], "ok": True})
    out = capsys.readouterr().out
    for text in ("runs/[a]", "federated", "0.6571", "120", "pooled", "problems  none", "x, y", "yes"):
        assert text in out


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("x.yaml:4: width: must be 1 or more"), 2, "error: x.yaml:4: width: must be 1 or more\n"),
        (AdamssError("the quorum was lost"), 1, "failed: the quorum was lost\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (InputError("two\nlines"), 2, "error: two lines\n"),
        (KeyError("k"), 1, "failed: KeyError: 'k' (a defect of adamss-fl; ADAMSS_DEBUG=1 shows where)\n"),
    ],
)
def test_a_failure_is_one_line_on_stderr_and_an_exit_code(
    error: BaseException, code: int, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ADAMSS_DEBUG", raising=False)
    assert shell.fail(error) == code
    assert capsys.readouterr() == ("", line)


def test_the_traceback_is_there_for_those_who_ask(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADAMSS_DEBUG", "1")
    try:
        raise ValueError("broken")
    except ValueError as error:
        shell.fail(error)
    assert "Traceback" in capsys.readouterr().err


def test_handled_turns_bad_input_into_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    @shell.handled
    def command(path: str, json: shell.JsonOption = False) -> None:
        raise InputError(f"{path}: there is no such file")

    with pytest.raises(typer.Exit) as caught:
        command("a.yaml")
    assert caught.value.exit_code == 2
    assert capsys.readouterr().err == "error: a.yaml: there is no such file\n"


def test_handled_leaves_defects_to_the_entry_point() -> None:
    @shell.handled
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command()


def test_progress_without_a_terminal_prints_the_first_and_the_last_step(capsys: pytest.CaptureFixture[str]) -> None:
    with shell.progress("patients", 50) as advance:
        for number in range(50):
            advance(f"p{number}")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["patients: 0 of 50", "patients: 50 of 50  p49"]
