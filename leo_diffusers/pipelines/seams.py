"""How chunks of motion are fitted to each other, and to the range of the training's motion."""

import torch

from ..models.motion_unet_1d import MotionUNet1DModel


def pull_back(motion_codes: torch.Tensor, unet: MotionUNet1DModel, drift_limit: float) -> torch.Tensor:
    r"""
    Bends a chunk so that it ends within the range of the training codes: a ramp from 0 at its first code, which stays.

    Args:
        motion_codes (`torch.Tensor` of shape `(B, L, M)`): One chunk, its given first code included.
        unet ([`MotionUNet1DModel`]): Knows mean and standard deviation of the training codes.
        drift_limit (`float`): Standard deviations from the mean that the last code may have, per direction.

    Returns:
        `torch.Tensor` of shape `(B, L, M)`: Unchanged where the last code lies within the limit.
    """
    statistics = unet.statistics
    last = statistics.standardize(motion_codes[:, -1])
    allowed = statistics.unstandardize(last.clamp(-drift_limit, drift_limit))
    # Rounding would move those within the limit too.
    excess = torch.where(last.abs() > drift_limit, motion_codes[:, -1] - allowed, 0.0)  # (B, M)
    ramp = torch.linspace(0, 1, motion_codes.shape[1], device=motion_codes.device)
    return motion_codes - ramp[:, None] * excess[:, None]


def ease_in(motion_codes: torch.Tensor, past: torch.Tensor, num_frames: int) -> torch.Tensor:
    r"""
    Takes the jump out of the first step of a chunk, so that the velocity across the seam is the mean of those on
    either side of it.

    Args:
        motion_codes (`torch.Tensor` of shape `(B, L, M)`): One chunk, its given first code included.
        past (`torch.Tensor` of shape `(B, n, M)`): The codes that end in this first code; one of them has no velocity.
        num_frames (`int`): Frames over which the correction fades out, at most `L - 3`, so that the last step stays;
            0 leaves the chunk as it is.

    Returns:
        `torch.Tensor` of shape `(B, L, M)`: The chunk, from `num_frames + 1` on unchanged.
    """
    num_frames = min(num_frames, motion_codes.shape[1] - 3)
    if num_frames < 1:
        return motion_codes
    velocity = motion_codes[:, 2] - motion_codes[:, 1]  # (B, M)
    if past.shape[1] > 1:
        velocity = (velocity + past[:, -1] - past[:, -2]) / 2
    jump = motion_codes[:, 1] - motion_codes[:, 0] - velocity
    steps = torch.arange(motion_codes.shape[1], device=motion_codes.device) - 1.0
    fading = 0.5 + 0.5 * torch.cos(torch.pi * steps.clamp(0, num_frames) / num_frames)  # 1 at the first drawn code
    fading[0] = 0  # the given code stays
    return motion_codes - fading[:, None] * jump[:, None]
