"""The stand-in for child processes: PyTorch loads a device by an entry point when it is imported."""

import os
from collections.abc import Mapping
from pathlib import Path

from stand_in.device import VARIABLE

_METADATA = "Metadata-Version: 2.1\nName: stand-in\nVersion: 0\n"
_ENTRY_POINTS = "[torch.backends]\nstand_in = stand_in:autoload\n"


def environment_with_stand_in(folder: Path, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """``environment`` (this process's own by default) in which every Python process finds the stand-in.

    folder : where the package and the facts about it are laid; nothing else of the tests is on the path.
    """
    facts = folder / "stand_in-0.dist-info"
    facts.mkdir(parents=True, exist_ok=True)
    (facts / "METADATA").write_text(_METADATA)
    (facts / "entry_points.txt").write_text(_ENTRY_POINTS)
    if not (folder / "stand_in").exists():
        (folder / "stand_in").symlink_to(Path(__file__).resolve().parent)
    found = dict(os.environ if environment is None else environment)
    path = [str(folder), *filter(None, [found.get("PYTHONPATH")])]
    return {**found, "PYTHONPATH": os.pathsep.join(path), VARIABLE: "1"}
