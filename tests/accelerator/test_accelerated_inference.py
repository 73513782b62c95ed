"""A model applied on an accelerator: masks, figures, windows, maps and radiomics are the CPU's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from synthetic import make_samples

from adamss_fl.imaging.settings import ImagingSettings
from adamss_fl.model import AdaMSS, ModelSettings, focus_maps, load_weights, prepare, to_weights
from adamss_fl.radiomics import RadiomicsSettings
from adamss_fl.radiomics.features import RadiomicsExtraction
from adamss_fl.survival import TimeGrid
from adamss_fl.training import RuntimeSettings, ensemble_overlap, infer, sliding_window
from adamss_fl.training.radiomics_table import radiomics_table
from adamss_fl.training.stage import as_inputs
from adamss_fl.training.tensors import as_batch, device_of

GRID = TimeGrid((0.0, 200.0, 400.0, 600.0, 2000.0))
CPU = RuntimeSettings(device="cpu", precision="fp32", channels_last=False, threads=1)
AUTO = replace(CPU, device="auto")
BOTH = (CPU, AUTO)
"""The second is the accelerator, see ``test_accelerated_sites``."""
SAMPLES = [replace(sample, has_mask=n != 1) for n, sample in enumerate(make_samples(3, seed=1, side=32))]

pytestmark = pytest.mark.usefixtures("accelerator")


def network(runtime: RuntimeSettings, seed: int = 0, **model: object) -> AdaMSS:
    """A network whose running moments are those of the samples, and whose masks are neither empty nor full."""
    torch.manual_seed(seed)
    found = AdaMSS(ModelSettings(width=2, bins=4, **model))  # type: ignore[arg-type]
    for module in found.modules():
        if isinstance(module, torch.nn.BatchNorm3d):
            module.momentum = None  # the mean over batches, here over the one batch
    with torch.no_grad():
        logits = found(*as_inputs(as_batch(SAMPLES, torch.device("cpu")).image, CPU)).segmentation
        found.segmentation_head.conv.bias -= logits.mean((0, 2, 3, 4))
    return prepare(found, device_of(runtime), runtime.channels_last).eval()


@pytest.mark.parametrize("pooled", ["raw", "standardised", "whitened"])
def test_infer_equals_the_cpu(pooled: str) -> None:
    cpu, here = (
        infer(
            network(runtime, pooled=pooled),
            SAMPLES,
            runtime,
            grid=GRID,
            keep_masks=True,
            spacing_mm=(4, 4, 4),
            batch_size=2,
        )
        for runtime in BOTH
    )
    np.testing.assert_allclose(here.survival_logits, cpu.survival_logits, rtol=1e-6)
    assert here.masks is not None
    assert cpu.masks is not None
    assert cpu.masks.any()
    np.testing.assert_array_equal(here.masks, cpu.masks)
    np.testing.assert_array_equal(here.overlap, cpu.overlap)
    np.testing.assert_array_equal(here.surface_mm, cpu.surface_mm)
    assert here.gate_opening == pytest.approx(cpu.gate_opening, rel=1e-6)
    assert here.loss_survival == pytest.approx(cpu.loss_survival, rel=1e-6)
    assert here.loss_segmentation == pytest.approx(cpu.loss_segmentation, rel=1e-6)


def test_an_ensembles_overlap_equals_the_cpu() -> None:
    cpu, here = (ensemble_overlap([network(r, 0), network(r, 1)], SAMPLES, r) for r in BOTH)
    assert cpu[..., 1].any()
    np.testing.assert_array_equal(here, cpu)


def test_sliding_windows_equal_the_cpu() -> None:
    image = np.random.default_rng(0).random((2, 40, 32, 24), dtype=np.float32)
    cpu, here = (sliding_window(network(runtime), image, (32, 32, 32), runtime) for runtime in BOTH)
    np.testing.assert_allclose(here, cpu, rtol=1e-6, atol=1e-6)


def test_focus_maps_equal_the_cpu() -> None:
    found = []
    for runtime in BOTH:
        image = as_batch(SAMPLES[:1], device_of(runtime)).image
        maps = focus_maps(network(runtime), *as_inputs(image, runtime))
        found.append([each.cpu() for each in (*maps.attention, *maps.gate_opening)])
    for cpu, here in zip(*found, strict=True):
        torch.testing.assert_close(here, cpu, rtol=1e-6, atol=1e-6)


def test_weights_leave_and_come_back_on_the_cpu() -> None:
    """All numpy arrays, and loading them into a model on either device gives the same arrays again."""
    given = to_weights(network(CPU, 3))
    for runtime in BOTH:
        model = network(runtime, 4)
        load_weights(model, given)
        back = to_weights(model)
        assert {each.device.type for each in model.state_dict().values()} == {device_of(runtime).type}
        assert all(np.array_equal(back[name], given[name]) for name in given)


def test_a_radiomics_table_equals_the_cpus() -> None:
    pytest.importorskip("radiomics", reason="pyradiomics is an optional dependency")
    imaging = ImagingSettings(grid=(32, 32, 32), spacing_mm=(4.0, 4.0, 4.0))
    extraction = RadiomicsExtraction(RadiomicsSettings(masks=("tumour",), min_voxels=1), imaging)
    cpu, here = (radiomics_table(network(runtime), SAMPLES[:1], runtime, extraction) for runtime in BOTH)
    assert np.isfinite(cpu.values).any()
    np.testing.assert_allclose(here.values, cpu.values, rtol=1e-6)
    assert here.origins == cpu.origins
