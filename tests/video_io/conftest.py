"""Videos, frames, and what writing leaves behind."""

import subprocess

import imageio_ffmpeg
import torch


def ffmpeg(*options):
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, options)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def make_video(path, seconds=2, rate="25", size="64x48", options=()):
    source = f"testsrc=s={size}:r={rate}:d={seconds},noise=alls=20:allf=t"
    ffmpeg("-f", "lavfi", "-i", source, "-threads", "1", *options, path)
    return path


def smooth_frames(num_frames=20, height=48, width=64):
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    shifts = torch.linspace(0, 1, num_frames)
    return torch.stack([torch.stack([x, y, ((x + s) * 2).sin()]) * 0.9 for s in shifts])


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]
