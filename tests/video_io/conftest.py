"""Videos that ffmpeg makes, and what it says of files."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch


CLIPS = Path(__file__).parents[2].parent / "shared" / "clips"


def ffmpeg(*options):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, options)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def header(path):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", "-nostdin", "-i", str(path)]
    return subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True).stderr


def audio_samples(path):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-i", str(path), "-map", "0:a:0"]
    command += ["-f", "f32le", "-ac", "1", "-ar", "8000", "-"]
    result = subprocess.run(command, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    return np.frombuffer(result.stdout, np.float32)


def make_video(path, seconds=2, rate="25", size="64x48", options=()):
    source = f"testsrc=s={size}:r={rate}:d={seconds},noise=alls=20:allf=t"
    ffmpeg("-f", "lavfi", "-i", source, "-threads", "1", *options, path)
    return path


def make_sound_video(path, seconds=2, rate="25"):
    inputs = ["-f", "lavfi", "-i", f"testsrc=s=64x48:r={rate}:d={seconds}", "-f", "lavfi", "-i", f"sine=d={seconds}"]
    ffmpeg(*inputs, path)
    return path


def smooth_frames(num_frames=20, height=48, width=64):
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    shifts = torch.linspace(0, 1, num_frames)
    return torch.stack([torch.stack([x, y, ((x + s) * 2).sin()]) * 0.9 for s in shifts])


def byte_image(height=6, width=8, channels=3):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (height, width, channels), dtype=np.uint8)


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]
