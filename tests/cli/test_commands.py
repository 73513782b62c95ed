"""The command line as a user types it: help, usage errors, and the commands phantom, check and plugins."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from adamss_fl import __version__
from adamss_fl.cli import main as cli
from adamss_fl.cli.main import COMMANDS, main
from adamss_fl.cohort import make_phantom

ROOT = Path(__file__).parents[2]


def test_help_lists_every_command_and_imports_no_heavy_library() -> None:
    program = (
        "import sys; from adamss_fl.cli.main import main; code = main(['--help']);"
        "print('heavy', sorted({'torch', 'numpy', 'flwr', 'pydantic', 'SimpleITK'} & set(sys.modules)), code)"
    )
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert time.monotonic() - began < 10  # a fraction of a second where the machine is idle
    assert all(name in done.stdout for name in COMMANDS)
    assert "heavy [] 0" in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example_and_json(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"adamss-fl {name}" in out
    assert "Example:" in out
    assert "--json" in out


def test_no_arguments_is_a_call_for_help(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["adamss-fl"])
    assert main() == 0
    assert "Commands" in capsys.readouterr().out


def test_the_version_is_the_packages_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"adamss-fl {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["chek"], "error: there is no command 'chek'; did you mean 'check'? (see 'adamss-fl --help')"),
        (["check"], "error: Missing argument 'COHORT' (see 'adamss-fl check --help')"),
        (["phantom", "x", "--sites", "many"], "error: Invalid value for '--sites': 'many' is not a valid integer"),
        (["plugins", "--josn"], "error: No such option"),
        (["--nope"], "error: No such option"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(
    arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_a_defect_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(cli, "load_command", broken)
    monkeypatch.delenv("ADAMSS_DEBUG", raising=False)
    assert main(["plugins"]) == 1
    assert capsys.readouterr().err.startswith("failed: RuntimeError: broken (a defect")


def test_flower_is_told_to_call_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK"):
        monkeypatch.setenv(name, "")  # so that monkeypatch restores what main sets
        monkeypatch.delenv(name)
    main(["--version"])
    assert os.environ["FLWR_TELEMETRY_ENABLED"] == "0"
    assert os.environ["FLWR_DISABLE_UPDATE_CHECK"] == "1"


def test_plugins_lists_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["plugins"]
    assert {"point", "name", "description", "distribution", "settings"} == set(found[0])
    assert ("aggregator", "average") in {(plugin["point"], plugin["name"]) for plugin in found}
    assert main(["plugins"]) == 0
    assert "momentum: float = 0.9" in " ".join(capsys.readouterr().out.split())


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("phantom") / "hospitals"
    command = ["phantom", str(out), "--sites", "2", "--patients", "10", "--size", "16", "--test", "0.4", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "adamss_fl.cli.main", *command], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_phantom_says_what_it_made(hospitals: tuple[Path, dict[str, Any]]) -> None:
    out, said = hospitals
    assert set(said) == {"sites", "patients", "events", "oracle_c_index"}
    assert (said["sites"], said["patients"]) == (2, 20)
    assert 0 < said["events"] < 20
    assert len(list(out.glob("hospital-*"))) == 2


def test_the_oracle_is_lifelines_c_index_of_the_true_hazard_on_the_test_patients(
    hospitals: tuple[Path, dict[str, Any]],
) -> None:
    from lifelines.utils import concordance_index

    from adamss_fl.cohort import load_cohort, read_truth, split_cohort
    from adamss_fl.cohort.settings import SplitSettings

    out, said = hospitals
    truth = read_truth(out)
    folders = sorted(out.glob("hospital-*"))
    test = [p for folder in folders for p in split_cohort(load_cohort(folder), SplitSettings(test=0.4)).test.patients]
    expected = concordance_index([p.time_days for p in test], [-truth[p.id] for p in test], [p.event for p in test])
    assert said["oracle_c_index"] == pytest.approx(expected)


def test_phantom_refuses_a_folder_that_is_not_empty(
    hospitals: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["phantom", str(hospitals[0])]) == 2
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize("fraction", ["0", "1", "-0.5", "nan"])
def test_phantom_refuses_a_test_share_that_is_no_share(
    fraction: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["phantom", str(tmp_path / "x"), "--test", fraction]) == 2
    assert "--test" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_check_finds_nothing_wrong_with_a_phantom(
    hospitals: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = next(hospitals[0].glob("hospital-*"))
    assert main(["check", str(folder), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert set(said) == {"patients", "usable", "problems"}
    assert said["usable"] == said["patients"] > 0


def test_check_with_a_configuration_names_tumours_that_its_grid_cuts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (hospital,) = make_phantom(tmp_path / "phantom", sites=1, patients=4, size=16, seed=1, workers=1).folders
    config = tmp_path / "config.yaml"
    for spacing, cut in (("[8.0, 8.0, 8.0]", False), ("[1.0, 1.0, 1.0]", True)):
        grid = f"imaging: {{grid: [16, 16, 16], spacing_mm: {spacing}}}\n"
        config.write_text(f"name: grid\nsites:\n  - {{name: hospital-1, path: {hospital}}}\n{grid}")
        assert main(["check", str(hospital), "--config", str(config), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert ({problem["code"] for problem in found["problems"]} == {"primary_cut"}) is cut
        assert found["usable"] == 4


def test_check_names_the_folder_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(tmp_path / "none")]) == 2
    assert str(tmp_path / "none") in capsys.readouterr().err
