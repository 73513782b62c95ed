"""One block-diagonal convolution for the three streams of a level is the three streams."""

import copy

import pytest
import torch
from torch import Tensor

from adamss_fl.model import AdaMSS, ModelSettings, autocast, prepare
from adamss_fl.model import encoder as encoder_module
from adamss_fl.model import merged_streams as merged_module
from adamss_fl.model.layout import channels_last
from adamss_fl.model.merged_streams import pays_off


def network(width: int = 2, norm: str = "batch") -> AdaMSS:
    torch.manual_seed(width)
    return prepare(AdaMSS(ModelSettings(width=width, norm=norm, dropout=0.0)))  # type: ignore[arg-type]


def images(batch: int) -> Tensor:
    return torch.rand(2, batch, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))


def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the maps that go to merged streams from now on."""
    seen: list[tuple[int, ...]] = []
    merged = encoder_module.merged_streams

    def watched(blocks: object, x: Tensor, first: object) -> tuple[Tensor, ...]:
        seen.append(tuple(x.shape))
        return merged(blocks, x, first)  # type: ignore[arg-type]

    monkeypatch.setattr(encoder_module, "merged_streams", watched)
    return seen


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize("training", [True, False])
def test_features_gradients_and_running_statistics_are_those_of_the_streams(
    lanes: int, training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_module, "_floats_in_register", lambda: lanes)
    merged = network().train(training)
    apart = copy.deepcopy(merged)
    seen = calls(monkeypatch)
    found = merged.encoder(*(channels_last(image) for image in images(2)))
    assert seen == [(2, 2, 32, 32, 32), (2, 8, 16, 16, 16)][: lanes // 8]
    monkeypatch.setattr(encoder_module, "pays_off", lambda blocks, x: False)
    wanted = apart.encoder(*(channels_last(image) for image in images(2)))
    assert len(seen) == lanes // 8
    for mine, theirs in zip(found.features, wanted.features, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.gate_opening, wanted.gate_opening)
    for name, buffer in merged.encoder.named_buffers():
        torch.testing.assert_close(buffer, apart.encoder.get_buffer(name), rtol=1e-4, atol=1e-4)
    for features in (found.features, wanted.features):
        torch.stack([feature.square().mean() for feature in features]).sum().backward()
    mine_flat, apart_flat = (
        torch.cat([p.grad.flatten() for p in model.encoder.parameters() if p.grad is not None])
        for model in (merged, apart)
    )
    assert mine_flat.shape == apart_flat.shape
    assert float((mine_flat - apart_flat).norm() / apart_flat.norm()) < 1e-4


def test_streams_are_merged_where_they_fit_one_register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merged_module, "_floats_in_register", lambda: 8)

    def blocks(model: AdaMSS) -> tuple[torch.nn.Module, ...]:
        encoder = model.encoder
        return encoder.pet.level(1), encoder.ct.level(1), encoder.fusion.level(1)

    x = channels_last(torch.rand(1, 2, 32, 32, 32))
    assert pays_off(blocks(network(2)), x)  # type: ignore[arg-type]
    assert not pays_off(blocks(network(8)), x)  # type: ignore[arg-type]
    assert not pays_off(blocks(network(2, "instance")), x)  # type: ignore[arg-type]
    assert not pays_off(blocks(network(2)), x.contiguous())  # type: ignore[arg-type]
    assert not pays_off(blocks(network(2)), x[..., :8, :8, :8].contiguous(memory_format=torch.channels_last_3d))  # type: ignore[arg-type]
    with autocast("cpu", "bf16"):
        assert not pays_off(blocks(network(2)), x)  # type: ignore[arg-type]
    half = network(2)
    half.encoder.pet.eval()
    assert not pays_off(blocks(half), x)  # type: ignore[arg-type]


@pytest.mark.parametrize("gates", ["early", "late"])
def test_a_gate_that_shuts_a_stream_out_keeps_the_streams_apart(gates: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = calls(monkeypatch)
    model = prepare(AdaMSS(ModelSettings(width=2, gates=gates)))  # type: ignore[arg-type]
    model(*images(1), heads=())
    assert not seen


def test_checkpointed_blocks_stay_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = calls(monkeypatch)
    model = network()
    model.checkpointing = True
    model(*images(1), heads=())
    assert not seen
