#!/usr/bin/env python
"""
Speed of the animator and of the motion diffusion, as ratios measured in one run on one machine.

    python examples/benchmark.py --output benchmark.json
    python examples/benchmark.py --device cpu --onnx --page --output benchmark.json

Random weights of the released architecture. "Naive" does what LIA's public demo does: it encodes source and driving
frame again for every output frame and convolves with one weight per sample. "Matrix product" is the time that this
machine needs for as many floating-point operations in one large product.
"""

import argparse
import json
import math
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from torch.utils.flop_counter import FlopCounterMode

from leo_diffusers import LEOInfinitePipeline, LIAModel, LIAPipeline, MotionUNet1DModel
from leo_diffusers.app import AppSettings
from leo_diffusers.app.studio import Studio
from leo_diffusers.command_line import OneLineParser, run_script
from leo_diffusers.evaluation.speed import name_device, seconds
from leo_diffusers.onnx_export import check_packages, export_onnx
from leo_diffusers.training.arguments import faster_precision


MATRIX_SIZE = 4096  # large enough for the machine's best rate
ACTIVATION_GAIN = math.sqrt(2)


# ------------------------------------------------------------------------------------------------------- naive form


def blur(hidden_states: torch.Tensor, padding: tuple[int, int], up: int = 1) -> torch.Tensor:
    r"""Zeros between the pixels, zeros around, then the blur over each channel as a picture of its own."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device=hidden_states.device, dtype=hidden_states.dtype) / 8 * up
    batch_size, channels, height, width = hidden_states.shape
    pixels = hidden_states.reshape(batch_size * channels, height, 1, width, 1)
    pixels = F.pad(pixels, (0, up - 1, 0, 0, 0, up - 1)).reshape(-1, 1, height * up, width * up)
    pixels = F.conv2d(F.pad(pixels, (*padding, *padding)), torch.outer(taps, taps)[None, None])
    return pixels.view(batch_size, channels, *pixels.shape[-2:])


def activate(hidden_states: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return F.leaky_relu(hidden_states + bias.view(1, -1, 1, 1), 0.2) * ACTIVATION_GAIN


def equal_conv(layer: torch.nn.Module, hidden_states: torch.Tensor, **kwargs: int) -> torch.Tensor:
    weight = layer.weight if layer.weight.ndim == 4 else layer.weight[:, :, None, None]
    return F.conv2d(hidden_states, weight / math.sqrt(weight[0].numel()), **kwargs)


class NaiveAnimator:
    r"""The weights of a [`LIAModel`] in the arithmetic of the public demo: everything again for every frame."""

    def __init__(self, animator: LIAModel):
        self.animator = animator

    def __call__(self, source_frame: torch.Tensor, driving_frame: torch.Tensor) -> torch.Tensor:
        source_latent, features = self.encode(source_frame)
        driving_latent, _ = self.encode(driving_frame)
        code = self.animator.motion_head(driving_latent)
        return self.decode(source_latent + self.animator.motion_dictionary(code).to(source_latent.dtype), features)

    def encode(self, frame: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        encoder = self.animator.appearance_encoder
        hidden_states = activate(equal_conv(encoder.from_rgb, frame), encoder.from_rgb.bias)
        features = []
        for block in encoder.blocks:
            features.append(hidden_states)
            residual = activate(equal_conv(block.conv1, hidden_states, padding=1), block.conv1.bias)
            residual = activate(equal_conv(block.conv2, blur(residual, (2, 2)), stride=2), block.conv2.bias)
            shortcut = equal_conv(block.skip, blur(hidden_states, (1, 1)), stride=2)
            hidden_states = (residual + shortcut) / math.sqrt(2)
        return equal_conv(encoder.to_latent, hidden_states).flatten(1), features[::-1]

    def modulated(self, layer: torch.nn.Module, hidden_states: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        batch_size, channels, height, width = hidden_states.shape
        style = layer.modulation(latent)
        weight = layer.weight[None] * style[:, None, :, None, None] / math.sqrt(channels * 9)  # one per sample
        weight = weight * torch.rsqrt(weight.square().sum(dim=(2, 3, 4), keepdim=True) + 1e-8)
        pixels = hidden_states.reshape(1, -1, height, width)
        if layer.blur is None:
            pixels = F.conv2d(pixels, weight.flatten(0, 1), padding=1, groups=batch_size)
            return activate(pixels.view(batch_size, -1, height, width), layer.bias)
        weight = weight.transpose(1, 2).flatten(0, 1)
        pixels = F.conv_transpose2d(pixels, weight, stride=2, groups=batch_size)
        pixels = pixels.view(batch_size, -1, *pixels.shape[-2:])
        return activate(blur(pixels, (1, 1)) * 4, layer.bias)

    def decode(self, latent: torch.Tensor, features: list[torch.Tensor]) -> torch.Tensor:
        generator = self.animator.flow_generator
        hidden_states = self.modulated(generator.conv_in, generator.constant.expand(len(latent), -1, -1, -1), latent)
        logits = frame = None
        for block, block_features in zip(generator.blocks, features):
            hidden_states = self.modulated(block.upsample_conv, hidden_states, latent)
            hidden_states = self.modulated(block.conv, hidden_states, latent)
            size = hidden_states.shape[-1]
            head = block.flow_head
            style = head.modulation(latent) / math.sqrt(hidden_states.shape[1])
            weight = (head.weight[None] * style[:, None]).flatten(0, 1)[:, :, None, None]
            new_logits = F.conv2d(hidden_states.reshape(1, -1, size, size), weight, groups=len(latent))
            new_logits = new_logits.view(len(latent), 3, size, size) + head.bias.view(1, 3, 1, 1)
            logits = new_logits if logits is None else new_logits + blur(logits, (2, 1), up=2)
            axis = torch.linspace(-1, 1, size, device=latent.device, dtype=latent.dtype)
            grid = logits[:, :2].tanh() + torch.stack(torch.meshgrid(axis, axis, indexing="xy"))
            mask = logits[:, 2:].sigmoid()
            warped = F.grid_sample(block_features, grid.permute(0, 2, 3, 1), align_corners=block.align_corners) * mask
            rgb = activate(equal_conv(block.rgb_head.conv, warped), block.rgb_head.conv.bias)
            rgb = rgb + block.rgb_head.bias.view(1, 3, 1, 1)
            frame = rgb if frame is None else rgb + blur(frame, (2, 1), up=2)
            hidden_states = warped + hidden_states * (1 - mask)
        return frame


# ------------------------------------------------------------------------------------------------------- measurement


def count_flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def matrix_product_rate(device: torch.device, dtype: torch.dtype, repeats: int) -> float:
    r"""Floating-point operations per second in one large product."""
    matrix = torch.randn(MATRIX_SIZE, MATRIX_SIZE, device=device).to(dtype)
    return 2 * MATRIX_SIZE**3 / seconds(lambda: matrix @ matrix, device, repeats)


def measure_animator(
    animator: LIAModel, dtype: torch.dtype, args: argparse.Namespace, device: torch.device
) -> dict[str, float]:
    r"""Seconds per frame of rendering given codes and of animating from a video, and the rate of the decoder."""
    size, num_frames = animator.config.frame_size, args.num_frames
    frames = torch.rand(num_frames, 3, size, size, device=device) * 2 - 1
    pipeline = LIAPipeline(animator)
    source = animator.encode_source(frames[:1])
    codes = animator.encode_motion(frames)
    chunk_size = pipeline.chunk_size(None)

    def animate() -> None:
        for _ in pipeline.animate(source, (animator.encode_motion(part) for part in frames.split(chunk_size))):
            pass

    def render() -> None:
        for _ in pipeline.animate(source, [codes]):
            pass

    render_seconds = seconds(render, device, args.repeats) / num_frames
    flops = count_flops(lambda: animator.decode(source, codes[:1]))
    matrix_rate = matrix_product_rate(device, dtype, args.repeats)
    return {
        "render_seconds_per_frame": render_seconds,
        "animate_seconds_per_frame": seconds(animate, device, args.repeats) / num_frames,
        "decode_gflop": flops / 1e9,
        "decode_gflop_per_second": flops / render_seconds / 1e9,
        "matrix_product_gflop_per_second": matrix_rate / 1e9,
        "decode_share_of_matrix_product_rate": flops / render_seconds / matrix_rate,
    }


def measure_naive(animator: LIAModel, args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    r"""Seconds per frame of the naive form, and how far its frames are from ours."""
    size = animator.config.frame_size
    source_frame, driving_frame = torch.rand(2, 1, 3, size, size, device=device) * 2 - 1
    naive = NaiveAnimator(animator)
    ours = animator(source_frame, driving_frame).sample
    return {
        "naive_seconds_per_frame": seconds(lambda: naive(source_frame, driving_frame), device, args.repeats),
        "largest_difference_from_naive": (naive(source_frame, driving_frame) - ours).abs().max().item(),
    }


def measure_motion(
    animator: LIAModel, render_seconds: float, args: argparse.Namespace, device: torch.device
) -> dict[str, float]:
    r"""Seconds for codes in 50 DDIM steps with the default U-Net: one sequence, and endless video's chunks."""
    unet = MotionUNet1DModel().to(device).eval()
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    pipeline = LEOInfinitePipeline(animator, unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    size = animator.config.frame_size
    image = torch.rand(3, size, size) * 2 - 1

    def draw(num_frames: int) -> float:
        return seconds(lambda: pipeline(image, num_frames, output_type="latent"), device, args.repeats)

    results = {}
    for num_frames in (64, args.num_endless_frames):
        drawing_seconds = draw(num_frames)
        results[f"seconds_for_{num_frames}_codes_in_50_steps"] = drawing_seconds
        results[f"share_of_decoding_{num_frames}_frames"] = drawing_seconds / (num_frames * render_seconds)
    return results


def measure_onnx(animator: LIAModel, render_seconds: float, args: argparse.Namespace) -> dict[str, float]:
    r"""Seconds per frame of rendering given codes by onnxruntime on the CPU, in groups as large as PyTorch's."""
    import onnxruntime

    pipeline, options = LIAPipeline(animator), onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    size, num_frames = animator.config.frame_size, args.num_frames
    frames = torch.rand(num_frames, 3, size, size) * 2 - 1
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(pipeline, folder)
        encoder, decoder = (
            onnxruntime.InferenceSession(Path(folder, f"{name}.onnx"), options, providers=["CPUExecutionProvider"])
            for name in ("encoder", "decoder")
        )
        outputs = encoder.run(None, {"frame": frames[:1].numpy()})
        source = {output.name: value for output, value in zip(encoder.get_outputs(), outputs)}
        parts = [part.numpy() for part in animator.encode_motion(frames).split(pipeline.chunk_size(None))]

        def render() -> None:
            for part in parts:
                decoder.run(None, source | {"motion_code": part})

        onnx_seconds = seconds(render, torch.device("cpu"), args.repeats) / num_frames
    return {"render_seconds_per_frame": onnx_seconds, "render_speedup_over_pytorch": render_seconds / onnx_seconds}


def measure_page(args: argparse.Namespace, device: torch.device) -> dict[str, float]:
    r"""The embedded model's part of what visitors of the page wait for; files, network and browser come on top."""
    studio = Studio(AppSettings(device=str(device)))
    photo = torch.rand(3, studio.frame_size, studio.frame_size) * 2 - 1
    source, still = studio.encode(photo), [0.0] * studio.lia.animator.config.motion_dim

    def first_frame(image: torch.Tensor | None) -> None:
        next(studio.infinite.stream(image, output_type="pt"))

    return {
        "seconds_to_the_preview_of_a_slider": seconds(lambda: studio.preview(source, still), device, args.repeats),
        "seconds_to_an_endless_video_of_a_photo": seconds(lambda: first_frame(photo), device, args.repeats),
        "seconds_to_an_endless_video_from_nothing": seconds(lambda: first_frame(None), device, args.repeats),
    }


def calibrated(animator: LIAModel) -> LIAModel:
    r"""Scales random weights so that flows and frames are of the size that trained networks have."""
    for block in animator.flow_generator.blocks:
        torch.nn.init.normal_(block.flow_head.weight, std=0.1)
        block.rgb_head.conv.weight.data.mul_(0.1)
    return animator


@torch.no_grad()
def main(args: argparse.Namespace) -> None:
    for name in ("num_frames", "num_endless_frames", "repeats"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}.")
    device = torch.device(args.device or torch.accelerator.current_accelerator(check_available=True) or "cpu")
    if args.onnx:
        check_packages()
        if device.type != "cpu":
            raise ValueError(f"--onnx compares on the CPU, and the device is {device}: pass --device cpu.")
    torch.manual_seed(0)
    channels = tuple(min(512, 64 * 256 // size) for size in (args.frame_size >> i for i in range(20)) if size >= 4)
    animator = calibrated(LIAModel(frame_size=args.frame_size, block_out_channels=channels)).to(device).eval()
    results = {
        "machine": platform.processor() or platform.machine(),
        "device": name_device(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "frame_size": args.frame_size,
    }
    float32 = measure_animator(animator, torch.float32, args, device) | measure_naive(animator, args, device)
    float32["render_speedup_over_naive"] = float32["naive_seconds_per_frame"] / float32["render_seconds_per_frame"]
    float32["animate_speedup_over_naive"] = float32["naive_seconds_per_frame"] / float32["animate_seconds_per_frame"]
    results["float32"] = float32
    results["motion"] = measure_motion(animator, float32["render_seconds_per_frame"], args, device)
    if args.onnx:
        results["onnx"] = measure_onnx(animator, float32["render_seconds_per_frame"], args)
    if args.page:
        results["page"] = measure_page(args, device)
    if args.compile:
        animator.decode = torch.compile(animator.decode)
        results["float32 compiled"] = measure_animator(animator, torch.float32, args, device)
        del animator.decode
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        if name not in args.dtypes:
            continue
        for module in (animator.appearance_encoder, animator.flow_generator):
            module.to(dtype)
        results[name] = measure_animator(animator, dtype, args, device)
        results[name]["render_speedup_over_float32"] = (
            float32["render_seconds_per_frame"] / results[name]["render_seconds_per_frame"]
        )
        if args.compile:
            animator.decode = torch.compile(animator.decode)
            results[f"{name} compiled"] = measure_animator(animator, dtype, args, device)
            del animator.decode
    text = json.dumps(results, indent=1)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n")


def build_parser() -> argparse.ArgumentParser:
    parser = OneLineParser(prog="benchmark.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    add = parser.add_argument
    add("--frame_size", type=int, default=256, help="default: %(default)s")
    add("--num_frames", type=int, default=16, help="frames per measurement (default: %(default)s)")
    add("--num_endless_frames", type=int, default=1024, help="length of the endless video (default: %(default)s)")
    add("--repeats", type=int, default=3, help="measurements, of which the median counts (default: %(default)s)")
    add("--device", default=None, help="cpu, cuda, ... (default: the fastest there is)")
    add(
        "--dtypes",
        nargs="*",
        choices=("bfloat16", "float16"),
        default=["bfloat16"] if faster_precision() == "bf16" else [],
        help="beside float32 (default: bfloat16, unless this processor emulates it)",
    )
    add("--compile", action="store_true", help="also measure torch.compile")
    add("--onnx", action="store_true", help="also measure onnxruntime, on the CPU")
    add("--page", action="store_true", help="also measure what visitors of the page wait for")
    add("--output", type=Path, default=None, help="JSON file to write")
    return parser


if __name__ == "__main__":
    run_script(main, build_parser())
