import pytest
import torch

from leo_diffusers.models.warping import flow_between, warp
from leo_diffusers.training.label_losses import REGION_MARGIN, keypoint_flow_loss, region_mask


SIZES = (8, 16, 32)
BATCH, NUM_KEYPOINTS = 2, 6


def random_points(seed: int = 0, low: float = 0.1, high: float = 0.9) -> torch.Tensor:
    points = torch.rand(BATCH, NUM_KEYPOINTS, 2, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * points


def flat_flows(x: float, y: float) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([x, y])[:, None, None].expand(BATCH, 2, size, size) for size in SIZES)


def moved(points: torch.Tensor, turn: float = 0.0) -> torch.Tensor:
    """Where points are after the same turn about the middle and the same shift."""
    matrix = torch.tensor([[1.0, turn], [-turn, 1.0]])
    return (points - 0.5) @ matrix + torch.tensor([0.53, 0.46])


def exact_flows(align_corners: bool, turn: float = 0.0) -> tuple[torch.Tensor, ...]:
    """The flow of every pixel to where `moved` says that it comes from."""
    flows = []
    for size in SIZES:
        centres = (torch.arange(size) + 0.5) / size
        target = torch.stack(torch.meshgrid(centres, centres, indexing="xy"), dim=-1)
        flow = flow_between(moved(target, turn), target, size, align_corners)
        flows.append(flow.permute(2, 0, 1).expand(BATCH, -1, -1, -1))
    return tuple(flows)


# --- the way back to the source ---


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("turn", [0.0, 0.2])
def test_the_true_flow_costs_nothing_at_any_scale(turn, align_corners):
    target = random_points()
    flows = exact_flows(align_corners, turn)
    for flow in (*((flow,) for flow in flows), flows):
        assert keypoint_flow_loss(flow, moved(target, turn), target, align_corners) < 1e-5
    # The other way, and to somewhere else.
    assert keypoint_flow_loss(flows, 2 * target - moved(target, turn), target, align_corners) > 0.05
    assert keypoint_flow_loss(flows, random_points(1), target, align_corners) > 0.05


def test_a_flow_that_warps_a_dot_to_its_place_costs_nothing():
    size = 32
    source, target = torch.tensor([[[20.5, 9.5]]]) / size, torch.tensor([[[12.5, 14.5]]]) / size
    frame = torch.zeros(1, 1, size, size)
    frame[..., 9, 20] = 1.0
    flow = torch.zeros(1, 2, size, size)
    flow[:, 0], flow[:, 1] = 8 * 2 / (size - 1), -5 * 2 / (size - 1)  # by pixels, as its centre lies on the grid
    assert warp(frame, flow, True)[0, 0, 14, 12] > 0.999
    assert keypoint_flow_loss((flow,), source, target, True) < 1e-6


def test_without_motion_zero_flow_costs_nothing_where_corners_align():
    points = random_points()
    assert keypoint_flow_loss(flat_flows(0.0, 0.0), points, points, True) < 1e-6
    half_a_pixel = keypoint_flow_loss(flat_flows(0.0, 0.0)[:1], points, points, False)
    assert 0.01 < half_a_pixel < 1 / 8  # there zero flow moves what is off the middle, see `warp`


def test_the_loss_is_the_distance_in_grid_units():
    points = random_points()
    assert keypoint_flow_loss(flat_flows(0.3, 0.0), points, points, True).item() == pytest.approx(0.15)
    assert keypoint_flow_loss(flat_flows(0.3, -0.5), points, points, True).item() == pytest.approx(0.4)


def test_points_outside_are_ignored():
    target = random_points()
    source, flows = moved(target), exact_flows(True)
    target[0, 0], target[1, 2] = torch.tensor([1.2, 0.5]), torch.tensor([0.5, -0.1])
    source[0, 0], source[1, 2] = 7.0, 7.0
    assert keypoint_flow_loss(flows, source, target, True) < 1e-5
    target[0, 1] += 0.05  # one of the ten inside is off
    expected = sum(0.1 * size / (size - 1) for size in SIZES) / len(SIZES) / 10
    assert keypoint_flow_loss(flows, source, target, True).item() == pytest.approx(expected, rel=1e-3)


def test_a_frame_without_visible_points_costs_nothing():
    flows = tuple(flow.clone().requires_grad_() for flow in flat_flows(0.5, 0.5))
    loss = keypoint_flow_loss(flows, random_points(), random_points() + 2, True)
    loss.backward()
    assert loss == 0 and not any(flow.grad.any() for flow in flows)


def test_gradients_pull_the_flow_to_the_keypoints():
    target = torch.tensor([[[0.5, 0.25]]])
    flow = torch.zeros(1, 2, 8, 8, requires_grad=True)
    keypoint_flow_loss((flow,), target + 0.1, target, True).backward()
    pulled = (-flow.grad > 0).nonzero()[:, 2:].unique(dim=0).tolist()
    assert pulled == [[1, 3], [1, 4], [2, 3], [2, 4]]  # the pixels around the point
    assert not (flow.grad > 0).any()


# --- boxes ---


def inside(mask: torch.Tensor) -> tuple[int, int, int, int]:
    """Rows and columns of the one box of a mask (1, S, S): first and last."""
    rows, columns = mask[0].any(dim=1).nonzero()[:, 0], mask[0].any(dim=0).nonzero()[:, 0]
    box = rows[0].item(), rows[-1].item(), columns[0].item(), columns[-1].item()
    assert mask[0, box[0] : box[1] + 1, box[2] : box[3] + 1].all()
    return box


def test_boxes_hold_their_keypoints_and_a_margin():
    keypoints = torch.tensor([[[0.4, 0.5], [0.6, 0.5], [0.5, 0.55], [0.0, 0.0]]])
    mask = region_mask(keypoints, [[0, 1, 2]], 100)
    assert mask.shape == (1, 1, 100, 100) and set(mask.unique().tolist()) == {0.0, 1.0}
    margin = REGION_MARGIN * 0.2  # of the larger side, all around
    assert margin == pytest.approx(0.07)
    assert inside(mask[0]) == (43, 61, 33, 66)


def test_regions_are_joined_and_each_sample_has_its_own():
    keypoints = torch.tensor(
        [[[0.2, 0.2], [0.3, 0.3], [0.7, 0.6], [0.8, 0.7]], [[0.1, 0.8], [0.2, 0.9], [0.5, 0.5], [0.7, 0.5]]]
    )
    both = region_mask(keypoints, [[0, 1], [2, 3]], 50)
    single = [region_mask(keypoints, [group], 50) for group in ([0, 1], [2, 3])]
    assert torch.equal(both, torch.maximum(*single)) and not torch.equal(both[0], both[1])
    assert all(torch.equal(both[i : i + 1], region_mask(keypoints[i : i + 1], [[0, 1], [2, 3]], 50)) for i in range(2))
    assert not region_mask(keypoints, [], 50).any()


def test_boxes_end_at_the_frame():
    keypoints = torch.tensor([[[-0.2, 0.1], [0.2, 0.3]], [[2.0, 2.0], [3.0, 3.0]]])
    mask = region_mask(keypoints, [[0, 1]], 10)
    assert inside(mask[0]) == (0, 3, 0, 2)
    assert not mask[1].any()


def test_boxes_cover_the_same_part_at_any_size():
    small, large = (region_mask(random_points(), [[0, 1, 2]], size) for size in (64, 128))
    halved = torch.nn.functional.avg_pool2d(large, 2)
    assert ((halved - small).abs() < 1).all()  # they differ by half a pixel at most, along the rim
    assert (halved != small).float().mean() < 0.05
