"""What a coordinator sends: names of sites and nothing of anyone's folders."""

from pathlib import Path

import pytest

from adamss_fl.config import load_config
from adamss_fl.deployment.tasks import ELSEWHERE, task_for_sites
from adamss_fl.errors import InputError

SITES = ("hospital-1", "hospital-2", "hospital-3")
CONFIG = """
name: trial
sites: [{name: hospital-1, path: data/secret-1}, {name: hospital-3, path: data/secret-3}]
cache: data/secret-cache
trackers: [csv]
seed: 7
federation: {min_sites: 2}
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "task.yaml"
    path.write_text(text)
    return path


def test_a_task_names_its_sites_and_no_folder(tmp_path: Path) -> None:
    text = task_for_sites(written(tmp_path, CONFIG), [], SITES)
    assert "secret" not in text
    assert str(tmp_path) not in text
    (tmp_path / "again.yaml").write_text(text)
    found = load_config(tmp_path / "again.yaml")
    assert [(site.name, site.path) for site in found.sites] == [("hospital-1", ELSEWHERE), ("hospital-3", ELSEWHERE)]
    assert (found.seed, found.cache, found.trackers) == (7, None, ())


def test_without_sites_all_of_the_consortium_take_part(tmp_path: Path) -> None:
    text = task_for_sites(written(tmp_path, "name: trial\n"), ["seed=3"], SITES)
    (tmp_path / "again.yaml").write_text(text)
    found = load_config(tmp_path / "again.yaml")
    assert [site.name for site in found.sites] == list(SITES)
    assert found.seed == 3


def test_a_task_is_the_same_text_each_time(tmp_path: Path) -> None:
    path = written(tmp_path, CONFIG)
    assert task_for_sites(path, [], SITES) == task_for_sites(path, [], SITES)


def test_a_site_outside_the_consortium_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "name: trial\nsites: [{name: clinic, path: x}]\n")
    with pytest.raises(
        InputError, match=r"task\.yaml:2: sites: the consortium has no site 'clinic'; it has hospital-1"
    ):
        task_for_sites(path, [], SITES)


def test_a_quorum_beyond_the_sites_is_said_at_once(tmp_path: Path) -> None:
    path = written(tmp_path, "name: trial\nfederation: {min_sites: 4}\n")
    with pytest.raises(InputError, match="a quorum of 4 cannot be reached by 3"):
        task_for_sites(path, [], SITES)
