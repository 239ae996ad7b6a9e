import pytest
import torch

from leo_diffusers.metrics import average_l1_distance, average_perceptual_distance


def video(seed: int, num_frames: int = 20) -> torch.Tensor:
    return torch.rand(num_frames, 3, 4, 6, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_l1_counts_pixels_from_0_to_1():
    assert average_l1_distance(-torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4)) == 1
    real, fake = video(0), video(1)
    expected = ((real + 1) / 2 - (fake + 1) / 2).abs().double().mean().item()
    assert average_l1_distance(real, fake) == pytest.approx(expected, rel=1e-6)


def test_what_a_file_could_not_hold_is_cut():
    assert average_l1_distance(torch.ones(1, 3, 2, 2), torch.full((1, 3, 2, 2), 7.0)) == 0


def test_perceptual_distance_is_the_mean_over_all_frames():
    real, fake = video(0), video(1)
    seen = []

    def network(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        seen.append(len(ours))
        return (ours - theirs).square().mean(dim=(1, 2, 3), keepdim=True)  # (B, 1, 1, 1), as of lpips

    expected = (real - fake).square().double().mean().item()
    assert average_perceptual_distance(real, fake, network) == pytest.approx(expected, rel=1e-5)
    assert seen == [16, 4]


@pytest.mark.parametrize(
    ("real", "fake", "message"),
    [
        (torch.zeros(2, 3, 4, 4), torch.zeros(3, 3, 4, 4), "must hold frames of one shape"),
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4), r"`real` must have the shape \(F, 3, H, W\)"),
        (torch.full((2, 3, 4, 4), 255.0), torch.zeros(2, 3, 4, 4), r"`real` must lie in \[-1, 1\], got 255 to 255"),
        (torch.zeros(2, 3, 4, 4), torch.full((2, 3, 4, 4), torch.nan), "`fake` holds 96 values that are NaN"),
    ],
)
def test_bad_input_is_refused(real, fake, message):
    with pytest.raises(ValueError, match=message):
        average_l1_distance(real, fake)


def test_a_network_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="`network` must give one number per frame: 20, got 2"):
        average_perceptual_distance(video(0), video(1), lambda ours, theirs: (ours - theirs).abs().mean())
