"""One volume: reading it from disk, checking it, and resampling it to the configured grid."""

import itertools
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from adamss_fl.errors import InputError
from adamss_fl.imaging.nifti import has_non_finite
from adamss_fl.imaging.settings import ImagingSettings

Float = NDArray[np.float32]
Image = Any  # a SimpleITK.Image; SimpleITK has no types


@dataclass(frozen=True)
class Box:
    """An axis-aligned box in the patient's space: lowest and highest corner, (x, y, z) in mm."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def centre(self) -> tuple[float, ...]:
        """Centre in mm."""
        return tuple((a + b) / 2 for a, b in zip(self.low, self.high, strict=True))

    def holds(self, point: Sequence[float]) -> bool:
        """Whether a point (x, y, z) in mm lies in the box or on its edge."""
        return all(low <= place <= high for low, place, high in zip(self.low, point, self.high, strict=True))


def simpleitk() -> Any:
    """SimpleITK, imported on first use: it is heavy, and has no types."""
    import SimpleITK

    return SimpleITK


def read_volume(path: Path, patient: str, what: str) -> Image:
    """Read a 3D image (NIfTI or anything else that SimpleITK reads) as float32.

    Raises ``InputError`` naming the patient and the file where it is missing, unreadable, not
    3D, or (NIfTI, where SimpleITK would read 0) has voxels that are not finite.
    """
    sitk = simpleitk()

    where = f"patient {patient}: {what} {path}"
    if not path.is_file():
        raise InputError(f"{where}: there is no such file; restore it or leave the patient out")
    try:
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
        non_finite = path.name.endswith((".nii", ".nii.gz")) and has_non_finite(path)
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{where}: cannot be read as an image; convert it anew or leave the patient out") from error
    if non_finite:
        raise InputError(f"{where}: has voxels that are NaN or infinite; convert it anew or leave the patient out")
    if image.GetDimension() != 3:
        raise InputError(f"{where}: has {image.GetDimension()} dimensions, not 3; convert it anew")
    return image


def read_arrays(path: Path, names: Sequence[str], spacing_mm: Sequence[float], patient: str) -> dict[str, Image]:
    """Arrays (D, H, W) of an .npz archive as float32 images at ``spacing_mm``, all on one grid.

    An absent array is absent from the result. Pickled objects are refused. Raises ``InputError`` naming the patient.
    """
    sitk = simpleitk()

    where = f"patient {patient}: {path}"
    images = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: np.asarray(archive[name], dtype=np.float32) for name in names if name in archive}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{where}: cannot be read as an .npz archive of plain arrays; write it anew") from error
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 3 for shape in shapes.values()):
        raise InputError(f"{where}: the arrays must be 3D and of one shape, but are {shapes}")
    for name, array in arrays.items():
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(tuple(reversed(spacing_mm)))
        images[name] = image
    return images


def check_volume(image: Image, patient: str, what: str) -> None:
    """Raise ``InputError`` where the volume is empty, has values that are not finite, or is constant."""
    sitk = simpleitk()

    voxels = sitk.GetArrayViewFromImage(image)
    where = f"patient {patient}: {what}"
    if voxels.size == 0:
        raise InputError(f"{where} is empty; convert it anew or leave the patient out")
    # min and max are NaN where any voxel is: two passes and no copy.
    low, high = float(voxels.min()), float(voxels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError(f"{where} has voxels that are NaN or infinite; convert it anew or leave the patient out")
    if low == high:
        raise InputError(f"{where} is constant ({low:g} in every voxel); convert it anew or leave the patient out")


def field_of_view(image: Image) -> Box:
    """The smallest axis-aligned box round the image, voxel edges included."""
    return _box(image, [(0, size - 1) for size in image.GetSize()])


def box_round(mask: Image) -> Box | None:
    """The smallest axis-aligned box round the voxels of a mask that are not 0, edges included; None where all are."""
    voxels = simpleitk().GetArrayViewFromImage(mask)
    spans = []
    for axis in (2, 1, 0):  # x, y, z
        others = tuple(other for other in range(3) if other != axis)
        marked = np.flatnonzero(voxels.any(axis=others))
        if not marked.size:
            return None
        spans.append((int(marked[0]), int(marked[-1])))
    return _box(mask, spans)


def union(boxes: Sequence[Box]) -> Box:
    """The smallest box round all of ``boxes``, of which there is at least one."""
    lows, highs = zip(*((box.low, box.high) for box in boxes), strict=True)
    return Box(tuple(np.min(lows, axis=0).tolist()), tuple(np.max(highs, axis=0).tolist()))


def _box(image: Image, spans: Sequence[tuple[int, int]]) -> Box:
    """The box round the voxels from first to last of each ``spans`` (x, y, z) of an image's indices."""
    edges = [(first - 0.5, last + 0.5) for first, last in spans]
    corners = [image.TransformContinuousIndexToPhysicalPoint(corner) for corner in itertools.product(*edges)]
    return Box(tuple(np.min(corners, axis=0).tolist()), tuple(np.max(corners, axis=0).tolist()))


def overlap(pet: Box, ct: Box, patient: str) -> Box:
    """What two fields of view have in common. Raises ``InputError`` where that is nothing."""
    low = tuple(max(a, b) for a, b in zip(pet.low, ct.low, strict=True))
    high = tuple(min(a, b) for a, b in zip(pet.high, ct.high, strict=True))
    if any(a >= b for a, b in zip(low, high, strict=True)):
        raise InputError(
            f"patient {patient}: PET and CT do not overlap in space; mend their origins or leave the patient out"
        )
    return Box(low, high)


def target_grid(settings: ImagingSettings, centre: Sequence[float]) -> Image:
    """An empty image on the configured grid, axis-aligned, with its centre at ``centre`` (x, y, z) in mm."""
    return _empty(settings.grid, settings.spacing_mm, centre)


def covering_grid(settings: ImagingSettings, box: Box) -> Image:
    """An empty image at the configured spacing over the whole of ``box``, to the nearest voxel, with its centre."""
    extent = [high - low for low, high in zip(box.low, box.high, strict=True)][::-1]
    sides = [max(1, round(length / step)) for length, step in zip(extent, settings.spacing_mm, strict=True)]
    return _empty(sides, settings.spacing_mm, box.centre)


def interleaved_grids(settings: ImagingSettings, centre: Sequence[float]) -> tuple[Image, list[tuple[Any, Image]]]:
    """A grid of half the configured spacing, and eight grids as :func:`target_grid` that make it up between them.

    Each of the eight lies a quarter of a voxel to either side of ``centre`` along each axis, and comes with the index
    (D, H, W) of its voxels in an array on the fine grid. The fine grid has the same extent and centre.
    """
    fine = _empty([2 * side for side in settings.grid], [step / 2 for step in settings.spacing_mm], centre)
    parts: list[tuple[Any, Image]] = []
    for second in itertools.product((0, 1), repeat=3):
        moved = [step * (place - 0.5) / 2 for place, step in zip(second, settings.spacing_mm, strict=True)]
        own = [c + by for c, by in zip(centre, moved[::-1], strict=True)]
        parts.append((tuple(slice(place, None, 2) for place in second), target_grid(settings, own)))
    return fine, parts


def _empty(sides: Sequence[int], spacing_mm: Sequence[float], centre: Sequence[float]) -> Image:
    """An axis-aligned image of ``sides`` (D, H, W) voxels of ``spacing_mm`` (D, H, W) round ``centre`` (x, y, z)."""
    sitk = simpleitk()

    size, spacing = tuple(sides)[::-1], tuple(spacing_mm)[::-1]
    grid = sitk.Image(list(size), sitk.sitkUInt8)
    grid.SetSpacing(spacing)
    grid.SetOrigin([c - (n - 1) / 2 * step for c, n, step in zip(centre, size, spacing, strict=True)])
    return grid


def resample(image: Image, grid: Image, padding: float, *, nearest: bool = False) -> NDArray[Any]:
    """The image on ``grid`` as an array (D, H, W): linear, or nearest neighbour; ``padding`` outside the image."""
    sitk = simpleitk()

    interpolator = sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear
    moved = sitk.Resample(image, grid, sitk.Transform(), interpolator, padding, image.GetPixelID())
    return np.asarray(sitk.GetArrayFromImage(moved))


def scale_pet(suv: NDArray[Any], settings: ImagingSettings) -> Float:
    """SUV to [0, 1]: 0 is background, 1 is ``pet_suv_max`` and above."""
    return np.asarray(np.clip(suv, 0.0, settings.pet_suv_max) / settings.pet_suv_max, dtype=np.float32)


def scale_ct(hu: NDArray[Any], settings: ImagingSettings) -> Float:
    """HU to [0, 1]: 0 is the window's lower end and below (air), 1 its upper end and above."""
    low, high = settings.ct_hu_window
    return np.asarray((np.clip(hu, low, high) - low) / (high - low), dtype=np.float32)
