"""What the fixtures of this room give."""

from dataclasses import dataclass
from pathlib import Path

from adamss_fl.imaging.volumes import read_volume
from adamss_fl.prediction import Scan


@dataclass(frozen=True)
class Trained:
    """A finished run, and the hospital whose patients it was trained and tested on."""

    run: Path
    hospital: Path

    def image(self, patient: str, kind: str) -> Path:
        return self.hospital / "imagesTr" / f"{patient}__{kind}.nii.gz"

    @property
    def patients(self) -> list[str]:
        return sorted(path.name.split("__")[0] for path in (self.hospital / "imagesTr").glob("*__PT.nii.gz"))


def scan_of(trained: Trained, patient: str) -> Scan:
    return Scan(patient, *(read_volume(trained.image(patient, kind), patient, kind) for kind in ("PT", "CT")))
