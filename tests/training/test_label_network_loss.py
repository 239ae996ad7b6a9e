import pytest
import torch
import torch.nn.functional as F

from leo_diffusers.models.label_network import LabelNetwork
from leo_diffusers.training.perceptual_loss import LabelNetworkLoss, load_perceptual_loss


def make_network() -> LabelNetwork:
    """Random weights and batch statistics, in evaluation."""
    torch.manual_seed(0)
    network = LabelNetwork(
        32, 4, ["yaw", "blink"], ["glasses=round"], [5.0, 0.1, 0.3], [20.0, 0.3, 0.5], block_out_channels=(4, 8, 8)
    )
    network.train()(frames(8, seed=9))
    return network.eval()


def frames(batch_size: int = 2, size: int = 32, seed: int = 0) -> torch.Tensor:
    noise = torch.rand(batch_size, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(noise, size=(size, size), mode="bilinear")


@pytest.fixture(scope="module")
def loss() -> LabelNetworkLoss:
    return LabelNetworkLoss(make_network())


def test_equal_frames_cost_nothing_and_others_something(loss):
    frame, target = frames(), frames(seed=1)
    assert loss(frame, frame) == 0
    assert 1e-3 < loss(frame, 0.8 * frame + 0.2 * target) < loss(frame, target)
    torch.testing.assert_close(loss(frame, target), loss(target, frame))


def test_loss_against_its_formula(loss):
    frame, target = frames(), frames(seed=1)
    expected = 0.0
    for ours, theirs in ((frame, target), (F.avg_pool2d(frame, 2), F.avg_pool2d(target, 2))):
        for level in loss.network.levels:
            ours, theirs = level(ours), level(theirs)
            expected = expected + (ours - theirs).abs().mean()
    torch.testing.assert_close(loss(frame, target), expected)


def test_frames_of_any_size_have_a_distance(loss):
    assert all(loss(frames(2, size), frames(2, size, seed=1)) > 0 for size in (16, 32, 64))


def test_gradients_flow_to_the_rendered_frame_alone(loss):
    frame, target = frames().requires_grad_(), frames(seed=1).requires_grad_()
    loss(frame, target).backward()
    assert frame.grad.isfinite().all() and (frame.grad != 0).float().mean() > 0.9
    assert target.grad is None
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in loss.parameters())


def test_training_wakes_nothing(loss):
    before = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    expected = loss(frames(), frames(seed=1))
    assert loss.train() is loss
    assert not any(module.training for module in loss.modules())
    assert torch.equal(loss(frames(), frames(seed=1)), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in loss.state_dict().items())


def test_it_is_loaded_from_its_folder(loss, tmp_path):
    loss.network.save_pretrained(tmp_path)
    loaded, name = load_perceptual_loss("labels", label_network=tmp_path)
    assert name == "labels"
    assert torch.equal(loaded(frames(), frames(seed=1)), loss(frames(), frames(seed=1)))


def test_it_needs_a_network():
    with pytest.raises(ValueError, match="`label_network` must name a folder for the loss of labels, got None"):
        load_perceptual_loss("labels")
