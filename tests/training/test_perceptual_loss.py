import logging
import urllib.request

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from leo_diffusers.models.label_network import LabelNetwork
from leo_diffusers.training.perceptual_loss import (
    VGG19_URL,
    LabelNetworkLoss,
    SSIMPyramidLoss,
    VGG19Loss,
    load_perceptual_loss,
    pyramid,
    structural_similarity,
)


# torchvision's vgg19().features up to relu5_1: layer number -> channels of the convolution
CONVOLUTIONS = {
    0: (64, 3),
    2: (64, 64),
    5: (128, 64),
    7: (128, 128),
    10: (256, 128),
    12: (256, 256),
    14: (256, 256),
    16: (256, 256),
    19: (512, 256),
    21: (512, 512),
    23: (512, 512),
    25: (512, 512),
    28: (512, 512),
}
# convolutions between two poolings, as far as relu5_1
STAGES = [(0, 2), (5, 7), (10, 12, 14, 16), (19, 21, 23, 25), (28,)]


@pytest.fixture(scope="module")
def vgg_weights() -> dict[str, torch.Tensor]:
    """Random weights with the names and shapes of torchvision's VGG19, its classifier's shapes apart."""
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for index, (channels, in_channels) in [*CONVOLUTIONS.items(), (30, (512, 512)), (32, (512, 512))]:
        scale = (2 / (9 * in_channels)) ** 0.5
        weights[f"features.{index}.weight"] = scale * torch.randn(channels, in_channels, 3, 3, generator=generator)
        weights[f"features.{index}.bias"] = 0.1 * torch.randn(channels, generator=generator)
    for index in (0, 3, 6):
        weights[f"classifier.{index}.weight"] = torch.zeros(4, 4)
        weights[f"classifier.{index}.bias"] = torch.zeros(4)
    return weights


@pytest.fixture(scope="module")
def vgg_file(vgg_weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(vgg_weights, path)
    return path


@pytest.fixture(scope="module")
def vgg_loss(vgg_file) -> VGG19Loss:
    return VGG19Loss.from_weights(vgg_file)


def smooth_frames(batch_size: int, size: int, seed: int) -> torch.Tensor:
    noise = torch.rand(batch_size, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(noise, size=(size, size), mode="bilinear")


# --- pyramid ---


@pytest.mark.parametrize(
    ("size", "sizes"), [(256, [256, 128, 64, 32]), (64, [64, 32, 16, 8]), (32, [32, 16, 8]), (8, [8])]
)
def test_pyramid_halves_by_averaging(size, sizes):
    frames = torch.rand(2, 3, size, size)
    scales = pyramid(frames)
    assert [scale.shape for scale in scales] == [(2, 3, s, s) for s in sizes]
    for scale, s in zip(scales, sizes):
        factor = size // s
        blocks = frames.unflatten(2, (s, factor)).unflatten(4, (s, factor)).mean(dim=(3, 5))
        torch.testing.assert_close(scale, blocks)


# --- VGG19 ---


def test_vgg_has_torchvisions_names_and_shapes():
    expected = {}
    for index, (channels, in_channels) in CONVOLUTIONS.items():
        expected |= {f"features.{index}.weight": (channels, in_channels, 3, 3), f"features.{index}.bias": (channels,)}
    state_dict = VGG19Loss().state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state_dict.items()} == expected


def reference_taps(frames: torch.Tensor, weights: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """relu1_1, relu2_1, relu3_1, relu4_1, relu5_1 on frames normalised as ImageNet's."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    hidden_states = ((frames.permute(0, 2, 3, 1) * 0.5 + 0.5 - mean) / std).permute(0, 3, 1, 2)
    taps = []
    for stage in STAGES:
        if taps:
            hidden_states = F.max_pool2d(hidden_states, 2)
        for index in stage:
            weight, bias = weights[f"features.{index}.weight"], weights[f"features.{index}.bias"]
            hidden_states = F.relu(F.conv2d(hidden_states, weight, bias, padding=1))
            if index == stage[0]:
                taps.append(hidden_states)
    return taps


def test_taps_are_the_first_rectifiers_of_each_resolution(vgg_loss, vgg_weights):
    frames = smooth_frames(2, 32, 0)
    taps, expected = vgg_loss.tap_features(frames), reference_taps(frames, vgg_weights)
    assert [tap.shape[1:] for tap in taps] == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2)]
    for tap, reference in zip(taps, expected, strict=True):
        torch.testing.assert_close(tap, reference, rtol=1e-3, atol=1e-4)
        assert tap.min() == 0


def test_vgg_loss_adds_layers_and_scales(vgg_loss, vgg_weights):
    frame, target = smooth_frames(2, 64, 0), smooth_frames(2, 64, 1)
    expected = 0
    for factor in (1, 2, 4):
        ours, theirs = F.avg_pool2d(frame, factor), F.avg_pool2d(target, factor)
        for tap, target_tap in zip(reference_taps(ours, vgg_weights), reference_taps(theirs, vgg_weights)):
            expected += (tap - target_tap).abs().mean()
    # At 8 pixels relu5_1 has no pixel left: four layers.
    ours, theirs = F.avg_pool2d(frame, 8), F.avg_pool2d(target, 8)
    for tap, target_tap in zip(vgg_loss.tap_features(ours), vgg_loss.tap_features(theirs)):
        expected += (tap - target_tap).abs().mean()
    torch.testing.assert_close(vgg_loss(frame, target), expected, rtol=1e-3, atol=1e-4)
    assert len(vgg_loss.tap_features(ours)) == 4


def test_missing_weights_and_other_files_are_refused(vgg_weights, tmp_path):
    incomplete = {key: tensor for key, tensor in vgg_weights.items() if key != "features.16.bias"}
    torch.save(incomplete, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth does not hold VGG19's weights: features\.16\.bias"):
        VGG19Loss.from_weights(tmp_path / "other.pth")
    with pytest.raises(FileNotFoundError, match=r"missing\.pth"):
        VGG19Loss.from_weights(tmp_path / "missing.pth")


def test_a_file_that_holds_no_weights_is_refused(tmp_path):
    # What a download often leaves: the page that says why there is no file.
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html><body>403 Forbidden</body></html>")
    with pytest.raises(ValueError, match=r"page\.pth"):
        VGG19Loss.from_weights(tmp_path / "page.pth")


# --- both losses ---


@pytest.fixture(params=["vgg19", "ssim"])
def perceptual_loss(request, vgg_loss):
    return vgg_loss if request.param == "vgg19" else SSIMPyramidLoss()


@pytest.mark.parametrize("size", [64, 32])
def test_equal_frames_cost_nothing_and_others_something(perceptual_loss, size):
    frame, target = smooth_frames(2, size, 0), smooth_frames(2, size, 1)
    assert perceptual_loss(frame, frame).item() == pytest.approx(0, abs=1e-5)
    near = perceptual_loss(frame, 0.8 * frame + 0.2 * target)
    assert 1e-3 < near < perceptual_loss(frame, target)


def test_gradients_flow_to_the_rendered_frame_alone(perceptual_loss):
    frame, target = smooth_frames(1, 32, 0).requires_grad_(), smooth_frames(1, 32, 1)
    perceptual_loss(frame, target).backward()
    assert torch.isfinite(frame.grad).all() and (frame.grad != 0).float().mean() > 0.9
    assert not any(parameter.requires_grad for parameter in perceptual_loss.parameters())
    assert all(parameter.grad is None for parameter in perceptual_loss.parameters())


def test_vgg_keeps_no_graph_of_the_target(vgg_loss):
    frame, target = smooth_frames(1, 32, 0).requires_grad_(), smooth_frames(1, 32, 1).requires_grad_()
    vgg_loss(frame, target).backward()
    assert target.grad is None


# --- SSIM ---


def reference_ssim(frame: np.ndarray, target: np.ndarray) -> float:
    """Mean over all 7x7 windows of each channel, range of values 2."""
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    values = []
    for x, y in zip(frame.reshape(-1, *frame.shape[2:]), target.reshape(-1, *target.shape[2:])):
        for i in range(x.shape[0] - 6):
            for j in range(x.shape[1] - 6):
                a, b = x[i : i + 7, j : j + 7], y[i : i + 7, j : j + 7]
                covariance = np.mean((a - a.mean()) * (b - b.mean()))
                luminance = (2 * a.mean() * b.mean() + c1) / (a.mean() ** 2 + b.mean() ** 2 + c1)
                values.append(luminance * (2 * covariance + c2) / (a.var() + b.var() + c2))
    return float(np.mean(values))


def test_ssim_against_its_formula():
    frame, target = smooth_frames(2, 16, 0), smooth_frames(2, 16, 1)
    for other in (target, 0.9 * frame + 0.1 * target, frame):
        ours = structural_similarity(frame, other).item()
        assert ours == pytest.approx(reference_ssim(frame.double().numpy(), other.double().numpy()), abs=1e-4)
    assert structural_similarity(frame, frame).item() == pytest.approx(1, abs=1e-5)
    assert structural_similarity(frame, target) < 0.9
    torch.testing.assert_close(structural_similarity(frame, target), structural_similarity(target, frame))


def test_ssim_loss_against_its_formula():
    frame, target = smooth_frames(1, 32, 0), smooth_frames(1, 32, 1)
    expected = []
    for factor in (1, 2, 4):
        ours, theirs = (F.avg_pool2d(frames, factor).double().numpy() for frames in (frame, target))
        expected.append(np.abs(ours - theirs).mean() + 1 - reference_ssim(ours, theirs))
    assert SSIMPyramidLoss()(frame, target).item() == pytest.approx(np.mean(expected), abs=1e-4)


# --- choice ---


def test_losses_are_chosen_by_name(vgg_file):
    assert load_perceptual_loss("none") == (None, "none")
    loss, name = load_perceptual_loss("ssim")
    assert isinstance(loss, SSIMPyramidLoss) and name == "ssim"
    loss, name = load_perceptual_loss("vgg19", vgg_file)
    assert isinstance(loss, VGG19Loss) and name == "vgg19"


def test_a_label_network_is_a_loss_too(tmp_path):
    network = LabelNetwork(32, 0, ["yaw"], [], [0.0], [1.0], block_out_channels=(4, 8)).eval()
    network.save_pretrained(tmp_path)
    loss, name = load_perceptual_loss("labels", label_network=tmp_path)
    assert isinstance(loss, LabelNetworkLoss) and name == "labels"
    frame, target = smooth_frames(2, 32, 0), smooth_frames(2, 32, 1)
    torch.testing.assert_close(loss(frame, target), LabelNetworkLoss(network)(frame, target), rtol=0, atol=0)


def test_another_network_is_no_label_network(animator, tmp_path):
    animator.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no LabelNetwork but a LIAModel"):
        load_perceptual_loss("labels", label_network=tmp_path)


def test_a_missing_label_network_is_never_replaced(tmp_path):
    with pytest.raises((OSError, ValueError), match="missing"):
        load_perceptual_loss("labels", label_network=tmp_path / "missing")


def test_a_failed_download_falls_back_with_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # a port where nothing listens
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # or the proxies of an earlier download would stay
    with caplog.at_level(logging.WARNING, logger="leo_diffusers"):
        loss, name = load_perceptual_loss("vgg19")
    assert isinstance(loss, SSIMPyramidLoss) and name == "ssim"
    assert VGG19_URL in caplog.text and "--vgg19_weights" in caplog.text
    assert not list(tmp_path.rglob("*.pth"))


def test_a_named_file_is_never_replaced(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.pth"):
        load_perceptual_loss("vgg19", tmp_path / "missing.pth")


def test_a_downloaded_file_is_found_in_the_cache(tmp_path, monkeypatch, vgg_weights):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(vgg_weights, folder / VGG19_URL.rsplit("/", 1)[1])
    loss, name = load_perceptual_loss("vgg19")
    assert name == "vgg19" and torch.equal(loss.features[28].bias, vgg_weights["features.28.bias"])
