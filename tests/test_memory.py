"""Memory does not grow with the length of a video, and metrics hold features, not videos."""

import subprocess
import sys

import pytest
import torch

from leo_diffusers import LIAModel, LIAPipeline, video_io


FRAMES_PER_SECOND = 25
ANIMATE = """
import resource, sys
from leo_diffusers.cli import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(code)
"""

# I3D reads one clip of each set, for its own memory; on all of them it would take an hour.
MEASURE = """
import resource, torch
from leo_diffusers.metrics import RandomI3DFeatures, extract, frechet_distance, kernel_distance

i3d, generator = RandomI3DFeatures(), torch.Generator().manual_seed(0)

def clips():
    for _ in range(2048):
        yield torch.rand(1, 16, 3, 128, 128, generator=generator) * 2 - 1

def read(clip):
    if read.is_first:
        read.is_first = False
        return i3d(clip)
    return clip.flatten()[:400][None]

sets = []
for _ in range(2):
    read.is_first = True
    sets.append(extract(read, clips()))
    assert sets[-1].shape == (2048, 400)
frechet_distance(*sets), kernel_distance(*sets)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def write_moving_square(path, num_frames):
    with video_io.VideoWriter(path, FRAMES_PER_SECOND) as writer:
        for index in range(num_frames):
            frame = torch.full((3, 64, 64), -0.5)
            frame[:, 20:40, index % 40 : index % 40 + 20] = 0.7
            writer.write(frame)


def peak_kilobytes(model, image, driving, output):
    arguments = ["animate", "--model", model, "--image", image, "--driving-video", driving, "--output", output]
    command = [sys.executable, "-c", ANIMATE, *map(str, arguments), "--device", "cpu"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


@pytest.mark.slow
def test_ten_minutes_take_no_more_memory_than_ten_seconds(tmp_path):
    torch.manual_seed(0)
    animator = LIAModel(frame_size=32, latent_dim=32, block_out_channels=(8, 8, 16, 16), motion_head_layers=1)
    LIAPipeline(animator).save_pretrained(str(tmp_path / "model"))
    video_io.write_image(tmp_path / "photo.png", torch.zeros(3, 32, 32))
    peaks = []
    for name, seconds in (("short", 10), ("long", 600)):
        driving = tmp_path / f"{name}.mp4"
        write_moving_square(driving, seconds * FRAMES_PER_SECOND)
        output = tmp_path / f"{name}-animated.mp4"
        peaks.append(peak_kilobytes(tmp_path / "model", tmp_path / "photo.png", driving, output))
        assert len(video_io.VideoReader(output)) == seconds * FRAMES_PER_SECOND
    assert peaks[1] < 1.1 * peaks[0], f"{peaks[0]} kB for 10 s, {peaks[1]} kB for 10 minutes"


@pytest.mark.slow
def test_fvd_and_kvd_of_2048_clips_take_less_than_4_gib():
    result = subprocess.run([sys.executable, "-c", MEASURE], check=True, capture_output=True, text=True)
    kilobytes = int(result.stdout.split()[-1])
    assert kilobytes < 4 * 1024**2, f"{kilobytes} kB"  # the clips alone are 12 GiB as floats
