import math

import pytest
import torch
import torch.nn.functional as F

from leo_diffusers.models.appearance_encoder import AppearanceEncoder, MotionHead


CHANNELS = (6, 8, 10, 12)  # at 32, 16, 8 and 4 pixels


def make_encoder() -> AppearanceEncoder:
    torch.manual_seed(0)
    return AppearanceEncoder(14, CHANNELS)


def make_head(num_layers: int = 3) -> MotionHead:
    torch.manual_seed(0)
    head = MotionHead(14, 5, num_layers)
    with torch.no_grad():
        for layer in head.layers:
            layer.bias.normal_()
    return head


def test_pyramid_runs_from_8_pixels_to_the_frame(make_frames):
    latent, features = make_encoder()(make_frames(2))
    assert latent.shape == (2, 14)
    assert [tuple(scale.shape) for scale in features] == [(2, 10, 8, 8), (2, 8, 16, 16), (2, 6, 32, 32)]


def test_stages_in_their_order(make_frames):
    encoder, frame = make_encoder(), make_frames(2)
    expected = F.leaky_relu(F.conv2d(frame, encoder.from_rgb.weight / math.sqrt(3), encoder.from_rgb.bias), 0.2)
    latent, features = encoder(frame)
    torch.testing.assert_close(features[-1], expected * math.sqrt(2), rtol=1e-4, atol=1e-5)
    for block, finer, coarser in zip(encoder.blocks, features[::-1], features[::-1][1:]):
        torch.testing.assert_close(block(finer), coarser)
    last = encoder.blocks[-1](features[0])
    weight = encoder.to_latent.weight / math.sqrt(12 * 16)
    torch.testing.assert_close(latent, torch.einsum("bcij,lcij->bl", last, weight), rtol=1e-4, atol=1e-5)


def test_a_batch_equals_its_frames_one_by_one(make_frames):
    encoder, frames = make_encoder(), make_frames(3)
    with torch.no_grad():
        latent, features = encoder(frames)
        singles = [encoder(frame[None]) for frame in frames]
    torch.testing.assert_close(latent, torch.cat([single[0] for single in singles]), rtol=1e-4, atol=1e-5)
    for scale, *single_scales in zip(features, *(single[1] for single in singles)):
        torch.testing.assert_close(scale, torch.cat(single_scales), rtol=1e-4, atol=1e-5)


def test_motion_head_has_no_activations():
    head = make_head()
    latent = torch.randn(4, 14)
    matrix, offset = torch.eye(14), torch.zeros(14)
    for layer in head.layers:
        weight = layer.weight / math.sqrt(14)
        matrix, offset = weight @ matrix, weight @ offset + layer.bias
    torch.testing.assert_close(head(latent), latent @ matrix.T + offset, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_layers", [1, 2, 5])
def test_motion_head_sizes(num_layers):
    head = make_head(num_layers)
    sizes = [(layer.in_features, layer.out_features) for layer in head.layers]
    assert sizes == [(14, 14)] * (num_layers - 1) + [(14, 5)]


def test_motion_head_computes_in_its_own_precision():
    head, latent = make_head(), torch.randn(4, 14).bfloat16()
    assert head(latent).dtype == torch.float32
    torch.testing.assert_close(head(latent), head(latent.float()), rtol=0, atol=0)
