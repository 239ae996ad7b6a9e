"""Where a pixel comes from: identity grid and warp of LIA (Sec. III-B); the only `grid_sample` of the package."""

import torch
import torch.nn.functional as F


def identity_grid(height: int, width: int, device: torch.device | str | None = None) -> torch.Tensor:
    r"""
    Sampling positions that leave an image where it is, before any flow is added.

    Args:
        height (`int`): Number of rows, pixels.
        width (`int`): Number of columns, pixels.
        device (`torch.device`, *optional*): Where the grid is made.

    Returns:
        `torch.Tensor` of shape `(2, height, width)`: float32, x then y, from -1 to 1.
    """
    x = torch.linspace(-1, 1, width, device=device, dtype=torch.float32)
    y = torch.linspace(-1, 1, height, device=device, dtype=torch.float32)
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])


def warp(features: torch.Tensor, flow: torch.Tensor, align_corners: bool) -> torch.Tensor:
    r"""
    Samples `features` at the identity grid plus `flow`: the operator T of LIA Eq. 5. Outside of the frame is zero.

    Args:
        features (`torch.Tensor` of shape `(B, C, H, W)` or `(1, C, H, W)`): float32; one row serves a whole batch of
            flows.
        flow (`torch.Tensor` of shape `(B, 2, H, W)`): Backward shift (x, y) in grid units, -1 to 1 spans the frame.
        align_corners (`bool`): Whether -1 and 1 are the centres of the corner pixels. Then zero flow is the identity;
            otherwise they are the frame's borders while the grid still ends on them, as in LIA's released networks.

    Returns:
        `torch.Tensor` of shape `(B, C, H, W)`, float32.
    """
    # Half precision has too few digits for a position: at 256 pixels bfloat16 would round it to half a pixel.
    grid = flow.float() + identity_grid(flow.shape[-2], flow.shape[-1], device=flow.device)
    source = features.expand(flow.shape[0], -1, -1, -1)
    return F.grid_sample(
        source, grid.permute(0, 2, 3, 1), mode="bilinear", padding_mode="zeros", align_corners=align_corners
    )


def sample_points(features: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    r"""
    Reads `features` at single points, bilinearly; beyond the border the border's value.

    Args:
        features (`torch.Tensor` of shape `(B, C, H, W)`): Of any float dtype.
        points (`torch.Tensor` of shape `(B, K, 2)`): (x, y) as shares of width and height, from 0 to 1.

    Returns:
        `torch.Tensor` of shape `(B, C, K)`, float32.
    """
    grid = 2 * points[:, None].float() - 1  # (B, 1, K, 2)
    return F.grid_sample(features.float(), grid, padding_mode="border", align_corners=False)[:, :, 0]


def flow_between(
    source_points: torch.Tensor, target_points: torch.Tensor, size: int, align_corners: bool
) -> torch.Tensor:
    r"""
    The flow at target points by which [`warp`] shows there what the source has at its points.

    Args:
        source_points (`torch.Tensor` of shape `(..., 2)`): (x, y) as shares of width and height.
        target_points (`torch.Tensor` of shape `(..., 2)`): Likewise.
        size (`int`): Height and width of the flow map, pixels.
        align_corners (`bool`): See [`warp`].

    Returns:
        `torch.Tensor` of shape `(..., 2)`: Grid units.
    """

    def on_identity_grid(points: torch.Tensor) -> torch.Tensor:
        return 2 * (points * size - 0.5) / (size - 1) - 1

    source = on_identity_grid(source_points) if align_corners else 2 * source_points - 1
    return source - on_identity_grid(target_points)
