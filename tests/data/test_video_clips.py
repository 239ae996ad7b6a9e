import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers.data.video_clips import VideoClip, find_clips, hold_out_frames
from leo_diffusers.video_io import read_video, to_frame


CLIPS = Path(__file__).resolve().parents[2].parent / "shared" / "clips"


def names(clips):
    return [clip.name for clip in clips]


def texture(size: int = 256, seed: int = 0) -> np.ndarray:
    """Noise whose amplitude falls with 1 / frequency, as that of photographs does, (H, W, 3) uint8."""
    noise = np.random.default_rng(seed).standard_normal((size, size, 3))
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.fftfreq(size)[None])
    frequency[0, 0] = 1
    noise = np.fft.ifft2(np.fft.fft2(noise, axes=(0, 1)) / frequency[..., None], axes=(0, 1)).real
    return np.clip(128 + 40 * noise / noise.std(), 0, 255).astype(np.uint8)


def resize(pixels: np.ndarray, size: int, resampling: Image.Resampling) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).resize((size, size), resampling))


def test_clips_are_found_at_any_depth(tmp_path, talking_head, write_clip):
    write_clip(tmp_path / "b.mp4", talking_head(0, 5), 24)
    write_clip(tmp_path / "a" / "deep" / "clip.mp4", talking_head(1, 6))
    write_clip(tmp_path / "a" / "frames", talking_head(2, 3))
    write_clip(tmp_path / ".hidden" / "clip.mp4", talking_head(3, 3))
    (tmp_path / "notes.txt").write_text("no clip")
    clips, report = find_clips(str(tmp_path))
    assert [(clip.name, clip.num_frames, clip.frames_per_second, clip.start_frame) for clip in clips] == [
        ("a/deep/clip.mp4", 6, 25, 0),
        ("a/frames", 3, 25, 0),
        ("b.mp4", 5, 24, 0),
    ]
    assert all(len(read_video(clip.path)) == clip.num_frames for clip in clips)
    assert report.summary() == ""


def test_metadata_assigns_splits(tmp_path, talking_head, write_clip):
    for name in ("a.mp4", "sub/b.mp4", "c.mp4", "unnamed.mp4"):
        write_clip(tmp_path / name, talking_head(0, 2))
    (tmp_path / "metadata.csv").write_text(
        "file_name,comment,split\na.mp4,x,train\nsub/b.mp4,y,validation\nc.mp4,z,test\n"
    )
    assert names(find_clips(tmp_path)[0]) == ["a.mp4", "unnamed.mp4"]
    assert names(find_clips(tmp_path, split="validation")[0]) == ["sub/b.mp4", "unnamed.mp4"]
    assert names(find_clips(tmp_path, split=None)[0]) == ["a.mp4", "c.mp4", "sub/b.mp4", "unnamed.mp4"]
    (tmp_path / "unnamed.mp4").unlink()
    with pytest.raises(ValueError, match="No clip in .* can be used"):
        find_clips(tmp_path, split="holdout")
    (tmp_path / "metadata.csv").write_text("clip,split\na.mp4,train\n")
    with pytest.raises(ValueError, match=r"metadata\.csv must have the columns file_name and split"):
        find_clips(tmp_path)


def test_bad_clips_are_skipped_and_named(tmp_path, talking_head, write_clip, caplog):
    write_clip(tmp_path / "good.mp4", talking_head(0, 4))
    with caplog.at_level(logging.INFO, logger="leo_diffusers"):
        find_clips(tmp_path, min_frames=4)
    assert caplog.text == ""

    write_clip(tmp_path / "short.mp4", talking_head(0, 3))
    (tmp_path / "text.mp4").write_text("this is no video")
    (tmp_path / "empty.mov").touch()
    with caplog.at_level(logging.WARNING, logger="leo_diffusers"):
        clips, report = find_clips(tmp_path, min_frames=4)
    assert names(clips) == ["good.mp4"]
    assert set(report.unreadable) == {"text.mp4", "empty.mov"} and all(report.unreadable.values())
    assert report.too_short == {"short.mp4": 3} and report.upscaled == {}
    for said in ("text.mp4", "empty.mov", "short.mp4 (3 frames)"):
        assert said in caplog.text and said in report.summary()
    assert "good.mp4" not in caplog.text


def test_clips_that_are_cut_off_count_as_far_as_they_go(tmp_path, write_clip, recwarn):
    frames = torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    whole = write_clip(tmp_path / "whole.mp4", frames).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    clips, report = find_clips(tmp_path, min_frames=4)
    lengths = {clip.name: clip.num_frames for clip in clips}
    assert lengths["whole.mp4"] == 20 and 4 <= lengths["cut.mp4"] < 20
    assert not recwarn.list


def test_folders_without_usable_clips_are_refused(tmp_path, talking_head, write_clip):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        find_clips(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty holds no videos"):
        find_clips(tmp_path / "empty")
    write_clip(tmp_path / "clips" / "short.mp4", talking_head(0, 3))
    (tmp_path / "clips" / "text.mp4").write_text("this is no video")
    with pytest.raises(ValueError, match="(?s)No clip in .*clips can be used.*text.mp4.*short.mp4"):
        find_clips(tmp_path / "clips", min_frames=8)
    with pytest.raises(ValueError, match="is a file"):
        find_clips(tmp_path / "clips" / "short.mp4")


def test_clips_smaller_than_the_training_size_are_reported(tmp_path, talking_head, write_clip, caplog):
    write_clip(tmp_path / "small.mp4", talking_head(0, 2, 64))
    write_clip(tmp_path / "large.mp4", talking_head(0, 2, 128))
    with caplog.at_level(logging.WARNING, logger="leo_diffusers"):
        clips, report = find_clips(tmp_path, min_size=128)
    assert names(clips) == ["large.mp4", "small.mp4"]
    assert report.upscaled == {"small.mp4": 64}
    assert "small.mp4 (64 pixels)" in caplog.text
    assert find_clips(tmp_path)[1].upscaled == {}


def test_sharp_clips_are_not_reported_as_upscaled(tmp_path, talking_head, write_clip):
    write_clip(tmp_path / "texture.mp4", to_frame(texture()).expand(2, 3, 256, 256))
    for seed in range(8):
        write_clip(tmp_path / f"head{seed}.mp4", talking_head(seed, 2, 256))
    clips, report = find_clips(tmp_path, min_size=256)
    assert len(clips) == 9 and report.upscaled == {}


@pytest.mark.parametrize("resampling", [Image.Resampling.BICUBIC, Image.Resampling.LANCZOS])
def test_upscaled_clips_are_reported(tmp_path, talking_head, write_clip, resampling):
    small = {"texture": resize(texture(), 128, Image.Resampling.LANCZOS)}
    for seed in range(3):
        head = talking_head(seed, 1, 128)[0]
        small[f"head{seed}"] = ((head.permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    for name, pixels in small.items():
        frame = to_frame(resize(pixels, 256, resampling))
        write_clip(tmp_path / f"{name}.mp4", frame.expand(2, 3, 256, 256))
    clips, report = find_clips(tmp_path, min_size=256)
    assert len(clips) == len(small)
    assert report.upscaled == {f"{name}.mp4": 128 for name in small}


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are no part of the repository")
def test_real_clips():
    clips, report = find_clips(CLIPS, min_frames=64, min_size=256)
    assert len(clips) == 5
    assert report.unreadable == {} and report.too_short == {}
    # The sharpest of them: a still camera close enough to see the cloth.
    assert "taichi/driving1.mp4" not in report.upscaled


def test_held_out_frames_partition_the_clips():
    clips = [VideoClip(Path(f"{length}.mp4"), f"{length}.mp4", length, 25, length % 7) for length in range(2, 60)]
    for fraction in (0.01, 0.05, 0.3, 0.8):
        kept, held_out = hold_out_frames(clips, fraction)
        held_by_name = {clip.name: clip for clip in held_out}
        assert names(kept) == names(clips) and len(held_by_name) == len(held_out)
        for clip, kept_clip in zip(clips, kept, strict=True):
            held = held_by_name.get(clip.name)
            frames = range(clip.start_frame, clip.start_frame + clip.num_frames)
            train = range(kept_clip.start_frame, kept_clip.start_frame + kept_clip.num_frames)
            if held is None:
                assert kept_clip == clip
                continue
            validation = range(held.start_frame, held.start_frame + held.num_frames)
            assert [*train, *validation] == list(frames)
            assert len(train) >= 2 and len(validation) >= 2
            assert len(validation) == 2 or abs(len(validation) - fraction * len(frames)) <= 0.5
    assert "2.mp4" not in names(hold_out_frames(clips, 0.05)[1])
    assert {"4.mp4", "59.mp4"} <= set(names(hold_out_frames(clips, 0.05)[1]))


def test_clips_that_were_seen_are_not_decoded_again(tmp_path, talking_head, write_clip):
    folder, cache = tmp_path / "clips", tmp_path / "clips.json"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4"):
        write_clip(folder / name, talking_head(num_frames=5))
    seen, _ = find_clips(folder, cache=cache)
    remembered = json.loads(cache.read_text())
    remembered["a.mp4"]["num_frames"] = 77  # only the cache can say so
    cache.write_text(json.dumps(remembered))
    assert {clip.name: clip.num_frames for clip in find_clips(folder, cache=cache)[0]} == {"a.mp4": 77, "b.mp4": 5}
    write_clip(folder / "a.mp4", talking_head(num_frames=6))
    assert {clip.name: clip.num_frames for clip in find_clips(folder, cache=cache)[0]} == {"a.mp4": 6, "b.mp4": 5}
    assert find_clips(folder)[0][1] == seen[1]


def test_a_split_without_clips_is_named(tmp_path, talking_head, write_clip):
    write_clip(tmp_path / "a.mp4", talking_head(num_frames=5))
    (tmp_path / "metadata.csv").write_text("file_name,split\na.mp4,test\n")
    with pytest.raises(ValueError, match="metadata.csv gives none to the split 'train'"):
        find_clips(tmp_path)
