import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers import DEMO_MODEL, LEOInfinitePipeline, LEOPipeline, LIAPipeline, cli, demo
from leo_diffusers.cli import main
from leo_diffusers.data.talking_heads import FIRST_HELD_OUT_SEED
from leo_diffusers.video_io import SYNTHETIC, VideoReader, VideoWriter, read_image, read_video, to_uint8


FROM_NOTHING = ["unconditional-1", "unconditional-2"]
OF_A_PICTURE = ["generated-1", "generated-2", "recombined-1", "recombined-2", "recombined-3", "endless"]
OF_THE_ANIMATOR = ["driving-1", "animated-1", "original", "edited"]
TINY_FRAMES, LONG_FRAMES = 16, 20  # the tiny motion model's sequences, and more


@pytest.fixture
def run(tmp_path, full_folder, monkeypatch):
    """Runs the command, with fewer frames."""
    monkeypatch.setattr(demo, "LONG_FRAMES", LONG_FRAMES)

    def run_demo(*options: object, model: Path = full_folder, output: str = "demo") -> int:
        return main([str(word) for word in ("demo", "--model", model, "--output", tmp_path / output, *options)])

    return run_demo


def names_in(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.glob("*.mp4"))


def pixels_of(path: Path) -> np.ndarray:
    return to_uint8(read_video(path))


def assert_close_video(path: Path, frames: np.ndarray) -> None:
    """The file shows `frames` (F, H, W, 3) in [0, 1], up to what H.264 loses."""
    written = pixels_of(path).astype(np.float32)
    assert written.shape == frames.shape
    assert np.abs(written - frames * 255).mean() < 12


# --- what is written ---


def test_everything(tmp_path, run, capsys):
    assert run() == 0
    folder = tmp_path / "demo"
    names = sorted(FROM_NOTHING + OF_A_PICTURE + OF_THE_ANIMATOR)
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [f"{name}.mp4" for name in names] + ["contact_sheet.png", "moving_sheet.webp"]
    )
    for name in names:
        video = VideoReader(folder / f"{name}.mp4")
        assert len(video) == (LONG_FRAMES if name == "endless" else TINY_FRAMES)
        assert (video.height, video.width, video.frames_per_second) == (32, 32, 25)
    with Image.open(folder / "contact_sheet.png") as sheet:
        assert sheet.size == (10 * 32, len(names) * (demo.TITLE_HEIGHT + 32))
    said = capsys.readouterr()
    assert said.out == f"Wrote 12 videos to {folder}: look at contact_sheet.png and moving_sheet.webp.\n"
    assert "12/12" in said.err and "warning" not in said.err


def test_the_contact_sheet_shows_the_videos(tmp_path, run):
    assert run() == 0
    sheet = to_uint8(read_image(tmp_path / "demo" / "contact_sheet.png")).astype(float)
    rows = [*FROM_NOTHING, *OF_A_PICTURE[:2], *OF_THE_ANIMATOR, *OF_A_PICTURE[2:]]
    for index, name in enumerate(rows):
        bottom = (index + 1) * (demo.TITLE_HEIGHT + 32)
        title, row = sheet[bottom - 32 - demo.TITLE_HEIGHT : bottom - 32], sheet[bottom - 32 : bottom]
        assert title.min() < 100 and title.max() == 255
        pixels = pixels_of(tmp_path / "demo" / f"{name}.mp4").astype(float)
        assert np.abs(row[:, :32] - pixels[0]).mean() < 12 and np.abs(row[:, -32:] - pixels[-1]).mean() < 12


def test_all_videos_play_in_the_moving_sheet(tmp_path, run):
    assert run() == 0
    names = [*FROM_NOTHING, *OF_A_PICTURE[:2], *OF_THE_ANIMATOR, *OF_A_PICTURE[2:]]
    height = demo.TITLE_HEIGHT + demo.MOVING_SIZE
    with Image.open(tmp_path / "demo" / "moving_sheet.webp") as sheet:
        assert sheet.n_frames == LONG_FRAMES and sheet.size == (6 * demo.MOVING_SIZE, 2 * height)
        for frame_index in (0, 7, LONG_FRAMES - 1):
            sheet.seek(frame_index)
            shown = np.asarray(sheet.convert("RGB")).astype(float)
            for index, name in enumerate(names):
                top, left = index // 6 * height + demo.TITLE_HEIGHT, index % 6 * demo.MOVING_SIZE
                cell = shown[top : top + demo.MOVING_SIZE, left : left + demo.MOVING_SIZE]
                pixels = pixels_of(tmp_path / "demo" / f"{name}.mp4").astype(float)
                small = cell.reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
                assert np.abs(small - pixels[min(frame_index, len(pixels) - 1)]).mean() < 20, name


def test_a_copy_of_a_recording_is_not_called_synthetic(tmp_path, run):
    recording = tmp_path / "recording.mp4"
    with VideoWriter(recording, 25, comment=None) as writer:
        writer.write(torch.zeros(4, 3, 32, 32))
    assert run("--driving-video", recording) == 0
    for name, is_recording in (("driving-1", False), ("driving-2", True), ("animated-2", False)):
        written = (tmp_path / "demo" / f"{name}.mp4").read_bytes()
        assert (SYNTHETIC.encode() in written) != is_recording, name


def test_the_same_seed_gives_the_same_frames(tmp_path, run):
    for output, seed in (("a", -3), ("b", -3), ("c", 4)):
        assert run("--seed", seed, output=output) == 0
    for name in names_in(tmp_path / "a"):
        a, b, c = (pixels_of(tmp_path / output / f"{name}.mp4") for output in "abc")
        assert np.array_equal(a, b) and not np.array_equal(a, c), name


def test_people_are_held_out(full_folder, monkeypatch):
    seeds = []
    render = demo.render_clip

    def render_clip(identity_seed, motion_seed, *arguments):
        seeds.extend([identity_seed, motion_seed])
        return render(identity_seed, motion_seed, *arguments)

    monkeypatch.setattr(demo, "render_clip", render_clip)
    demo.Demo(LEOPipeline.from_pretrained(full_folder), image=None, driving_video=None, seed=-7)
    assert min(seeds) >= FIRST_HELD_OUT_SEED and len(set(seeds)) == demo.NUM_PEOPLE


def test_an_edit_keeps_the_pose_and_changes_the_looks(full_folder):
    show = demo.Demo(LIAPipeline.from_pretrained(full_folder), image=None, driving_video=None, seed=0)
    first, original = next(show.edited()), show.original_clip.frames[0] / 255.0
    assert first.shape == original.shape and np.abs(first - original).mean() > 0.02


def test_one_motion_on_several_people(full_folder):
    show = demo.Demo(LEOPipeline.from_pretrained(full_folder), image=None, driving_video=None, seed=0)
    assert not torch.equal(*show.motion_codes)
    shown = show.leo(show.pictures[0], num_frames=TINY_FRAMES, generator=show.generator(0), output_type="np")
    np.testing.assert_allclose(show.generated(0), shown.frames[0], atol=1e-4)
    transfer = {"motion_codes": shown.motion_codes, "motion_mode": "relative"}
    for index, other in enumerate(show.others):
        expected = show.leo(other, **transfer, output_type="np").frames[0]
        np.testing.assert_allclose(show.recombined(index), expected, atol=1e-4)


def test_a_photo_and_a_driving_video(tmp_path, run, photo, driving_video, full_folder):
    photo.save(tmp_path / "photo.png")
    assert run("--image", tmp_path / "photo.png", "--driving-video", driving_video) == 0
    folder = tmp_path / "demo"
    assert set(names_in(folder)) == {*FROM_NOTHING, *OF_A_PICTURE, *OF_THE_ANIMATOR, "driving-2", "animated-2"}
    for name in ("driving-2", "animated-2"):
        video = VideoReader(folder / f"{name}.mp4")
        assert (len(video), video.frames_per_second, video.has_audio) == (7, 24, True)
    lia = LIAPipeline.from_pretrained(full_folder)
    assert_close_video(folder / "animated-2.mp4", lia(photo, driving_video, output_type="np").frames[0])
    still = lia.manipulate(photo, {}, output_type="np").frames[0]
    for name in ("generated-1", "generated-2", "animated-1", "endless"):
        assert np.abs(pixels_of(folder / f"{name}.mp4")[:1] - still * 255).mean() < 12
    assert not np.array_equal(*(pixels_of(folder / f"generated-{index}.mp4") for index in (1, 2)))


def test_a_long_driving_video_is_cut(tmp_path, run, driving_video, monkeypatch, lia_folder):
    monkeypatch.setattr(demo, "LONG_FRAMES", 5)
    assert run("--driving-video", driving_video, model=lia_folder) == 0
    assert len(VideoReader(tmp_path / "demo" / "animated-2.mp4")) == 5


def test_a_number_format(tmp_path, run):
    assert run("--dtype", "bfloat16", "--device", "cpu") == 0
    assert len(names_in(tmp_path / "demo")) == 12


# --- models without some parts ---


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ({"motion_prior": None}, "no motion_prior"),
        (
            {"first_frame_unet": None, "first_frame_scheduler": None},
            "no first_frame_unet, first_frame_scheduler",
        ),
    ],
)
def test_without_what_video_from_nothing_needs(tmp_path, run, capsys, make_full_pipeline, left_out, message):
    make_full_pipeline(LEOInfinitePipeline, **left_out).save_pretrained(tmp_path / "model")
    assert run(model=tmp_path / "model") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert lines == [f"leo-diffusers: warning: The model has {message}: the unconditional videos are left out."]
    assert names_in(tmp_path / "demo") == sorted(OF_A_PICTURE + OF_THE_ANIMATOR)


@pytest.mark.parametrize("condition", [None, "none"])
def test_without_motion_that_goes_on(
    tmp_path, run, capsys, monkeypatch, condition, lia_folder, make_full_pipeline, make_motion_unet
):
    monkeypatch.setattr(demo, "NUM_FRAMES", 6)
    model = lia_folder
    if condition is not None:
        model = tmp_path / "model"
        make_full_pipeline(motion_unet=make_motion_unet(condition=condition)).save_pretrained(model)
    assert run(model=model) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert lines == [
        "leo-diffusers: warning: The model has no motion_unet that goes on from a picture: the unconditional, "
        "generated, recombined and endless videos are left out."
    ]
    assert names_in(tmp_path / "demo") == sorted(OF_THE_ANIMATOR)
    assert {len(VideoReader(path)) for path in (tmp_path / "demo").glob("*.mp4")} == {6}


def test_transitions_where_the_model_has_them(full_folder, make_full_pipeline, monkeypatch):
    monkeypatch.setattr(demo, "LONG_FRAMES", 40)  # a chunk, and more

    def endless(pipeline) -> np.ndarray:
        return np.stack(list(demo.Demo(pipeline, image=None, driving_video=None, seed=0).endless()))

    with_transitions = endless(LEOInfinitePipeline.from_pretrained(full_folder))
    without = endless(make_full_pipeline())
    assert with_transitions.shape == without.shape == (40, 32, 32, 3)
    assert np.array_equal(with_transitions[:TINY_FRAMES], without[:TINY_FRAMES])
    assert not np.array_equal(with_transitions[TINY_FRAMES:], without[TINY_FRAMES:])


# --- bad input ---


def assert_refused(capsys, code: int, message: str) -> None:
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if "error: " in line]
    assert code == 2 and "Traceback" not in error
    assert len(lines) == 1 and error.splitlines()[-1] == lines[0] and message in lines[0], error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "nowhere.png"], "There is no image nowhere.png"),
        (["--image", "{text}"], "cannot be read as an image"),
        (["--driving-video", "nowhere.mp4"], "There is no video nowhere.mp4"),
        (["--driving-video", "{text}"], "text.png"),
        (["--model", "{nowhere}"], "nowhere: name its folder or Hub id by --model"),
        (["--model", "{stable_diffusion}"], "has no animator: name a LEO or LIA model by --model"),
        (["--output", "{text}"], "exists and is not an empty folder"),
    ],
)
def test_bad_input_is_one_line(tmp_path, run, capsys, stable_diffusion_folder, options, message):
    (tmp_path / "text.png").write_text("this is text")
    places = {"text": tmp_path / "text.png", "nowhere": tmp_path / "nowhere"}
    options = [option.format(**places, stable_diffusion=stable_diffusion_folder) for option in options]
    assert_refused(capsys, run(*options), message)
    assert [path.name for path in tmp_path.iterdir()] == ["text.png"]


def test_a_photo_that_is_cropped_is_warned_of_once(tmp_path, run, photo, capsys):
    photo.resize((48, 32)).save(tmp_path / "photo.png")
    assert run("--image", tmp_path / "photo.png") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning: " in line]
    assert len(lines) == 1 and "only its central 32x32 square is used" in lines[0]


# --- the embedded model as the default ---


COMMANDS = {
    "demo": [],
    "generate": [],
    "stream": [],
    "animate": ["--image", "{photo}", "--driving-video", "{video}"],
    "edit": ["--video", "{video}", "--edited-frame", "{photo}"],
    "manipulate": ["--image", "{photo}", "--direction", "0=1"],
}


@pytest.fixture
def words(tmp_path, photo, driving_video, full_folder):
    """A command without --model."""
    photo.save(tmp_path / "photo.png")
    places = {"photo": tmp_path / "photo.png", "video": driving_video, "full": full_folder}

    def words_of(command: str) -> list[str]:
        output = tmp_path / ("out" if command == "demo" else "out.mp4")
        return [command, "--output", str(output), *(word.format(**places) for word in COMMANDS[command])]

    return words_of


def test_the_embedded_model_lies_in_the_package():
    assert Path(DEMO_MODEL) == Path(demo.__file__).parent / "demo_model"
    assert cli.DEMO_MODEL == DEMO_MODEL


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_runs_the_embedded_model(tmp_path, words, command, monkeypatch, full_folder):
    monkeypatch.setattr(cli, "DEMO_MODEL", str(full_folder))
    monkeypatch.setattr(demo, "LONG_FRAMES", LONG_FRAMES)
    fewer = {"generate": ["--num-frames", "4"], "stream": ["--num-frames", "4"]}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert main([*words(command), *fewer.get(command, [])]) == 0
    assert list(tmp_path.glob("out*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_an_embedded_model_that_was_left_out(tmp_path, words, command, monkeypatch, capsys):
    monkeypatch.setattr(cli, "DEMO_MODEL", str(tmp_path / "demo_model"))
    message = f"There is no model in {tmp_path}/demo_model: name its folder or Hub id by --model."
    assert_refused(capsys, main(words(command)), message)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_names_the_embedded_model(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert "(default: the embedded model)" in " ".join(capsys.readouterr().out.split())
