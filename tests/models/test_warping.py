import numpy as np
import pytest
import torch

from leo_diffusers.models.warping import identity_grid, warp


def sample_bilinear(image: np.ndarray, flow: np.ndarray, align_corners: bool) -> np.ndarray:
    """Pixel by pixel: where does (x, y) + flow lie, and what do its four neighbours say? Outside is zero."""
    channels, height, width = image.shape
    result = np.zeros((channels, height, width))
    for row in range(height):
        for column in range(width):
            x = -1 + 2 * column / (width - 1) + flow[0, row, column]
            y = -1 + 2 * row / (height - 1) + flow[1, row, column]
            if align_corners:
                x, y = (x + 1) / 2 * (width - 1), (y + 1) / 2 * (height - 1)
            else:
                x, y = ((x + 1) * width - 1) / 2, ((y + 1) * height - 1) / 2
            left, top = int(np.floor(x)), int(np.floor(y))
            for j, weight_y in ((top, top + 1 - y), (top + 1, y - top)):
                for i, weight_x in ((left, left + 1 - x), (left + 1, x - left)):
                    if 0 <= j < height and 0 <= i < width:
                        result[:, row, column] += weight_y * weight_x * image[:, j, i]
    return result


def make_inputs(batch_size: int = 2, height: int = 7, width: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch_size, 3, height, width, generator=generator)
    flow = 1.5 * torch.rand(batch_size, 2, height, width, generator=generator) - 0.75  # some of it leaves the frame
    return features, flow


def test_the_grid_is_x_then_y_from_corner_to_corner():
    grid = identity_grid(3, 5)
    assert grid.shape == (2, 3, 5) and grid.dtype == torch.float32
    torch.testing.assert_close(grid[0], torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]).expand(3, 5))
    torch.testing.assert_close(grid[1], torch.tensor([[-1.0], [0.0], [1.0]]).expand(3, 5))


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (64, 64)])
def test_zero_flow_is_the_identity_where_corners_align(size):
    features, _ = make_inputs(2, *size)
    torch.testing.assert_close(warp(features, torch.zeros(2, 2, *size), True), features, rtol=1e-4, atol=1e-4)


def test_zero_flow_is_not_quite_the_identity_where_they_do_not():
    features, _ = make_inputs(2, 8, 8)
    moved = (warp(features, torch.zeros(2, 2, 8, 8), False) - features).abs()
    assert moved.amax() > 0.1  # half a pixel at the corners


@pytest.mark.parametrize("align_corners", [True, False])
def test_bilinear_sampling_by_hand(align_corners):
    features, flow = make_inputs()
    expected = [sample_bilinear(f, s, align_corners) for f, s in zip(features.numpy(), flow.numpy())]
    torch.testing.assert_close(
        warp(features, flow, align_corners), torch.tensor(np.stack(expected)).float(), rtol=1e-4, atol=1e-5
    )


def test_flow_points_to_where_a_pixel_comes_from():
    features, _ = make_inputs()
    flow = torch.zeros(2, 2, 7, 10)
    flow[:, 0] = 2 / 9  # one pixel in x
    warped = warp(features, flow, True)
    torch.testing.assert_close(warped[..., :-1], features[..., 1:], rtol=1e-4, atol=1e-4)
    flow = torch.zeros(2, 2, 7, 10)
    flow[:, 1] = 2 / 6  # one pixel in y
    warped = warp(features, flow, True)
    torch.testing.assert_close(warped[..., :-1, :], features[..., 1:, :], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("align_corners", [True, False])
def test_outside_of_the_frame_is_zero(align_corners):
    features, flow = make_inputs()
    assert not warp(features, torch.full_like(flow, 2.5), align_corners).any()


@pytest.mark.parametrize("align_corners", [True, False])
def test_one_row_of_features_serves_a_batch(align_corners):
    features, flow = make_inputs(3)
    expected = torch.cat([warp(features[:1], one[None], align_corners) for one in flow])
    torch.testing.assert_close(warp(features[:1], flow, align_corners), expected, rtol=0, atol=0)


def test_positions_are_float32_whatever_the_flow_is():
    features, flow = make_inputs()
    flow = flow.bfloat16()
    warped = warp(features, flow, True)
    assert warped.dtype == torch.float32
    torch.testing.assert_close(warped, warp(features, flow.float(), True), rtol=0, atol=0)


def test_gradients_reach_features_and_flow():
    features, flow = (tensor.double().requires_grad_() for tensor in make_inputs(1, 3, 4))
    warp(features.float(), flow.float(), True).square().sum().backward()
    assert features.grad.abs().sum() > 0 and flow.grad.abs().sum() > 0
