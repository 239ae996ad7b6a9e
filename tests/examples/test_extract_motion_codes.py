import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from leo_diffusers import LIAPipeline
from leo_diffusers.data.motion_codes import MotionCodes, hash_animator
from leo_diffusers.video_io import read_video


LENGTHS = {"a.mp4": 20, "deep/b.mp4": 12, "frames": 9}


@pytest.fixture(scope="module")
def expected(animator_folder, clips_folder) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Codes by clip, and those of the mirrored clip, each frame encoded by itself."""
    animator = LIAPipeline.from_pretrained(animator_folder).animator
    codes = {}
    with torch.no_grad():
        for name in LENGTHS:
            frames = read_video(clips_folder / name)
            codes[name] = tuple(
                torch.cat([animator.encode_motion(frame[None]) for frame in part])
                for part in (frames, frames.flip(-1))
            )
    return codes


@pytest.fixture(scope="module")
def options(animator_folder, clips_folder) -> list:
    options = ["--pretrained_model_name_or_path", animator_folder, "--train_data_dir", clips_folder]
    return [*options, "--min_frames", 8, "--batch_size", 5]


def test_codes_are_those_of_encoding_by_hand(
    run_example, options, animator_folder, clips_folder, expected, tmp_path_factory
):
    folder = tmp_path_factory.mktemp("extracted") / "codes"
    said = run_example("extract_motion_codes.py", *options, "--output_dir", folder, launcher="two processes")
    for name in ("broken.mp4", "short.mp4 (3 frames)"):
        assert name in said
    motion_codes = MotionCodes.load(folder)
    assert motion_codes.clip_names == list(LENGTHS) and motion_codes.frames_per_second == [25, 26, 25]
    assert motion_codes.animator_hash == hash_animator(LIAPipeline.from_pretrained(animator_folder).animator)
    for name, codes in zip(LENGTHS, motion_codes.clips(), strict=True):
        torch.testing.assert_close(codes, expected[name][0], rtol=1e-4, atol=1e-5)
    assert {path.name for path in folder.glob("[!.]*")} == {"motion_codes.safetensors", "motion_codes.json"}


def test_a_stopped_extraction_goes_on(run_example, options, expected, tmp_path):
    # Clips are encoded, but the result cannot be written: its name is taken by a folder.
    (tmp_path / "motion_codes.json" / "taken").mkdir(parents=True)
    with pytest.raises(AssertionError):
        run_example("extract_motion_codes.py", *options, "--output_dir", tmp_path, "--horizontal_flip")
    (finished,) = tmp_path.glob(".clips-*")
    clips = sorted(finished.iterdir())
    assert len(clips) == 3
    # The first clip is known by its mark, the second was not reached, the third was being written.
    first = load_file(clips[0])["codes"]
    save_file({"codes": torch.full_like(first, 42)}, clips[0])
    clips[1].unlink()
    clips[2].rename(clips[2].with_suffix(".partial"))
    clips[2].with_suffix(".partial").write_bytes(b"half")
    (tmp_path / "motion_codes.json" / "taken").rmdir()
    (tmp_path / "motion_codes.json").rmdir()

    run_example("extract_motion_codes.py", *options, "--output_dir", tmp_path, "--horizontal_flip")
    motion_codes = MotionCodes.load(tmp_path)
    assert motion_codes.clip_names == [name + suffix for name in LENGTHS for suffix in ("", " (mirrored)")]
    codes = dict(zip(motion_codes.clip_names, motion_codes.clips(), strict=True))
    assert torch.all(codes["a.mp4"] == 42) and len(codes["a.mp4"]) == 20
    for name in ("deep/b.mp4", "frames"):
        for suffix, reference in zip(("", " (mirrored)"), expected[name]):
            torch.testing.assert_close(codes[name + suffix], reference, rtol=1e-4, atol=1e-5)
    assert {path.name for path in tmp_path.glob("[!.]*")} == {"motion_codes.safetensors", "motion_codes.json"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["--min_frames", 64], "No clip in .* can be used.*a.mp4"),
        (["--train_data_dir", "nowhere"], "no folder nowhere"),
        (["--pretrained_model_name_or_path", "nowhere/animator"], "nowhere/animator"),
    ],
)
def test_bad_input_is_refused_in_one_line(run_example, options, tmp_path, changes, message):
    options = [*options, "--output_dir", tmp_path / "out", *changes]
    said = run_example("extract_motion_codes.py", *options, is_refused=True)
    assert re.search(message, said.splitlines()[-1])
    assert not list(tmp_path.rglob("motion_codes.*"))
