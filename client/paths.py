"""Where a run's configuration and its folder lie, for both ends of a federation on one machine."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from adamss_fl.errors import InputError

HOME_VARIABLE = "ADAMSS_FL_HOME"
"""Environment variable: the folder that relative paths of a Flower run start from (default: the working folder)."""


@dataclass(frozen=True)
class RunFiles:
    """Absolute paths of a run's configuration file and of its output folder."""

    config: Path
    out: Path

    def state_dir(self, site: str) -> Path:
        """Return the private state folder of ``site``."""
        return self.out / "sites" / site


def run_files(run_config: Mapping[str, object]) -> RunFiles:
    """Return the files that ``config`` and ``out`` of Flower's run configuration name.

    Flower unpacks an app into a folder of its own, so a relative path starts from ``$ADAMSS_FL_HOME``, or else from
    the folder in which Flower's process runs (the one where ``flwr run`` first started it). Raises InputError where
    a key is missing or the configuration is not there.
    """
    home = Path(os.environ.get(HOME_VARIABLE) or Path.cwd())
    config, out = run_config.get("config"), run_config.get("out")
    if not isinstance(config, str) or not config or not isinstance(out, str) or not out:
        raise InputError(
            "the run configuration must give `config` and `out`: flwr run . --run-config \"config='...' out='...'\""
        )
    path = home / config
    if not path.is_file():
        raise InputError(
            f"{path}: no such configuration; give an absolute path (flwr run . --run-config \"config='/a/b.yaml'\") "
            f"or set {HOME_VARIABLE} to the folder it starts from"
        )
    return RunFiles(path.resolve(), (home / out).resolve())
