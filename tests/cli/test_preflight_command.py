"""``adamss-fl preflight`` as a user types it, on phantom hospitals."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from adamss_fl.cli.main import main
from adamss_fl.cohort import make_phantom

PATIENTS = 24


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("preflight")
    make_phantom(folder / "phantom", sites=2, patients=PATIENTS, size=16, seed=3, workers=1)
    path = folder / "config.yaml"
    path.write_text(
        f"""name: preflight
sites:
  - {{name: hospital-1, path: {folder / "phantom" / "hospital-1"}}}
  - {{name: hospital-2, path: {folder / "phantom" / "hospital-2"}}}
cache: {folder / "cache"}
split: {{test: 0.25}}
imaging: {{grid: [16, 16, 16], spacing_mm: [8.0, 8.0, 8.0]}}
model: {{width: 1, bins: 4}}
tabular:
  clinical: [{{name: age_years}}, {{name: hpv, kind: binary}}]
runtime: {{device: cpu, threads: 1}}
"""
    )
    return path


def test_json_holds_the_sites_the_findings_and_the_cohort(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(path for path in config.parent.rglob("*") if "cache" not in path.parts)
    assert main(["preflight", str(config), "--json"]) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert "error" not in err
    assert set(said) == {"sites", "findings", "follow_up", "columns", "cox", "cox_one_baseline"}
    assert sum(site["patients"] for site in said["sites"].values()) == said["follow_up"]["patients"]
    assert all(found["severity"] == "warning" for found in said["findings"])
    assert said["follow_up"]["all"]["survival"][0] == 1
    assert set(said["columns"]["summaries"]) == {"age_years"}
    assert [each["level"] for each in said["columns"]["quartiles"]["age_years"]["levels"]] == [0.25, 0.5, 0.75]
    for ratio in (*said["cox"]["covariates"].values(), *said["cox_one_baseline"]["covariates"].values()):
        assert ratio["ci_low"] < ratio["hazard_ratio"] < ratio["ci_high"]
    assert sorted(path for path in config.parent.rglob("*") if "cache" not in path.parts) == before


def test_the_tables_show_sites_findings_and_cohort(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight", str(config)]) == 0
    out = capsys.readouterr().out
    for part in ("findings", "event-free survival of all sites", "Cox regression, stratified by site", "log-rank test"):
        assert part in out
    assert "95 % interval" in out
    assert len([line for line in out.splitlines() if line.startswith("hospital-1")]) >= 2
    assert "nan" not in out.lower()


def test_an_error_is_the_one_line_of_stderr_and_exit_code_2(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second hospital reads a copy of the first one's folder."""
    first, copy = config.parent / "phantom" / "hospital-1", tmp_path / "copy"
    shutil.copytree(first, copy)
    for arguments in ([], ["--json"]):
        assert main(["preflight", str(config), "--set", f"sites.1.path={copy}", *arguments]) == 2
        out, err = capsys.readouterr()
        (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
        assert f"{config}: hospital-2: same_summary: all figures are those of hospital-1; check that" in line
        assert "same_summary" in out


def test_a_hospital_without_a_column_is_warned_of_and_the_other_figures_stand(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, column = tmp_path / "copy", "HPV status (0=-, 1=+)"
    shutil.copytree(config.parent / "phantom" / "hospital-2", copy)
    path = copy / "hecktor2022_clinical_info_training.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert any(row[column] for row in rows)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows({**row, column: ""} for row in rows)
    assert main(["preflight", str(config), "--set", f"sites.1.path={copy}", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["sites"]["hospital-1"]["missing"]["hpv"] < 0.2
    assert said["sites"]["hospital-2"]["missing"]["hpv"] == 1
    found = [each for each in said["findings"] if each["code"] == "column_absent"]
    assert [(each["site"], each["severity"]) for each in found] == [("hospital-2", "warning")]
    assert {"age_years", "hpv=1"} <= set(said["cox"]["covariates"])


def test_a_missing_configuration_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight", str(tmp_path / "none.yaml")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
