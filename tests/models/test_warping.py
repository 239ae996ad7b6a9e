import numpy as np
import pytest
import torch

from leo_diffusers.models.warping import flow_between, identity_grid, sample_points, warp


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


# --- single points ---


def pixel_centres(height: int, width: int) -> torch.Tensor:
    """(x, y) of every pixel's centre as shares, row by row, (H * W, 2)."""
    y, x = torch.meshgrid((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def test_points_at_pixel_centres_are_the_pixels():
    features, _ = make_inputs()
    found = sample_points(features, pixel_centres(7, 10).expand(2, -1, -1))
    torch.testing.assert_close(found, features.flatten(2), rtol=0, atol=1e-5)


def test_points_are_x_then_y_and_of_their_own_row():
    features, _ = make_inputs()
    points = torch.tensor([[[3.5 / 10, 1.5 / 7]], [[8.5 / 10, 6.5 / 7]]])
    expected = torch.stack([features[0, :, 1, 3], features[1, :, 6, 8]])[..., None]
    torch.testing.assert_close(sample_points(features, points), expected, rtol=0, atol=1e-5)


def test_points_between_pixels_are_weighed():
    features, _ = make_inputs(1)
    points = torch.tensor([[[3.75 / 10, 1.5 / 7], [3.5 / 10, 2.25 / 7]]])
    across = 0.75 * features[..., 1, 3] + 0.25 * features[..., 1, 4]
    down = 0.25 * features[..., 1, 3] + 0.75 * features[..., 2, 3]
    torch.testing.assert_close(sample_points(features, points), torch.stack([across, down], -1), rtol=0, atol=1e-5)


def test_beyond_the_border_is_the_border():
    features, _ = make_inputs(1)
    points = torch.tensor([[[0.0, 0.0], [-3.0, 0.5 / 7], [1.0, 1.0], [2.5 / 10, 9.0]]])
    expected = torch.stack([features[..., 0, 0], features[..., 0, 0], features[..., 6, 9], features[..., 6, 2]], -1)
    torch.testing.assert_close(sample_points(features, points), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_in_float32(dtype):
    features, _ = make_inputs(1)
    features, points = features.to(dtype), torch.rand(1, 5, 2, generator=torch.Generator().manual_seed(0))
    found = sample_points(features, points)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, sample_points(features.float(), points), rtol=0, atol=0)
    assert sample_points(features, points.to(dtype)).dtype == torch.float32


def test_gradients_reach_what_is_read_at_points():
    features, _ = make_inputs(1)
    features.requires_grad_()
    sample_points(features, torch.tensor([[[3.5 / 10, 1.5 / 7]]])).sum().backward()
    assert features.grad[..., 1, 3].allclose(torch.ones(())) and features.grad.sum().isclose(torch.tensor(3.0))


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [8, 32])
def test_the_flow_between_points_brings_one_to_the_other(size, align_corners):
    target = pixel_centres(size, size)
    turned = (target - 0.5) @ torch.tensor([[0.5, 0.2], [-0.2, 0.5]]) + torch.tensor([0.52, 0.47])  # within the frame
    for source in (target, turned):
        flow = flow_between(source, target, size, align_corners).T.reshape(1, 2, size, size)
        places = target.T.reshape(1, 2, size, size)  # an image whose pixels tell where they are
        found = warp(places, flow, align_corners).flatten(2)[0].T
        torch.testing.assert_close(found, source, rtol=0, atol=1e-5)
