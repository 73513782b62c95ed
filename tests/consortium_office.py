"""A coordinator's office for tests: a consortium file and the folder that `provision` makes of it."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from adamss_fl.provisioning.provision import provision
from adamss_fl.provisioning.settings import read_consortium

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)

SETTINGS: dict[str, Any] = {
    "name": "head-and-neck",
    "server": {"names": ["fl.example.org"], "addresses": ["192.0.2.7"], "port": 8443},
    "valid_days": 100,
    "sites": [{"name": "north"}, {"name": "south"}],
}


@dataclass
class Office:
    """A coordinator's file and folder."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "consortium.yaml"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def site(self, name: str) -> Path:
        return self.out / "sites" / name

    @property
    def server(self) -> Path:
        return self.out / "server"

    def write(self, **changed: Any) -> None:
        self.file.write_text(yaml.safe_dump({**SETTINGS, **changed}, sort_keys=False))

    def provision(self, now: datetime = NOW, **options: Any) -> dict[str, Path]:
        return provision(read_consortium(self.file), self.out, now=now, **options)

    def files(self, below: str = "") -> dict[str, bytes]:
        """Every file and its bytes, by its path in the consortium's folder."""
        found = sorted((self.out / below).rglob("*"))
        return {str(path.relative_to(self.out)): path.read_bytes() for path in found if path.is_file()}
