import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers import DEMO_MODEL, LEOPipeline
from leo_diffusers.video_io import Square, VideoReader, to_frame, write_video


gr = pytest.importorskip("gradio")

from leo_diffusers.app.components import PageParts, generator_of, transfer_options  # noqa: E402
from leo_diffusers.app.crops import Cropping  # noqa: E402
from leo_diffusers.app.edit_tab import edit_video, fit_canvas, read_canvas  # noqa: E402
from leo_diffusers.app.endless_tab import go_on  # noqa: E402
from leo_diffusers.app.explore_tab import encoded  # noqa: E402
from leo_diffusers.app.generate_tab import generate_videos  # noqa: E402
from leo_diffusers.app.live_video import encode_piece  # noqa: E402
from leo_diffusers.app.samples import render_samples  # noqa: E402
from leo_diffusers.app.sessions import Job, Session, Sessions, StoppedError  # noqa: E402
from leo_diffusers.app.settings import AppSettings  # noqa: E402
from leo_diffusers.app.studio import Studio  # noqa: E402


CENTRE = Cropping("center")


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return render_samples(tmp_path_factory.mktemp("samples"), 128)


@pytest.fixture
def parts(studio, tmp_path) -> PageParts:
    return PageParts(studio, AppSettings(), Sessions(tmp_path), None)


class NotedJob(Job):
    """Remembers its progress."""

    def __init__(self, parts: PageParts):
        super().__init__(Session(parts.sessions.folder), "test")
        self.reports = []

    def report(self, *progress: object) -> None:
        super().report(*progress)
        self.reports.append(progress)


def test_generate_is_what_the_command_writes_and_tells_each_step(parts):
    job = NotedJob(parts)
    paths = generate_videos(parts, job, None, [3], seconds=0.24, steps=4, cropping=CENTRE)
    plain = LEOPipeline.from_pretrained(DEMO_MODEL)
    plain.set_progress_bar_config(disable=True)
    expected = plain(num_frames=6, num_inference_steps=4, generator=generator_of(3), output_type="pt").frames[0]
    frames = torch.stack(list(iter(VideoReader(paths[0]))))
    assert (frames / 2 + 0.5 - expected).abs().mean() < 0.02  # encoding
    steps = [report for report in job.reports if report[0] == "Denoising"]
    assert steps == [("Denoising", step, 4, "steps") for step in (1, 2, 3, 4)] * 2  # first frame, motion
    assert ("Rendering", 6, 6, "frames") in job.reports


def test_a_stopped_job_ends_at_its_next_step(parts):
    job = NotedJob(parts)
    job.is_stopped = True
    with pytest.raises(StoppedError):
        generate_videos(parts, job, None, [0], seconds=0.24, steps=4, cropping=CENTRE)
    assert job.reports == []


def test_endless_video_is_kept_when_it_is_stopped(parts, samples):
    job = NotedJob(parts)
    outputs = go_on(parts, job, samples.photos[0], 0, 5, "none", CENTRE)
    next(outputs)  # the fields are cleared
    pieces = [next(outputs)[0] for _ in range(2)]
    assert [piece.seconds for piece in pieces] == [1 / 25, 8 / 25]
    job.is_stopped = True
    assert "Finished" in next(outputs)[2]
    assert list(outputs) == []
    assert len(VideoReader(job.result)) == 1 + 8 + 25


def test_endless_video_goes_back_into_its_photo(parts, samples, tmp_path):
    photo = np.pad(np.asarray(Image.open(samples.photos[0]).convert("RGB")), ((0, 31), (0, 0), (0, 0)))
    Image.fromarray(photo[:, :127]).save(tmp_path / "high.png")
    job = NotedJob(parts)
    list(go_on(parts, job, str(tmp_path / "high.png"), 0, 0.4, "none", Cropping("center", paste_back=True)))
    frames = torch.stack(list(VideoReader(job.result)))
    assert frames.shape == (10, 3, 160, 128)  # even, of 159 x 127
    assert (frames[:, :, 147:] < -0.9).all() and (frames[:, :, 40:100] > -0.9).any()


@pytest.mark.parametrize("size", [(32, 32), (31, 33)])
def test_pieces_join_to_one_video(tmp_path, size):
    frames = torch.rand(10, 3, *size) * 2 - 1
    pieces = [encode_piece(list(frames[:4]), 25, 0), encode_piece(list(frames[4:]), 25, 4 / 25)]
    (tmp_path / "joined.ts").write_bytes(b"".join(piece.data for piece in pieces))
    video = VideoReader(tmp_path / "joined.ts")
    assert (len(video), video.frames_per_second) == (10, 25)


def test_endless_video_that_ends_by_itself_plays_on(parts, samples):
    job = NotedJob(parts)
    *_, last = go_on(parts, job, samples.photos[0], 0, 0.4, "none", CENTRE)
    live, finished, message = last
    assert live == gr.skip() and finished.visible and not finished.autoplay and "Finished: 0.4" in message


def canvas(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """A red picture on an empty canvas."""
    picture = Image.new("RGBA", size)
    picture.paste((255, 0, 0, 255), box)
    return picture


def test_an_edited_frame_is_the_square_or_all_of_a_frame(tmp_path):
    write_video(tmp_path / "wide.mp4", np.zeros((3, 60, 100, 3), np.uint8), 25)
    video, square = VideoReader(tmp_path / "wide.mp4"), Square(0, 20, 60)
    parts = PageParts(None, AppSettings(), Sessions(tmp_path), None)
    for box, is_right in (((0, 0, 64, 64), True), ((0, 13, 64, 51), True), ((0, 20, 64, 40), False)):
        job, files = NotedJob(parts), [tmp_path / "canvas.png"]
        picture = read_canvas(parts, job, {"composite": canvas((64, 64), box), "files": files})
        assert picture.size == (box[2] - box[0], box[3] - box[1])
        assert job.session.uploads == {tmp_path / "canvas.png"}
        if is_right:
            frame = fit_canvas(picture, video, square, 32)
            assert frame.shape == (3, 32, 32) and (frame[0] > 0.95).all() and (frame[1:] < -0.95).all()
        else:
            with pytest.raises(ValueError, match="neither square nor of the video's shape"):
                fit_canvas(picture, video, square, 32)
    assert read_canvas(parts, job, {"composite": canvas((64, 64), (0, 0, 0, 0)), "files": []}) is None


def test_samples_are_everybodys(samples, tmp_path):
    shutil.copy(samples.photos[0], tmp_path)
    assert samples.holds(tmp_path / Path(samples.photos[0]).name)
    Image.new("RGB", (8, 8)).save(tmp_path / "person-1.png")
    assert not samples.holds(tmp_path / "person-1.png") and not samples.holds(tmp_path / "other.png")


def test_preview_and_walk(studio, samples, parts):
    job = NotedJob(parts)
    source = encoded(parts, job.session, samples.photos[0], "center")
    assert encoded(parts, job.session, samples.photos[0], "center") is source
    assert encoded(parts, job.session, samples.photos[1], "center") is not source
    amounts = [0.0] * 20
    amounts[1] = 2.0
    still, moved = studio.preview(source, [0.0] * 20), studio.preview(source, amounts)
    assert still.shape == (3, 128, 128) and (still - moved).abs().mean() > 0.02
    walk = list(studio.walk(source, amounts, 6))
    assert len(walk) == 6
    torch.testing.assert_close(walk[2], moved.clamp(-1, 1), atol=1e-4, rtol=0)
    torch.testing.assert_close(walk[0], walk[5], atol=1e-4, rtol=0)
    deviations = studio.leo.motion_unet.config.motion_std
    assert studio.direction_reaches() == [3 * deviation for deviation in deviations]


def test_a_prompt_edits(stable_diffusion_folder, samples, tmp_path):
    studio = Studio(AppSettings(device="cpu", editor=str(stable_diffusion_folder)))
    studio.edit.editor.pipeline.set_progress_bar_config(disable=True)
    parts = PageParts(studio, AppSettings(), Sessions(tmp_path), None)
    job, options = NotedJob(parts), transfer_options("relative", "first", 1, 0)
    first, other, again = (
        Path(edit_video(parts, job, samples.videos[0], None, ("red hair", 0.1, seed), CENTRE, options))
        for seed in (0, 1, 0)
    )
    assert len(VideoReader(first)) == len(VideoReader(samples.videos[0]))
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    assert job.reports[0][0] == "Editing the first frame"
    with pytest.raises(ValueError, match="no edited frame yet"):
        edit_video(parts, job, samples.videos[0], None, ("", 0.1, 0), CENTRE, options)
    edited = Image.open(samples.edited_frames[0])
    with pytest.raises(ValueError, match="an edited frame and a prompt"):
        edit_video(parts, job, samples.videos[0], edited, ("red hair", 0.1, 0), CENTRE, options)


def test_an_edit_goes_back_into_the_video(parts, samples, tmp_path):
    frames = [to_frame(frame) for frame in VideoReader(samples.videos[0], num_frames=3)]
    wide = [torch.cat([frame[:, :, -30:], frame, frame[:, :, :30]], dim=-1) for frame in frames]
    write_video(tmp_path / "wide.mp4", torch.stack(wide), 25)
    edited = Image.open(samples.edited_frames[0])
    options = transfer_options("relative", "first", 1, 0)
    path = edit_video(
        parts, NotedJob(parts), str(tmp_path / "wide.mp4"), edited, ("", 0, 0), Cropping("center", True), options
    )
    (first, *_), (original, *_) = (list(VideoReader(video)) for video in (path, tmp_path / "wide.mp4"))
    assert first.shape == (3, 128, 188)
    assert (first - original)[:, :, :28].abs().mean() < 0.05 < (first - original)[:, :, 50:140].abs().mean()


def test_transfer_options():
    plain = transfer_options("relative", "auto", 1, 0)
    assert plain == {"motion_mode": "relative", "reference_frame": "auto", "motion_control": None}
    changed = transfer_options("absolute", "first", 1.5, 2)
    assert (changed["reference_frame"], changed["motion_control"].scale) == (0, 1.5)
    assert changed["motion_control"].smoothing == 2


def test_seeds():
    assert generator_of(5).initial_seed() == 5
    for seed in (None, -1):
        with pytest.raises(ValueError, match="whole number from 0"):
            generator_of(seed)
