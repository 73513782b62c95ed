"""The stand-in for child processes: PyTorch loads a device by an entry point when it is imported."""

import os
from pathlib import Path

from stand_in.process import VARIABLE

_METADATA = "Metadata-Version: 2.1\nName: stand-in\nVersion: 0\n"
_ENTRY_POINTS = "[torch.backends]\nstand_in = stand_in:autoload\n"


def environment_with_stand_in(folder: Path) -> dict[str, str]:
    """This process's environment, in which every Python process finds the stand-in and has it switched on.

    folder : for the package and the facts about it; nothing else of the tests is on the path.
    """
    facts = folder / "path/stand_in-0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text(_METADATA)
    (facts / "entry_points.txt").write_text(_ENTRY_POINTS)
    (folder / "path/stand_in").symlink_to(Path(__file__).resolve().parent)
    (folder / "used").mkdir()
    path = [str(folder / "path"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), VARIABLE: str(folder / "used")}


def users(folder: Path) -> list[str]:
    """Command lines of the processes that have used the stand-in with that environment."""
    return [path.read_text() for path in sorted((folder / "used").iterdir())]
