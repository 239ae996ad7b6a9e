"""First frames that are drawn in patches: squares of pixels whose colours are the channels of one."""

import pytest
import torch
import torch.nn.functional as F

from leo_diffusers import LEOInfinitePipeline, LEOPipeline
from leo_diffusers.pipelines.denoising import denoise
from leo_diffusers.pipelines.motion_pipeline import patch_size
from tests.pipelines.conftest import seeded


@pytest.fixture
def make_pipeline(make_full_pipeline, make_first_frame_unet):
    """A pipeline whose first-frame model draws patches of so many pixels."""

    def make(patch: int, sample_size: int, pipeline_class=LEOPipeline) -> LEOPipeline:
        channels = 3 * patch**2
        unet = make_first_frame_unet(sample_size=sample_size, in_channels=channels, out_channels=channels)
        return make_full_pipeline(pipeline_class, first_frame_unet=unet)

    return make


def lay_out(patches: torch.Tensor, patch: int) -> torch.Tensor:
    """(B, 3 p^2, S, S) -> (B, 3, S p, S p), pixel by pixel: colour, then row, then column of the patch."""
    batch_size, _, size, _ = patches.shape
    frames = torch.zeros(batch_size, 3, size * patch, size * patch)
    for channel in range(3 * patch**2):
        color, row, column = channel // patch**2, channel // patch % patch, channel % patch
        frames[:, color, row::patch, column::patch] = patches[:, channel]
    return frames


@pytest.mark.parametrize("patch", [1, 2, 3, 4])
def test_the_channels_tell_the_patch(make_first_frame_unet, patch):
    channels = 3 * patch**2
    unet = make_first_frame_unet(in_channels=channels, out_channels=channels, sample_size=8)
    assert patch_size(unet) == patch


@pytest.mark.parametrize("patch", [1, 2, 4])
def test_training_cuts_frames_as_they_are_laid_out(make_frames, patch):
    frames = make_frames(2)
    assert torch.equal(lay_out(F.pixel_unshuffle(frames, patch), patch), frames)


# The animator's frames have 32 pixels; what is drawn has as many, fewer or more.
@pytest.mark.parametrize(("patch", "sample_size"), [(2, 16), (4, 8), (4, 16), (2, 8), (3, 10)])
@torch.no_grad()
def test_patches_are_laid_out_as_a_frame(make_pipeline, patch, sample_size):
    pipeline, start = make_pipeline(patch, sample_size), torch.randn(2, 8, generator=seeded(1))
    frames = pipeline.draw_first_frames(start, 3, seeded())
    noise = torch.randn(2, 3 * patch**2, sample_size, sample_size, generator=seeded())
    conditions = {"encoder_hidden_states": None, "class_labels": start}
    drawn = lay_out(denoise(pipeline.first_frame_unet, pipeline.first_frame_scheduler, noise, conditions, 3), patch)
    if patch * sample_size != 32:
        drawn = F.interpolate(drawn, (32, 32), mode="bicubic", antialias=True)
    assert frames.shape == (2, 3, 32, 32) and frames.abs().amax() <= 1
    torch.testing.assert_close(frames, drawn.clamp(-1, 1))
    assert (frames[0] - frames[1]).abs().mean() > 1e-3  # the pose is heard


def test_each_generator_draws_its_own_frame(make_pipeline):
    pipeline, start = make_pipeline(4, 8), torch.randn(2, 8, generator=seeded(1))
    together = pipeline.draw_first_frames(start, 2, [seeded(5), seeded(6)])
    for index in range(2):
        alone = pipeline.draw_first_frames(start[index : index + 1], 2, seeded(5 + index))
        torch.testing.assert_close(together[index : index + 1], alone, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("pipeline_class", [LEOPipeline, LEOInfinitePipeline])
def test_video_from_nothing(make_pipeline, pipeline_class):
    pipeline = make_pipeline(4, 8, pipeline_class)
    num_frames = 20 if pipeline_class is LEOInfinitePipeline else 16
    options = {"num_frames": num_frames, "num_inference_steps": 2, "output_type": "pt"}
    frames = pipeline(**options, generator=seeded()).frames
    assert frames.shape == (1, num_frames, 3, 32, 32) and frames.isfinite().all()
    assert torch.equal(pipeline(**options, generator=seeded()).frames, frames)


def test_save_and_load(make_pipeline, tmp_path):
    pipeline = make_pipeline(2, 16)
    pipeline.save_pretrained(tmp_path)
    loaded = LEOPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    start = torch.randn(1, 8, generator=seeded(1))
    frames = [one.draw_first_frames(start, 2, seeded()) for one in (pipeline, loaded)]
    torch.testing.assert_close(*frames, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("in_channels", "out_channels"), [(1, 1), (2, 2), (4, 4), (6, 6), (13, 13), (24, 24), (36, 36), (12, 3), (3, 12)]
)
def test_other_channels_are_refused(make_full_pipeline, make_first_frame_unet, in_channels, out_channels):
    unet = make_first_frame_unet(in_channels=in_channels, out_channels=out_channels, sample_size=8)
    message = rf"must have 3 channels per pixel of a square patch .* got {in_channels}, {out_channels} and 8"
    with pytest.raises(ValueError, match=message):
        make_full_pipeline(first_frame_unet=unet)
