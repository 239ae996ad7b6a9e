import numpy as np
import pytest
import torch

from leo_diffusers import FrameDiscriminator
from leo_diffusers.models.frame_discriminator import minibatch_stddev


def make_discriminator() -> FrameDiscriminator:
    torch.manual_seed(0)
    return FrameDiscriminator(frame_size=32, block_out_channels=(6, 8, 10, 12)).eval()


@pytest.mark.parametrize(("batch_size", "group_size"), [(8, 4), (4, 4), (6, 2), (2, 2), (3, 1), (1, 1)])
def test_minibatch_stddev_against_the_formula(batch_size, group_size):
    hidden_states = torch.randn(batch_size, 5, 4, 4)
    output = minibatch_stddev(hidden_states)
    assert output.shape == (batch_size, 6, 4, 4)
    assert torch.equal(output[:, :5], hidden_states)
    samples = hidden_states.double().numpy()
    for i in range(batch_size):
        first = i // group_size * group_size
        stddev = np.sqrt(samples[first : first + group_size].var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(output[i, 5].numpy(), stddev, rtol=1e-4)


def test_one_logit_per_frame(make_frames):
    logits = make_discriminator()(make_frames(4))
    assert logits.shape == (4,) and torch.isfinite(logits).all()


def test_groups_of_four_do_not_see_each_other(make_frames):
    discriminator, frames = make_discriminator(), make_frames(8)
    changed = frames.clone()
    changed[5] = -changed[5]
    with torch.no_grad():
        before, after = discriminator(frames), discriminator(changed)
    torch.testing.assert_close(after[:4], before[:4], rtol=1e-4, atol=1e-5)
    assert (after[4:] - before[4:]).abs().amin() > 1e-6


def test_every_parameter_learns(make_frames):
    discriminator = make_discriminator().train()
    torch.nn.functional.softplus(discriminator(make_frames(4))).mean().backward()
    assert [name for name, weight in discriminator.named_parameters() if not weight.grad.any()] == []


def test_gradients_reach_the_frame_where_all_frames_are_equal(make_frames):
    frames = make_frames(1).repeat(4, 1, 1, 1).requires_grad_()
    make_discriminator()(frames).sum().backward()  # the slope of a deviation of zero must stay finite
    assert torch.isfinite(frames.grad).all() and frames.grad.any()


def test_save_and_load(tmp_path, make_frames):
    discriminator, frames = make_discriminator(), make_frames(4)
    discriminator.save_pretrained(tmp_path)
    loaded = FrameDiscriminator.from_pretrained(tmp_path)
    assert torch.equal(loaded(frames), discriminator(frames))


def test_defaults_fit_the_paper():
    with torch.device("meta"):
        discriminator = FrameDiscriminator()
        assert discriminator(torch.zeros(2, 3, 256, 256)).shape == (2,)


def test_refuses_channels_that_do_not_fit():
    with pytest.raises(ValueError, match=r"`block_out_channels` must hold a number for each size from 64 .* got 4"):
        FrameDiscriminator(frame_size=64, block_out_channels=(4, 4, 4, 4))
