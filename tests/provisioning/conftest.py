"""A consortium of two sites, made once; each test may spoil a copy of its own."""

import shutil
from pathlib import Path

import pytest
from consortium_office import Office


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """Read-only."""
    office = Office(tmp_path_factory.mktemp("consortium"))
    office.write()
    office.provision()
    return office


@pytest.fixture
def office(made: Office, tmp_path: Path) -> Office:
    """To be spoilt."""
    shutil.copytree(made.folder, tmp_path / "office")
    return Office(tmp_path / "office")


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """Another consortium whose names are all the same; read-only."""
    office = Office(tmp_path_factory.mktemp("other"))
    office.write()
    office.provision()
    return office
