"""``adamss-fl cross-site`` as a user types it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from compared_folder import models, write_compared

from adamss_fl.cli.main import main


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_compared(tmp_path, models(), bootstrap=200)
    return tmp_path


def test_json_is_what_was_written(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cross-site", str(run), "--json"]) == 0
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert err == ""
    assert {key: value for key, value in said.items() if key != "run"} == json.loads(
        (run / "cross_site.json").read_text()
    )
    assert {"matrix", "gains", "family", "sites"} < set(said)


def test_the_tables_show_every_cell_and_verdict(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cross-site", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    said = json.loads((run / "cross_site.json").read_text())
    for model, row in said["matrix"].items():
        (line,) = [line for line in lines if line.split()[:1] == [model] and "(" in line]
        for cell in row.values():
            assert f"{cell['c_index']:.3f} ({cell['ci_low']:.3f} to {cell['ci_high']:.3f})" in line
    for site, gain in said["gains"].items():
        (line,) = [line for line in lines if line.split()[:1] == [site] and gain["verdict"] in line]
        assert f"{gain['difference']:+.3f}" in line
        assert f"{gain['p_holm']:.3f}" in line
    assert any("p Holm over 3 sites" in line for line in lines)
    assert any("helped" in line for line in lines)
    assert any("harmed" in line for line in lines)
    assert "nan" not in " ".join(lines).lower()


def test_a_site_without_a_comparable_pair_says_so_in_its_cell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = models()
    write_compared(
        tmp_path, {n: replace(m, event=m.event * (m.site != "hospital-1")) for n, m in found.items()}, bootstrap=20
    )
    assert main(["cross-site", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("no comparable pair") == len(found) + 1  # each model's cell, and the note of the gain
    assert "nan" not in out.lower()


@pytest.mark.parametrize("what", ["absent", "empty", "altered"])
def test_bad_input_is_one_line_and_exit_code_2(what: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if what == "altered":
        found = models()["pooled"]
        found.subset(found.site != "hospital-1").save(run / "arms" / "pooled" / "predictions.npz")
        place = run
    else:
        place = run / "nowhere"
        if what == "empty":
            place.mkdir()
    assert main(["cross-site", str(place)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert str(place) in err
