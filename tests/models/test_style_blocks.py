import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.training_utils import EMAModel

from leo_diffusers.models.style_blocks import (
    Blur,
    BlurUpsample,
    EqualConv2d,
    EqualLinear,
    EqualPointwise,
    ModulatedConv2d,
    ResidualBlock,
)


LATENT_DIM = 12


def upfirdn(images: np.ndarray, up: int = 1, down: int = 1, padding: tuple[int, int] = (0, 0), gain: float = 1.0):
    """Zeros between the pixels, zeros around them, a sum over each 4x4 window, every n-th pixel kept."""
    batch_size, channels, height, width = images.shape
    stuffed = np.zeros((batch_size, channels, height * up, width * up))
    stuffed[:, :, ::up, ::up] = images
    padded = np.pad(stuffed, ((0, 0), (0, 0), padding, padding))
    kernel = gain * np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    out_height, out_width = padded.shape[2] - 3, padded.shape[3] - 3
    result = sum(
        kernel[row, column] * padded[:, :, row : row + out_height, column : column + out_width]
        for row in range(4)
        for column in range(4)
    )
    return result[:, :, ::down, ::down]


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    return module


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def grouped_modulation(layer: ModulatedConv2d, hidden_states: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """StyleGAN2 as published: one weight per sample, all samples in one grouped convolution; float64."""
    hidden_states, latent, weight, bias, style_weight, style_bias = (
        tensor.double()
        for tensor in (
            hidden_states,
            latent,
            layer.weight,
            layer.bias,
            layer.modulation.weight,
            layer.modulation.bias,
        )
    )
    batch_size, in_channels, height, width = hidden_states.shape
    style = latent @ (style_weight / math.sqrt(latent.shape[1])).T + style_bias
    weights = weight[None] / math.sqrt(in_channels * 9) * style[:, None, :, None, None]  # (B, out, in, 3, 3)
    weights = weights / (weights.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8).sqrt()
    grouped = hidden_states.reshape(1, -1, height, width)
    if layer.blur is None:
        output = F.conv2d(grouped, weights.flatten(0, 1), padding=1, groups=batch_size)
    else:
        output = F.conv_transpose2d(grouped, weights.transpose(1, 2).flatten(0, 1), stride=2, groups=batch_size)
        kernel = torch.outer(*2 * [torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64)]) / 16
        output = F.conv2d(output.transpose(0, 1), kernel[None, None], padding=1).transpose(0, 1)
    output = output.reshape(batch_size, -1, *output.shape[2:]) + bias[:, None, None]
    return math.sqrt(2) * F.leaky_relu(output, 0.2)


def make_modulated(upsample: bool = False) -> tuple[ModulatedConv2d, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    layer = randomize(ModulatedConv2d(6, 5, LATENT_DIM, upsample=upsample))
    return layer, noise(3, 6, 7, 9), noise(3, LATENT_DIM, seed=1)


# --- equalised layers ---


@pytest.mark.parametrize("activation", [False, True])
def test_equal_linear_against_the_formula(activation):
    layer = randomize(EqualLinear(10, 4, activation=activation))
    inputs = noise(2, 3, 10)
    expected = inputs @ layer.weight.T / math.sqrt(10) + layer.bias
    if activation:
        expected = torch.where(expected > 0, expected, 0.2 * expected) * math.sqrt(2)
    torch.testing.assert_close(layer(inputs), expected, rtol=1e-4, atol=1e-5)


def test_equal_layers_start_with_unit_weights_and_keep_the_variance():
    torch.manual_seed(0)
    linear, convolution = EqualLinear(256, 256, bias_init=1.5), EqualConv2d(64, 64, 3, padding=1)
    assert torch.all(linear.bias == 1.5) and not convolution.bias.any()
    outputs = (linear(noise(64, 256)) - 1.5, convolution(noise(2, 64, 16, 16))[..., 1:-1, 1:-1])
    for tensor in (linear.weight, convolution.weight, *outputs):
        assert tensor.std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("activation", [False, True])
def test_equal_pointwise_is_a_1x1_convolution(activation):
    layer = randomize(EqualPointwise(10, 3, activation=activation))
    inputs = noise(2, 10, 5, 6)
    expected = F.conv2d(inputs, layer.weight[..., None, None] / math.sqrt(10), layer.bias)
    if activation:
        expected = F.leaky_relu(expected, 0.2) * math.sqrt(2)
    torch.testing.assert_close(layer(inputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel_size", "options"),
    [
        (1, {"activation": True}),
        (3, {"padding": 1, "activation": True}),
        (3, {"stride": 2, "activation": True}),
        (4, {"bias": False}),
    ],
)
def test_equal_conv_against_the_formula(kernel_size, options):
    layer = randomize(EqualConv2d(6, 4, kernel_size, **options))
    inputs = noise(2, 6, 8, 9)
    assert (layer.bias is None) == (options.get("bias") is False)
    expected = F.conv2d(
        inputs,
        layer.weight / math.sqrt(6 * kernel_size**2),
        layer.bias,
        stride=options.get("stride", 1),
        padding=options.get("padding", 0),
    )
    if options.get("activation"):
        expected = F.leaky_relu(expected, 0.2) * math.sqrt(2)
    torch.testing.assert_close(layer(inputs), expected, rtol=1e-4, atol=1e-5)


# --- blurs ---


@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize(("padding", "gain", "stride"), [(1, 1.0, 1), (1, 4.0, 1), (2, 1.0, 1), (1, 1.0, 2)])
def test_blur_against_upfirdn(padding, gain, stride, with_grad):
    images = noise(2, 3, 8, 10)
    expected = upfirdn(images.numpy(), down=stride, padding=(padding, padding), gain=gain)
    with torch.set_grad_enabled(with_grad):
        blurred = Blur(padding=padding, gain=gain, stride=stride)(images)
    torch.testing.assert_close(blurred, torch.tensor(expected).float(), rtol=1e-4, atol=1e-5)


def test_blur_keeps_a_constant_away_from_the_border():
    blurred = Blur(padding=1)(torch.full((1, 2, 8, 8), 3.0))
    torch.testing.assert_close(blurred[..., 1:-1, 1:-1], torch.full((1, 2, 5, 5), 3.0))


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (5, 8)])
def test_blur_upsample_is_zero_insertion_and_blur(size):
    images = noise(2, 3, *size)
    expected = upfirdn(images.numpy(), up=2, padding=(2, 1), gain=4)
    upsampled = BlurUpsample()(images)
    assert upsampled.shape == (2, 3, 2 * size[0], 2 * size[1])
    torch.testing.assert_close(upsampled, torch.tensor(expected).float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_blur_kernel_is_exact_in_half_precision(dtype):
    with torch.device("cpu"):
        torch.set_default_dtype(dtype)
        try:
            blur = Blur(padding=1, gain=4.0)  # as from_pretrained builds it
        finally:
            torch.set_default_dtype(torch.float32)
    assert blur.kernel.dtype == torch.float32
    expected = torch.tensor(np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16)
    torch.testing.assert_close(blur.to(dtype).kernel.double(), expected, rtol=0, atol=0)
    assert list(blur.state_dict()) == []


@pytest.mark.parametrize("with_grad", [True, False])
def test_residual_block_against_the_formula(with_grad):
    torch.manual_seed(0)
    block = randomize(ResidualBlock(6, 10))
    inputs = noise(2, 6, 8, 8)

    def act(hidden_states: torch.Tensor) -> torch.Tensor:
        return F.leaky_relu(hidden_states, 0.2) * math.sqrt(2)

    def blur(hidden_states: torch.Tensor, padding: int) -> torch.Tensor:
        return torch.tensor(upfirdn(hidden_states.detach().numpy(), padding=(padding, padding))).float()

    hidden_states = act(F.conv2d(inputs, block.conv1.weight / math.sqrt(54), block.conv1.bias, padding=1))
    weight = block.conv2.weight / math.sqrt(54)
    hidden_states = act(F.conv2d(blur(hidden_states, 2), weight, block.conv2.bias, stride=2))
    shortcut = F.conv2d(blur(inputs, 1), block.skip.weight / math.sqrt(6), stride=2)
    with torch.set_grad_enabled(with_grad):
        output = block(inputs)
    assert output.shape == (2, 10, 4, 4)
    torch.testing.assert_close(output, (hidden_states + shortcut) / math.sqrt(2), rtol=1e-4, atol=1e-4)


# --- modulated convolution ---


@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize("upsample", [False, True])
def test_modulated_conv_equals_grouped_weights(upsample, with_grad):
    layer, inputs, latent = make_modulated(upsample)
    expected = grouped_modulation(layer, inputs, latent)
    before = inputs.clone()
    with torch.set_grad_enabled(with_grad):
        output = layer(inputs if with_grad else inputs.clone(), latent)
    assert output.shape == ((3, 5, 14, 18) if upsample else (3, 5, 7, 9))
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(inputs, before)


@pytest.mark.parametrize("upsample", [False, True])
def test_modulated_conv_in_channels_last(upsample):
    layer, inputs, latent = make_modulated(upsample)
    expected = grouped_modulation(layer, inputs, latent)
    with torch.no_grad():
        output = layer(inputs.contiguous(memory_format=torch.channels_last), latent)
    torch.testing.assert_close(output.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("upsample", [False, True])
def test_modulated_conv_gradients_equal_those_of_grouped_weights(upsample):
    layer, inputs, latent = make_modulated(upsample)
    inputs.requires_grad_()
    latent.requires_grad_()
    wanted = [inputs, latent, *layer.parameters()]
    direction = noise(3, 5, *((14, 18) if upsample else (7, 9)), seed=2)
    expected = torch.autograd.grad((grouped_modulation(layer, inputs, latent) * direction).sum(), wanted)
    gradients = torch.autograd.grad((layer(inputs, latent) * direction).sum(), wanted)
    for gradient, reference in zip(gradients, expected):
        torch.testing.assert_close(gradient, reference, rtol=1e-3, atol=1e-4)


def test_a_style_of_zeros_gives_the_bias_alone():
    layer, inputs, latent = make_modulated()
    with torch.no_grad():
        layer.modulation.bias.zero_()
        output = layer(inputs, torch.zeros_like(latent))
        expected = math.sqrt(2) * F.leaky_relu(layer.bias, 0.2)
    torch.testing.assert_close(output, expected[:, None, None].expand_as(output))


def step_of_an_optimizer(layer: ModulatedConv2d) -> None:
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.5)
    with torch.enable_grad():
        layer(noise(3, 6, 7, 9), noise(3, LATENT_DIM)).square().sum().backward()
    optimizer.step()


def load_other_weights(layer: ModulatedConv2d) -> None:
    layer.load_state_dict({name: tensor + noise(*tensor.shape) for name, tensor in layer.state_dict().items()})


def assign_other_weights(layer: ModulatedConv2d) -> None:
    other = {name: tensor + noise(*tensor.shape) for name, tensor in layer.state_dict().items()}
    layer.load_state_dict(other, assign=True)


def write_weights_in_place(layer: ModulatedConv2d) -> None:
    with torch.no_grad():
        layer.weight[:, :3] *= 3


def copy_averaged_weights(layer: ModulatedConv2d) -> None:
    # What training does before each validation. It writes through `.data`, which no version counter sees.
    average = EMAModel(layer.parameters())
    average.shadow_params = [3 * parameter for parameter in average.shadow_params]
    average.copy_to(layer.parameters())


@pytest.mark.parametrize(
    "change",
    [
        step_of_an_optimizer,
        load_other_weights,
        assign_other_weights,
        write_weights_in_place,
        copy_averaged_weights,
    ],
)
def test_kept_weight_energy_follows_the_weight(change):
    layer, inputs, latent = make_modulated()
    with torch.no_grad():
        before = layer(inputs.clone(), latent)
        torch.testing.assert_close(before.double(), grouped_modulation(layer, inputs, latent), rtol=1e-4, atol=1e-5)
        change(layer)
        after = layer(inputs.clone(), latent)
        assert (after - before).abs().amax() > 1e-2
        torch.testing.assert_close(after.double(), grouped_modulation(layer, inputs, latent), rtol=1e-4, atol=1e-5)


def test_inference_mode_then_training():
    layer, inputs, latent = make_modulated()
    with torch.inference_mode():
        expected = layer(inputs.clone(), latent).clone()
    with torch.no_grad():
        torch.testing.assert_close(layer(inputs.clone(), latent), expected)
    layer(inputs, latent).sum().backward()
    assert layer.weight.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("upsample", [False, True])
def test_modulated_conv_in_half_precision_is_close(upsample, dtype):
    layer, inputs, latent = make_modulated(upsample)
    expected = grouped_modulation(layer, inputs, latent)
    with torch.no_grad():
        output = layer.to(dtype)(inputs.to(dtype), latent.to(dtype))
    assert output.dtype == dtype
    assert (output.double() - expected).norm() < 0.03 * expected.norm()
