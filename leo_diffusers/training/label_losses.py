"""Supervision by labels, beyond the papers: what the renderer knows of a frame teaches flow, codes and small parts."""

import torch

from ..models.warping import flow_between, sample_points


REGION_MARGIN = 0.35  # added to a box around a group of keypoints, as a share of the box's larger side


def keypoint_flow_loss(
    flows: tuple[torch.Tensor, ...],
    source_keypoints: torch.Tensor,
    target_keypoints: torch.Tensor,
    align_corners: bool,
) -> torch.Tensor:
    r"""
    L1 distance between the flow at the target's keypoints and the way back to the source's, over all scales.

    Args:
        flows (`tuple[torch.Tensor, ...]`): Flow maps `(B, 2, R, R)`, (x, y) in grid units.
        source_keypoints (`torch.Tensor` of shape `(B, K, 2)`): Shares of the frame.
        target_keypoints (`torch.Tensor` of shape `(B, K, 2)`): Shares of the frame.
        align_corners (`bool`): The animator's, see [`~models.warping.warp`].

    Returns:
        `torch.Tensor`: Scalar, grid units: 2 spans the frame.
    """
    # Points beyond the frame have no flow.
    visible = ((target_keypoints > 0) & (target_keypoints < 1)).all(dim=-1)[:, None]  # (B, 1, K)
    losses = []
    for flow in flows:
        found = sample_points(flow, target_keypoints)  # (B, 2, K)
        wanted = flow_between(source_keypoints, target_keypoints, flow.shape[-1], align_corners).transpose(1, 2)
        losses.append(((found - wanted).abs() * visible).sum() / (2 * visible.sum().clamp(min=1)))
    return torch.stack(losses).mean()


def region_mask(keypoints: torch.Tensor, groups: list[list[int]], size: int) -> torch.Tensor:
    r"""
    Boxes around groups of keypoints, such as mouth and eyes.

    Args:
        keypoints (`torch.Tensor` of shape `(B, K, 2)`): Shares of the frame.
        groups (`list[list[int]]`): Indices of the keypoints of each box.
        size (`int`): Height and width of the frames, pixels.

    Returns:
        `torch.Tensor` of shape `(B, 1, size, size)`: 1 within a box, 0 elsewhere.
    """
    centres = (torch.arange(size, device=keypoints.device) + 0.5) / size
    mask = torch.zeros(len(keypoints), size, size, dtype=torch.bool, device=keypoints.device)
    for group in groups:
        low, high = keypoints[:, group].amin(dim=1), keypoints[:, group].amax(dim=1)  # (B, 2)
        margin = REGION_MARGIN * (high - low).amax(dim=1, keepdim=True)
        low, high = (low - margin)[..., None], (high + margin)[..., None]
        inside = (centres >= low) & (centres <= high)  # (B, 2, size)
        mask |= inside[:, 0, None, :] & inside[:, 1, :, None]
    return mask[:, None].float()
