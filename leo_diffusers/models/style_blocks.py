"""Leaf layers that the encoder, the generator and the discriminator share: equalised, blurred and modulated ones."""

import contextlib
import math

import torch
import torch.nn as nn
import torch.nn.functional as F


LEAKY_SLOPE = 0.2
ACTIVATION_GAIN = math.sqrt(2)  # keeps the variance through a leaky rectifier
DEMODULATION_EPS = 1e-8  # a style of zeros must not divide by zero


def leaky_relu(hidden_states: torch.Tensor) -> torch.Tensor:
    r"""Leaky rectifier, in place: its gradient needs only its result. The gain is folded into the layer before it."""
    return F.leaky_relu(hidden_states, LEAKY_SLOPE, inplace=True)


def scale(hidden_states: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    r"""Product, in place where no gradient needs the old value: new memory costs more than the arithmetic on CPU."""
    return hidden_states * factor if torch.is_grad_enabled() else hidden_states.mul_(factor)


def full_precision(tensor: torch.Tensor) -> contextlib.AbstractContextManager:
    r"""Switches mixed precision off where a tensor lives, for sums that half precision would round away."""
    device_type = tensor.device.type
    if not torch.amp.is_autocast_available(device_type):
        return contextlib.nullcontext()
    return torch.autocast(device_type, enabled=False)


class EqualLinear(nn.Linear):
    r"""
    Linear layer whose weight is stored N(0, 1) and scaled by 1/sqrt(fan_in) at run time.

    Args:
        in_features (`int`): Size of the input.
        out_features (`int`): Size of the output.
        bias_init (`float`): Start value of the bias.
        activation (`bool`): Whether a leaky rectifier times sqrt(2) follows.
    """

    def __init__(self, in_features: int, out_features: int, bias_init: float = 0.0, activation: bool = False):
        super().__init__(in_features, out_features)
        nn.init.normal_(self.weight)
        nn.init.constant_(self.bias, bias_init)
        self.activation = activation
        self.bias_gain = ACTIVATION_GAIN if activation else 1.0
        self.weight_gain = self.bias_gain / math.sqrt(in_features)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        r"""(..., in_features) -> (..., out_features)."""
        hidden_states = F.linear(hidden_states, self.weight * self.weight_gain, self.bias * self.bias_gain)
        return leaky_relu(hidden_states) if self.activation else hidden_states


class EqualPointwise(EqualLinear):
    r"""
    [`EqualLinear`] on the channels of an image: a 1x1 convolution, as the product of matrices that it is. To few
    channels that is much faster on CPU, where a convolution would leave its lanes empty.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        r"""(B, in_features, H, W) -> (B, out_features, H, W)."""
        output = torch.matmul(self.weight * self.weight_gain, hidden_states.flatten(2)).unflatten(
            2, hidden_states.shape[2:]
        )
        output = output + (self.bias * self.bias_gain)[:, None, None]
        return leaky_relu(output) if self.activation else output


class EqualConv2d(nn.Conv2d):
    r"""
    Convolution whose weight is stored N(0, 1) and scaled by 1/sqrt(fan_in) at run time.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output.
        kernel_size (`int`): Height and width of the kernel.
        stride (`int`): Step of the kernel, pixels.
        padding (`int`): Zeros on each side, pixels.
        bias (`bool`): Whether a bias is added.
        activation (`bool`): Whether a leaky rectifier times sqrt(2) follows.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        bias: bool = True,
        activation: bool = False,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=bias)
        nn.init.normal_(self.weight)
        if bias:
            nn.init.zeros_(self.bias)
        self.activation = activation
        self.bias_gain = ACTIVATION_GAIN if activation else 1.0
        self.weight_gain = self.bias_gain / math.sqrt(in_channels * kernel_size**2)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        r"""(B, in_channels, H, W) -> (B, out_channels, H', W')."""
        bias = None if self.bias is None else self.bias * self.bias_gain
        hidden_states = self._conv_forward(hidden_states, self.weight * self.weight_gain, bias)
        return leaky_relu(hidden_states) if self.activation else hidden_states


class Blur(nn.Module):
    r"""
    Smooths each channel with the outer product of [1, 3, 3, 1] / 8, the low-pass filter of StyleGAN2.

    Args:
        padding (`int`): Zeros on each side, pixels.
        gain (`float`): Factor on the kernel; 4 after zeros were put between the pixels.
        stride (`int`): Keep every n-th pixel only.
    """

    def __init__(self, padding: int, gain: float = 1.0, stride: int = 1):
        super().__init__()
        self.padding = padding
        self.stride = stride
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float32) / 8
        self.register_buffer("kernel", gain * torch.outer(taps, taps), persistent=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        r"""(B, C, H, W) -> (B, C, H', W')."""
        num_channels = hidden_states.shape[1]
        kernel = self.kernel.to(hidden_states.dtype).expand(num_channels, 1, 4, 4)
        # The gradient of a strided depthwise convolution is slow in bfloat16 on CPU: blur all, then drop.
        stride = 1 if torch.is_grad_enabled() else self.stride
        blurred = F.conv2d(hidden_states, kernel, stride=stride, padding=self.padding, groups=num_channels)
        return blurred if stride == self.stride else blurred[:, :, :: self.stride, :: self.stride]


class BlurUpsample(nn.Module):
    r"""
    Doubles height and width: zeros between the pixels, then the blur times 4.

    Away from the borders that is bilinear interpolation; beyond the borders lie zeros, hence the padding.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        r"""(B, C, H, W) -> (B, C, 2H, 2W)."""
        hidden_states = F.pad(hidden_states, (1, 1, 1, 1))
        return F.interpolate(hidden_states, scale_factor=2, mode="bilinear")[:, :, 2:-2, 2:-2]


class ResidualBlock(nn.Module):
    r"""
    Halves height and width: two convolutions beside a blurred 1x1 shortcut, their sum over sqrt(2).

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv1 = EqualConv2d(in_channels, in_channels, 3, padding=1, activation=True)
        self.blur = Blur(padding=2)
        self.conv2 = EqualConv2d(in_channels, out_channels, 3, stride=2, activation=True)
        # Blur, then a 1x1 convolution of stride 2, reads every second blurred pixel only.
        self.skip_blur = Blur(padding=1, stride=2)
        self.skip = EqualConv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        r"""(B, in_channels, H, W) -> (B, out_channels, H/2, W/2)."""
        shortcut = self.skip(self.skip_blur(hidden_states))
        hidden_states = self.conv2(self.blur(self.conv1(hidden_states)))
        return (hidden_states + shortcut) * (1 / math.sqrt(2))


class ModulatedConv2d(nn.Module):
    r"""
    StyleGAN2's modulated convolution with demodulation, bias and activation.

    Instead of one weight per sample, the input is scaled by the style, one weight convolves the whole batch and the
    output is scaled by the demodulation: the same mathematics.

    Args:
        in_channels (`int`): Channels of the input.
        out_channels (`int`): Channels of the output.
        latent_dim (`int`): Size L of the latent that makes the style.
        upsample (`bool`): Whether the convolution is transposed with stride 2 and then blurred.
    """

    def __init__(self, in_channels: int, out_channels: int, latent_dim: int, upsample: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.modulation = EqualLinear(latent_dim, in_channels, bias_init=1.0)
        self.blur = Blur(padding=1, gain=4.0) if upsample else None
        self.weight_gain = 1 / math.sqrt(in_channels * 9)

    def forward(self, hidden_states: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        r"""
        (B, in_channels, H, W), (B, L) -> (B, out_channels, H, W), or twice as high and wide. Without gradients
        `hidden_states` is overwritten.
        """
        style = self.modulation(latent) * self.weight_gain  # (B, in)
        # Of weight and style only the sums over the kernel are needed: one pass over the weight, whatever the batch.
        energy = torch.linalg.vector_norm(self.weight, dim=(2, 3), dtype=torch.float32).square()  # (out, in)
        with full_precision(style):
            demodulation = torch.rsqrt(style.float().square() @ energy.T + DEMODULATION_EPS)  # (B, out)
        hidden_states = scale(hidden_states, style.to(hidden_states.dtype)[:, :, None, None])
        if self.blur is None:
            hidden_states = F.conv2d(hidden_states, self.weight, padding=1)
        else:
            hidden_states = self.blur(F.conv_transpose2d(hidden_states, self.weight.transpose(0, 1), stride=2))
        gain = (demodulation * ACTIVATION_GAIN).to(hidden_states.dtype)[:, :, None, None]
        bias = (self.bias * ACTIVATION_GAIN)[:, None, None]
        return leaky_relu(scale(hidden_states, gain).add_(bias))
