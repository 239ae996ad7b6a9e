import math

import pytest
import torch
import torch.nn.functional as F

from leo_diffusers.models import flow_generator
from leo_diffusers.models.flow_generator import (
    FlowGenerator,
    FlowHead,
    GeneratorBlock,
    RGBHead,
    refine,
    slice_features,
    split_logits,
)
from leo_diffusers.models.style_blocks import BlurUpsample
from leo_diffusers.models.warping import warp


LATENT_DIM = 12
CHANNELS = (6, 8, 10, 12)  # at 32, 16, 8 and 4 pixels


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module.eval()


def make_generator(warp_source_image: bool = False, align_corners: bool = False) -> FlowGenerator:
    torch.manual_seed(0)
    return randomize(FlowGenerator(LATENT_DIM, CHANNELS, warp_source_image, align_corners, False))


def make_features(batch_size: int, warp_source_image: bool = False) -> tuple[torch.Tensor, ...]:
    """A smooth pyramid: where neighbours differ little, rounding of a position stays rounding of a value."""
    sizes = [(10, 8), (8, 16), (6, 32), (3, 32)]
    features = tuple(
        F.interpolate(noise(batch_size, channels, 3, 3), size=(size, size), mode="bilinear", align_corners=True)
        for channels, size in sizes
    )
    return features if warp_source_image else features[:-1]


def set_flow_heads(generator: FlowGenerator, bias: list[float]) -> None:
    """Every scale's logits become `bias`, whatever the latent is."""
    with torch.no_grad():
        for block in generator.blocks:
            block.flow_head.weight.zero_()
            block.flow_head.bias.zero_()
        generator.blocks[0].flow_head.bias.copy_(torch.tensor(bias))


# --- the heads ---


@pytest.mark.parametrize("upsample", [False, True])
def test_flow_head_is_a_modulated_convolution_without_demodulation(upsample):
    torch.manual_seed(0)
    head = randomize(FlowHead(8, LATENT_DIM, upsample=upsample))
    hidden_states, latent = noise(3, 8, 6, 6), noise(3, LATENT_DIM, seed=1)
    logits = noise(3, 3, 3, 3) if upsample else noise(3, 3, 6, 6)
    style = latent @ (head.modulation.weight / math.sqrt(LATENT_DIM)).T + head.modulation.bias
    weights = head.weight[None] * style[:, None, :] / math.sqrt(8)  # (B, 3, C)
    expected = torch.cat([F.conv2d(h[None], w[..., None, None], head.bias) for h, w in zip(hidden_states, weights)])
    torch.testing.assert_close(head(hidden_states, latent, None), expected, rtol=1e-4, atol=1e-5)
    below = BlurUpsample()(logits) if upsample else logits
    torch.testing.assert_close(head(hidden_states, latent, logits), expected + below, rtol=1e-4, atol=1e-5)


def test_flow_head_answers_in_float32():
    head = FlowHead(8, LATENT_DIM).bfloat16()
    assert head(noise(1, 8, 6, 6).bfloat16(), noise(1, LATENT_DIM).bfloat16(), None).dtype == torch.float32


def test_rgb_head_against_the_formula():
    torch.manual_seed(0)
    head = randomize(RGBHead(8))
    features, frame = noise(2, 8, 6, 6), noise(2, 3, 3, 3)
    expected = F.conv2d(features, head.conv.weight[..., None, None] / math.sqrt(8), head.conv.bias)
    expected = F.leaky_relu(expected, 0.2) * math.sqrt(2) + head.bias[:, None, None]
    torch.testing.assert_close(head(features, None), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head(features, frame), expected + BlurUpsample()(frame), rtol=1e-4, atol=1e-5)


def test_logits_become_flow_and_mask():
    logits = 3 * noise(2, 3, 4, 5)
    flow, occlusion_mask = split_logits(logits)
    assert flow.shape == (2, 2, 4, 5) and occlusion_mask.shape == (2, 1, 4, 5)
    torch.testing.assert_close(flow, torch.tanh(logits[:, :2]))
    torch.testing.assert_close(occlusion_mask, 1 / (1 + torch.exp(-logits[:, 2:])))


@pytest.mark.parametrize("with_grad", [True, False])
def test_refine_shows_the_source_where_the_mask_is_one(with_grad):
    hidden_states, warped_features, mask = noise(2, 4, 6, 6), noise(2, 4, 6, 6, seed=1), torch.rand(2, 1, 6, 6)
    expected = warped_features + hidden_states * (1 - mask)
    before = hidden_states.clone()
    with torch.set_grad_enabled(with_grad):
        refined = refine(hidden_states if with_grad else hidden_states.clone(), warped_features, mask)
    torch.testing.assert_close(refined, expected)
    assert torch.equal(hidden_states, before)


# --- one scale ---


@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize("align_corners", [False, True])
def test_generator_block_in_its_stages(align_corners, with_grad):
    torch.manual_seed(0)
    block = randomize(GeneratorBlock(10, 8, LATENT_DIM, align_corners, False))
    hidden_states, latent, features = noise(2, 10, 4, 4), noise(2, LATENT_DIM, seed=1), noise(2, 8, 8, 8, seed=2)
    logits, frame = noise(2, 3, 4, 4, seed=3), noise(2, 3, 4, 4, seed=4)
    with torch.set_grad_enabled(with_grad):
        outputs = block(hidden_states.clone(), latent, features, logits, frame)
    styled = block.conv(block.upsample_conv(hidden_states, latent), latent)
    expected_logits = block.flow_head(styled, latent, logits)
    flow, mask = torch.tanh(expected_logits[:, :2]), torch.sigmoid(expected_logits[:, 2:])
    warped = warp(features, flow, align_corners) * mask
    expected = (styled, warped, expected_logits, flow, mask, block.rgb_head(warped, frame))
    assert len(outputs) == len(expected)
    for output, reference in zip(outputs, expected):
        torch.testing.assert_close(output, reference, rtol=1e-4, atol=1e-5)


# --- all scales ---


@pytest.mark.parametrize("warp_source_image", [False, True])
@pytest.mark.parametrize("with_grad", [True, False])
def test_generator_in_its_stages(with_grad, warp_source_image):
    generator = make_generator(warp_source_image)
    latent, features = noise(2, LATENT_DIM), make_features(2, warp_source_image)
    with torch.set_grad_enabled(with_grad):
        frame, flows, masks = generator(latent, features)
    hidden_states = generator.conv_in(generator.constant.repeat(2, 1, 1, 1), latent)
    logits = expected = None
    for block, scale_features, flow, mask in zip(generator.blocks, features, flows, masks):
        outputs = block(hidden_states, latent, scale_features, logits, expected)
        hidden_states, warped, logits, expected_flow, expected_mask, expected = outputs
        hidden_states = warped + hidden_states * (1 - expected_mask)
        torch.testing.assert_close(flow, expected_flow, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mask, expected_mask, rtol=1e-4, atol=1e-5)
    assert len(flows) == len(masks) == 3 + warp_source_image
    if warp_source_image:
        flow, mask = split_logits(generator.image_flow_head(hidden_states, latent, logits))
        torch.testing.assert_close(flows[-1], flow, rtol=1e-4, atol=1e-5)
        expected = warp(features[-1], flow, False) * mask + expected * (1 - mask)
    torch.testing.assert_close(frame, expected, rtol=1e-4, atol=1e-4)


def test_sizes_of_flows_and_masks():
    frame, flows, masks = make_generator()(noise(2, LATENT_DIM), make_features(2))
    assert frame.shape == (2, 3, 32, 32)
    assert [tuple(flow.shape) for flow in flows] == [(2, 2, size, size) for size in (8, 16, 32)]
    assert [tuple(mask.shape) for mask in masks] == [(2, 1, size, size) for size in (8, 16, 32)]
    assert all(flow.abs().amax() <= 1 for flow in flows)
    assert all(0 <= mask.amin() and mask.amax() <= 1 for mask in masks)


def test_masks_of_zero_hide_the_source():
    generator, latent = make_generator(), noise(2, LATENT_DIM)
    set_flow_heads(generator, [0.0, 0.0, -200.0])
    with torch.no_grad():
        frame, _, masks = generator(latent, make_features(2))
        other_frame = generator(latent, tuple(-features for features in make_features(2)))[0]
    assert not any(mask.any() for mask in masks[:1])
    torch.testing.assert_close(frame[..., 8:-8, 8:-8], other_frame[..., 8:-8, 8:-8], rtol=0, atol=1e-5)


def test_masks_of_one_and_no_flow_leave_only_the_source():
    generator, features = make_generator(align_corners=True), make_features(2)
    set_flow_heads(generator, [0.0, 0.0, 0.0])
    with torch.no_grad():
        for block in generator.blocks:
            block.flow_head.bias.copy_(torch.tensor([0.0, 0.0, 200.0]))
        frame = generator(noise(2, LATENT_DIM), features)[0]
        expected = None
        for block, scale_features in zip(generator.blocks, features):
            expected = block.rgb_head(scale_features, expected)
    torch.testing.assert_close(frame, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("warp_source_image", [False, True])
@pytest.mark.parametrize("num_sources", [1, 5])
@pytest.mark.parametrize("cache_bytes", [1, 2 * 4 * 32 * 32 * 6, 3 * 4 * 16 * 16 * 8])
def test_slices_that_fit_the_caches_change_nothing(monkeypatch, cache_bytes, num_sources, warp_source_image):
    generator, latent = make_generator(warp_source_image), noise(5, LATENT_DIM)
    features = make_features(num_sources, warp_source_image)
    with torch.no_grad():
        expected = generator(latent, features)
        monkeypatch.setattr(flow_generator, "CACHE_BYTES", cache_bytes)
        block, hidden_states = generator.blocks[-1], torch.zeros(5, 8, 16, 16)
        assert generator._num_slices(block, hidden_states) > 1
        sliced = generator(latent, features)
        singles = [
            generator(latent[i : i + 1], features if num_sources == 1 else tuple(f[i : i + 1] for f in features))
            for i in range(5)
        ]
    torch.testing.assert_close(sliced, expected, rtol=1e-3, atol=3e-4)
    torch.testing.assert_close(sliced[0], torch.cat([single[0] for single in singles]), rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize("batch_size", range(1, 12))
def test_every_batch_size_is_sliced_whole(monkeypatch, batch_size):
    generator, latent = make_generator(), noise(batch_size, LATENT_DIM)
    for frames_per_slice in (1, 2, 3, 4, 5):
        monkeypatch.setattr(flow_generator, "CACHE_BYTES", frames_per_slice * 4 * 32 * 32 * 6)
        with torch.no_grad():
            frame, flows, _ = generator(latent, make_features(batch_size))
        assert frame.shape[0] == flows[0].shape[0] == flows[-1].shape[0] == batch_size


def test_training_is_not_sliced(monkeypatch):
    monkeypatch.setattr(flow_generator, "CACHE_BYTES", 1)
    generator = make_generator()
    hidden_states = torch.zeros(5, 12, 4, 4)
    assert generator._num_slices(generator.blocks[0], hidden_states) == 1
    with torch.no_grad():
        assert generator._num_slices(generator.blocks[0], hidden_states) == 5
        assert generator._num_slices(generator.blocks[0], hidden_states.to("meta")) == 1


def test_slices_of_a_pyramid():
    features = make_features(5)
    slices = slice_features(features, 3, 5)
    assert [len(part[0]) for part in slices] == [2, 2, 1]
    for scale, *parts in zip(features, *slices):
        assert torch.equal(torch.cat(parts), scale)
    one = make_features(1)
    assert all(part is one for part in slice_features(one, 3, 5))
