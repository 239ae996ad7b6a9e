"""How fast a model is on this machine, in seconds, frames and bytes; examples/benchmark.py has ratios."""

import platform
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from importlib.util import find_spec

import torch

from ..pipelines.animator_pipeline import AnimatorPipeline
from ..pipelines.pipeline_leo_infinite import LEOInfinitePipeline
from ..pipelines.pipeline_lia import LIAPipeline


ANIMATED_CHUNKS = 2  # that an animated clip is long


def synchronize(device: torch.device) -> None:
    r"""Waits until the device has done what it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize()


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    r"""
    Median time of a call, after one that warms up.

    Args:
        work (`Callable`): What is timed.
        device (`torch.device`): Where it works.
        repeats (`int`): How often it is timed.

    Returns:
        `float`: Seconds.
    """
    work()
    synchronize(device)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


def name_device(device: torch.device) -> str:
    r"""As its maker calls it, where that can be known."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def peak_memory(device: torch.device) -> dict[str, object]:
    r"""The most "bytes" that were held at once, "of" an accelerator's tensors or a whole process; None if unknown."""
    if device.type == "cuda":
        return {"bytes": torch.cuda.max_memory_allocated(device), "of": "tensors on the accelerator"}
    if find_spec("resource") is None:  # Windows
        return {"bytes": None, "of": "process"}
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return {"bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "of": "process"}


def count_parameters(pipeline: AnimatorPipeline) -> dict[str, int]:
    r"""Parameters of each network of a pipeline."""
    networks = {name: one for name, one in pipeline.components.items() if isinstance(one, torch.nn.Module)}
    return {name: sum(parameter.numel() for parameter in one.parameters()) for name, one in networks.items()}


def measure_animator(pipeline: LIAPipeline, repeats: int) -> dict[str, float]:
    r"""
    Seconds per frame of the animator.

    Args:
        pipeline ([`LIAPipeline`]): Of the animator.
        repeats (`int`): Measurements, of which the median counts.

    Returns:
        `dict[str, float]`: "encode_seconds" and "decode_seconds" of a frame alone, "batch_decode_seconds" of one among
        "batch_size", and "animate_frames_per_second" from a driving video's frames to those rendered, on the CPU.
    """
    animator, device = pipeline.animator, pipeline.device
    batch_size, size = pipeline.chunk_size(None), animator.config.frame_size
    frames = torch.rand(ANIMATED_CHUNKS * batch_size, 3, size, size) * 2 - 1
    source = animator.encode_source(frames[:1].to(device))
    codes = animator.encode_motion(frames[:batch_size].to(device))

    def animate() -> None:
        for _ in pipeline.stream(frames[0], list(frames), output_type="pt"):
            pass

    first = frames[:1].to(device)
    return {
        "encode_seconds": seconds(lambda: animator.encode_source(first), device, repeats),
        "decode_seconds": seconds(lambda: animator.decode(source, codes[:1]), device, repeats),
        "batch_decode_seconds": seconds(lambda: animator.decode(source, codes), device, repeats) / batch_size,
        "batch_size": batch_size,
        "animate_frames_per_second": len(frames) / seconds(animate, device, repeats),
    }


def measure_videos(
    pipeline: LEOInfinitePipeline, lengths: Sequence[int], num_inference_steps: int, repeats: int
) -> dict[str, dict[str, float]]:
    r"""
    Seconds for videos of one image.

    Args:
        pipeline ([`LEOInfinitePipeline`]): The model.
        lengths (`Sequence[int]`): Frames of each video.
        num_inference_steps (`int`): Denoising steps of each chunk.
        repeats (`int`): Measurements, of which the median counts.

    Returns:
        `dict[str, dict[str, float]]`: By length "codes_seconds" of the motion alone, and "seconds" and
        "frames_per_second" of the whole video, from the image to frames on the CPU.
    """
    size = pipeline.animator.config.frame_size
    image, results = torch.rand(3, size, size) * 2 - 1, {}

    def run(num_frames: int, output_type: str) -> None:
        for _ in pipeline.stream(image, num_frames, num_inference_steps, output_type=output_type):
            pass

    for length in lengths:
        whole = seconds(lambda length=length: run(length, "pt"), pipeline.device, repeats)
        results[str(length)] = {
            "codes_seconds": seconds(lambda length=length: run(length, "latent"), pipeline.device, repeats),
            "seconds": whole,
            "frames_per_second": length / whole,
        }
    return results


@torch.no_grad()
def measure_speed(
    pipeline: AnimatorPipeline, lengths: Sequence[int] = (64, 512), num_inference_steps: int = 50, repeats: int = 3
) -> dict[str, object]:
    r"""
    Measures a model where it is. One process alone measures; others beside it would slow it down.

    Args:
        pipeline ([`AnimatorPipeline`]): The model. Only its animator is measured where it has no `motion_unet`.
        lengths (`Sequence[int]`): Frames of the videos that are generated, at least 2.
        num_inference_steps (`int`): Denoising steps of each chunk of motion.
        repeats (`int`): Measurements, of which the median counts.

    Returns:
        `dict[str, object]`: As JSON has it: "animator" and "videos" as of [`measure_animator`] and [`measure_videos`],
        "parameters", "peak_memory", and on what it was measured.

    Raises:
        ValueError: Where `repeats` is below 1, or a number cannot be carried out.
    """
    if repeats < 1:
        raise ValueError(f"`repeats` must be at least 1, got {repeats}.")
    device = pipeline.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    results = {
        "machine": platform.processor() or platform.machine(),
        "device": name_device(device),
        "threads": torch.get_num_threads(),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "diffusers": version("diffusers"),
        },
        "frame_size": pipeline.animator.config.frame_size,
        "num_inference_steps": num_inference_steps,
        "repeats": repeats,
        "parameters": count_parameters(pipeline),
        "animator": measure_animator(LIAPipeline(pipeline.animator), repeats),
    }
    if getattr(pipeline, "motion_unet", None) is not None:
        infinite = LEOInfinitePipeline.from_pipe(pipeline)
        results["videos"] = measure_videos(infinite, lengths, num_inference_steps, repeats)
    return results | {"peak_memory": peak_memory(device)}
