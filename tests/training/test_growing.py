import pytest
import torch
import torch.nn.functional as F

from leo_diffusers import LIAModel, LIAPipeline
from leo_diffusers.data.talking_heads import render_clip
from leo_diffusers.models.style_blocks import Blur, BlurUpsample
from leo_diffusers.models.warping import warp
from leo_diffusers.training.growing import grow_animator, paper_channels


OLD_CHANNELS = (16, 16, 32, 32)  # of the fixture, from 32 pixels down
# One doubling, three to narrow layers and back, and none.
GROWTHS = {64: (8, *OLD_CHANNELS), 256: (6, 20, 7, *OLD_CHANNELS), 32: OLD_CHANNELS}


def grow(animator: LIAModel, frame_size: int, warp_source_image: bool = True) -> LIAModel:
    torch.manual_seed(1)
    return grow_animator(animator, frame_size, warp_source_image, GROWTHS[frame_size])


def draw_frames(frame_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise far beyond [-1, 1], up to the borders: a source and a driving frame, twice."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2, 2, 3, frame_size, frame_size, generator=generator).unbind()


def shrink(frame: torch.Tensor) -> torch.Tensor:
    """To the 32 pixels of the fixture."""
    while frame.shape[-1] > 32:
        frame = Blur(padding=1, stride=2)(frame)
    return frame


def enlarge(frame: torch.Tensor, frame_size: int) -> torch.Tensor:
    while frame.shape[-1] < frame_size:
        frame = BlurUpsample()(frame)
    return frame


@pytest.mark.parametrize("frame_size", GROWTHS)
@torch.no_grad()
def test_a_grown_encoder_sees_the_halved_frame(animator, frame_size):
    frame, _ = draw_frames(frame_size)
    source = grow(animator, frame_size).encode_source(frame)
    expected = animator.encode_source(shrink(frame))
    torch.testing.assert_close(source.latent, expected.latent, rtol=0, atol=2e-6)
    torch.testing.assert_close(source.motion_code, expected.motion_code, rtol=0, atol=2e-6)
    for features, expected_features in zip(source.features, expected.features):  # and more, at sizes of its own
        torch.testing.assert_close(features, expected_features, rtol=0, atol=5e-6)
    assert [features.shape[1] for features in source.features] == [*reversed(GROWTHS[frame_size][:-1]), 3]


@pytest.mark.parametrize("frame_size", [64, 256])
@torch.no_grad()
def test_a_grown_generator_shows_the_doubled_frame(animator, frame_size):
    frames = draw_frames(frame_size)
    output = grow(animator, frame_size, warp_source_image=False)(*frames)
    expected = animator(*map(shrink, frames))
    torch.testing.assert_close(output.sample, enlarge(expected.sample, frame_size), rtol=0, atol=5e-6)
    for flow, expected_flow in zip(output.flows, expected.flows):
        torch.testing.assert_close(flow, expected_flow, rtol=0, atol=2e-6)


@pytest.mark.parametrize("inpaint_rgb", [False, True])
@pytest.mark.parametrize("frame_size", GROWTHS)
@torch.no_grad()
def test_the_warped_source_hardly_shows_at_first(make_animator, frame_size, inpaint_rgb):
    animator = make_animator(inpaint_rgb=inpaint_rgb)
    frames = draw_frames(frame_size)
    output = grow(animator, frame_size)(*frames)
    mask = output.occlusion_masks[-1]
    # Four less than the logit below, which is the mask of the features.
    torch.testing.assert_close(mask.logit(), output.occlusion_masks[-2].logit() - 4, rtol=0, atol=1e-3)
    assert 0.01 < mask.min() and mask.max() < 0.025
    frame = enlarge(animator(*map(shrink, frames)).sample, frame_size)
    warped_source = warp(frames[0], output.flows[-1], align_corners=False)
    expected = warped_source * mask + frame * (1 - mask)
    torch.testing.assert_close(output.sample, expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("inpaint_rgb", [False, True])
@pytest.mark.parametrize("warp_source_image", [False, True])
@pytest.mark.parametrize("frame_size", [64, 256])
def test_what_is_new_learns(make_animator, frame_size, warp_source_image, inpaint_rgb):
    grown = grow(make_animator(inpaint_rgb=inpaint_rgb), frame_size, warp_source_image)
    optimizer = torch.optim.Adam(grown.parameters(), lr=2e-3, betas=(0.0, 0.99))
    source_frame, driving_frame = draw_frames(frame_size)
    learns = {name: torch.zeros_like(parameter, dtype=torch.bool) for name, parameter in grown.named_parameters()}
    for _ in range(4):
        optimizer.zero_grad()
        F.l1_loss(grown(source_frame, driving_frame).sample, driving_frame).backward()
        for name, parameter in grown.named_parameters():
            learns[name] |= parameter.grad != 0
        optimizer.step()
    # Each single number of each layer, new or shared, those included that had no part in the first frame.
    assert not [name for name, is_learning in learns.items() if not is_learning.all()]


@pytest.mark.parametrize(
    "config", [{"motion_basis": "none", "motion_dim": 32}, {"align_corners": True}, {"inpaint_rgb": True}]
)
@torch.no_grad()
def test_the_rest_of_the_architecture_stays(make_animator, config):
    animator = make_animator(**config)
    before = {name: tensor.clone() for name, tensor in animator.state_dict().items()}
    grown = grow(animator, 64, warp_source_image=False)
    changed = {"frame_size": 64, "block_out_channels": GROWTHS[64], "warp_source_image": False}
    public = {name: value for name, value in animator.config.items() if not name.startswith("_")}
    assert {name: grown.config[name] for name in public} == {**public, **changed}
    frames = draw_frames(64)
    expected = enlarge(animator(*map(shrink, frames)).sample, 64)
    torch.testing.assert_close(grown(*frames).sample, expected, rtol=0, atol=5e-6)
    after = animator.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_new_sizes_take_the_papers_channels(make_animator):
    assert paper_channels(256) == (64, 128, 256, 512, 512, 512, 512)
    assert paper_channels(1024)[:2] == (16, 32)
    animator = make_animator(frame_size=256, block_out_channels=(8, 8, 8, 8, 8, 8, 8))
    grown = grow_animator(animator, 1024, warp_source_image=True)
    assert grown.config.block_out_channels == (16, 32, 8, 8, 8, 8, 8, 8, 8)


@torch.no_grad()
def test_a_grown_animator_animates(animator, tmp_path):
    LIAPipeline(grow(animator, 64)).save_pretrained(tmp_path)
    pipeline = LIAPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    assert pipeline.animator.config.warp_source_image
    clip = render_clip(0, 0, 5, 64).frames
    output = pipeline(clip[0], clip, output_type="pt")
    assert output.frames.shape == (1, 5, 3, 64, 64)
    source, driving = (torch.from_numpy(frames).movedim(-1, -3) / 127.5 - 1 for frames in (clip[:1], clip))
    expected = grow(animator, 64)(source.expand_as(driving), driving).sample
    # Relative motion from the source itself is absolute motion.
    torch.testing.assert_close(output.frames[0], (expected / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((16, True), "`frame_size` must be above the animator's 32, got 16"),
        ((32, False), "`frame_size` must be above the animator's 32, got 32: .* add `warp_source_image` at 32"),
        ((48, False), "`frame_size` must be a power of two from 32 to 1024, got 48"),
        ((2048, False), "`frame_size` must be a power of two from 32 to 1024, got 2048"),
        ((64, False, (8, 16, 16, 32)), r"must end in the animator's \(16, 16, 32, 32\), got \(8, 16, 16, 32\)"),
        ((32, False, (8, 16, 32, 32)), r"must end in the animator's \(16, 16, 32, 32\), got \(8, 16, 32, 32\)"),
        ((64, False, (8, 8, *OLD_CHANNELS)), "`block_out_channels` must hold 5 numbers"),
        ((64, False, (5, *OLD_CHANNELS)), r"must be at least 6 at new sizes, got \(5,\)"),
    ],
)
def test_what_cannot_grow_is_refused(animator, arguments, message):
    with pytest.raises(ValueError, match=message):
        grow_animator(animator, *arguments)


def test_a_warped_source_image_does_not_grow(make_animator):
    with pytest.raises(ValueError, match="warps its source image at 32 pixels.*trained without `warp_source_image`"):
        grow_animator(make_animator(warp_source_image=True), 64, True)
