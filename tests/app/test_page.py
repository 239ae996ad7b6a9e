"""The page in a real browser, served by `leo-diffusers app` on the embedded model."""

import io
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leo_diffusers.video_io import Square, VideoReader, to_frame, write_video


pytestmark = pytest.mark.browser
pytest.importorskip("gradio")
pytest.importorskip("playwright")

TABS = ("Animate", "Generate", "Endless", "Edit", "Explore")
PHONE = {"width": 390, "height": 844}
ACTION_SECONDS = 60
GONE_SECONDS = 60  # that a server has to notice that somebody left, and to clean up


def file_of(address: str) -> Path:
    """The file on the server behind a video's address."""
    return Path(address.split("file=", 1)[1])


def is_gone(paths: list[Path]) -> bool:
    """Waits until none of the files is there any more."""
    deadline = time.monotonic() + GONE_SECONDS
    while any(path.exists() for path in paths) and time.monotonic() < deadline:
        time.sleep(0.2)
    return not any(path.exists() for path in paths)


@pytest.fixture
def visitor(visit):
    return visit()


def generate_quickly(visitor, seed: int = 0, seconds: float = 0.4, steps: int = 4) -> None:
    visitor.open_tab("Generate")
    for name, value in (("seed", seed), ("seconds", seconds), ("steps", steps)):
        visitor.set_number(f"generate-{name}", value)
    visitor.click("generate-start")


def test_animate(visitor, driving_video):
    visitor.clear("animate-driving")
    visitor.upload("animate-driving", driving_video)
    visitor.page.locator("#animate-driving video[src*='driving.mp4']").wait_for()
    visitor.click("animate-start")
    result, comparison = (file_of(visitor.played(f"animate-{name}")) for name in ("result", "comparison"))
    for path, width in ((result, 128), (comparison, 3 * 128)):
        video, driving = VideoReader(path), VideoReader(driving_video)
        assert (video.width, video.height) == (width, 128)
        assert (len(video), video.frames_per_second) == (len(driving), driving.frames_per_second)
        assert driving.has_audio and video.has_audio == (path == result)  # or it would be heard twice


def test_a_result_goes_back_into_a_photo_that_is_more_than_a_face(visitor, driving_video, page_server, tmp_path):
    sample = np.asarray(Image.open(page_server.folder / "samples" / "person-1.png").convert("RGB"))
    Image.fromarray(np.pad(sample, ((0, 0), (40, 90), (0, 0)), constant_values=255)).save(tmp_path / "wide.png")
    for name, path in (("animate-driving", driving_video), ("animate-photo", tmp_path / "wide.png")):
        visitor.clear(name)
        visitor.upload(name, path)
        visitor.page.locator(f"#{name} [src*='{path.name}']").wait_for()
    view = visitor.page.locator("#animate-photo-view img")
    assert np.asarray(Image.open(file_of(view.get_attribute("src")))).shape == (128, 128, 3)
    visitor.page.locator("#animate-settings > button").click()
    visitor.page.locator("#animate-paste input").check()
    visitor.click("animate-start")
    first = next(iter(VideoReader(file_of(visitor.played("animate-result")))))
    assert first.shape == (3, 128, 258)
    assert first[:, :, :30].mean() > 0.97 and first[:, :, 180:].mean() > 0.97  # as the photo is
    comparison = next(iter(VideoReader(file_of(visitor.played("animate-comparison")))))
    expected = to_frame(Image.open(tmp_path / "wide.png"), 128, Square(0, 46, 128))  # the centre begins at 65
    assert comparison.shape == (3, 128, 3 * 128)
    assert (comparison[:, :, 128:256] - expected).abs().mean() < 0.03
    visitor.page.locator("#animate-crop").get_by_text("All of it").click()
    visitor.click("animate-start")
    visitor.message("The photo is 258x128 pixels and not square")


def test_generate_shows_its_progress(visitor):
    # Noted in the page: on a fast machine it is gone before anyone asks for it.
    visitor.page.evaluate("""() => {
        window.seen = "";
        const note = () => { window.seen += document.querySelector("#generate-result")?.innerText ?? ""; };
        new MutationObserver(note).observe(document.body, {subtree: true, childList: true, characterData: true});
    }""")
    generate_quickly(visitor, seconds=2.56, steps=30)
    assert len(VideoReader(file_of(visitor.played("generate-result")))) == 64
    seen = visitor.page.evaluate("window.seen")
    assert re.search(r"\d+/30 steps", seen) and re.search(r"\d+/64 frames", seen)


def test_endless_plays_while_it_goes_on_and_is_kept_when_it_is_stopped(visitor):
    visitor.open_tab("Endless")
    visitor.click("endless-start")
    assert visitor.played("endless-live").startswith("blob:")
    status = visitor.page.locator("#endless-status")
    made = float(re.search(r"([\d.]+) of 20 seconds", status.inner_text())[1])
    assert made < 20
    visitor.page.wait_for_function(
        "made => parseFloat(document.querySelector('#endless-status').innerText) > made", arg=made
    )
    visitor.click("endless-stop")
    video = VideoReader(file_of(visitor.played("endless-finished")))
    assert made * 25 <= len(video) < 20 * 25


def wait_for_hair(canvas, is_pink: bool) -> None:
    """Waits until the canvas shows the edited frame, or the person as she is; no event tells."""
    for _ in range(ACTION_SECONDS):
        pixels = np.asarray(Image.open(io.BytesIO(canvas.screenshot())).convert("RGB"), float)
        red, green, blue = pixels.transpose(2, 0, 1)
        if (np.mean((red > 140) & (green < 90) & (blue > 90)) > 0.02) == is_pink:
            return
        time.sleep(1)
    raise AssertionError(f"The hair is {'not ' * is_pink}pink.")


def test_edit(visitor):
    visitor.open_tab("Edit")
    visitor.click("edit-start")
    visitor.message("no edited frame yet")
    visitor.page.locator("#edit-examples tbody tr").first.click()
    canvas = visitor.page.locator("#edit-frame")
    wait_for_hair(canvas, is_pink=True)
    visitor.click("edit-start")
    frame = next(iter(VideoReader(file_of(visitor.played("edit-result")))))
    hair = frame[:, 10:20, 54:74].mean(dim=(1, 2))
    assert hair[2] > hair[1] + 0.1  # the person in the video is blonde
    visitor.page.locator("#edit-settings > button").click()
    visitor.page.locator("#edit-crop").get_by_text("The centre").click()
    wait_for_hair(canvas, is_pink=False)  # it was painted on another square
    visitor.click("edit-first")
    wait_for_hair(canvas, is_pink=False)


def files_below(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_nothing_of_an_edit_stays_behind(visit, page_server, driving_video):
    visitor = visit()
    before = files_below(page_server.folder)
    visitor.open_tab("Edit")
    visitor.clear("edit-video")
    visitor.upload("edit-video", driving_video)
    visitor.page.locator("#edit-video video[src*='driving.mp4']").wait_for()
    visitor.click("edit-first")
    visitor.page.wait_for_timeout(3000)  # no event tells that the canvas shows it
    visitor.click("edit-start")
    visitor.played("edit-result")
    assert len(files_below(page_server.folder) - before) >= 4  # video, first frame, canvas, result
    visitor.page.context.close()
    assert is_gone(list(files_below(page_server.folder) - before))


def test_a_prompt_edits(visit, start_page, stable_diffusion_folder):
    server = start_page("--editor", str(stable_diffusion_folder))
    visitor = visit(server.url)
    visitor.open_tab("Edit")
    visitor.page.locator("#edit-prompt textarea").fill("a man with a red hat")
    visitor.click("edit-start")
    assert len(VideoReader(file_of(visitor.played("edit-result")))) == 75


def wait_for_preview(visitor, is_right: Callable[[np.ndarray], bool]) -> np.ndarray:
    """Waits until the preview shows what it should."""
    for _ in range(10 * ACTION_SECONDS):
        picture = np.asarray(
            Image.open(file_of(visitor.page.locator("#explore-preview img").get_attribute("src"))), float
        )
        if is_right(picture):
            return picture
        time.sleep(0.1)
    raise AssertionError("The preview shows something else.")


def test_explore(visitor):
    visitor.open_tab("Explore")
    original = wait_for_preview(visitor, lambda picture: True)
    visitor.set_number("direction-1", 4)
    wait_for_preview(visitor, lambda picture: np.abs(picture - original).mean() > 4)
    visitor.click("explore-reset")
    wait_for_preview(visitor, lambda picture: np.array_equal(picture, original))
    visitor.set_number("explore-seconds", 0.4)
    visitor.click("explore-start")
    assert len(VideoReader(file_of(visitor.played("explore-walk")))) == 10


def test_two_seeds(visitor):
    visitor.open_tab("Explore")
    visitor.page.locator("#explore-seeds > button").click()
    visitor.set_number("seeds-seconds", 0.4)
    visitor.set_number("seeds-steps", 4)
    visitor.click("seeds-start")
    first, second = (visitor.played(f"seeds-result-{name}") for name in "AB")
    assert file_of(first).read_bytes() != file_of(second).read_bytes()


def test_two_visitors_at_once_and_nothing_stays_behind(visit, page_server):
    visitors = [visit(), visit()]
    for visitor in visitors:
        generate_quickly(visitor)  # the same wish
    paths = [file_of(visitor.played("generate-result")) for visitor in visitors]
    assert paths[0].name != paths[1].name
    assert all(page_server.folder in path.parents for path in paths)
    visitors[0].page.context.close()
    assert is_gone(paths[:1]) and paths[1].exists()
    visitors[1].page.context.close()
    assert is_gone(paths)


def test_stop_ends_the_work(visitor, tmp_path):
    # More than can be rendered before a busy browser finds the button.
    write_video(tmp_path / "driving.mp4", np.zeros((590, 32, 32, 3), np.uint8), 60)
    visitor.clear("animate-driving")
    visitor.upload("animate-driving", tmp_path / "driving.mp4")
    visitor.page.locator("#animate-driving video[src*='driving.mp4']").wait_for()
    visitor.click("animate-start")
    visitor.page.locator("#animate-result", has_text="frames").wait_for()
    visitor.click("animate-stop")
    visitor.message("Stopped")
    assert visitor.page.locator("#animate-result video").count() == 0
    generate_quickly(visitor)
    visitor.played("generate-result")


def bad_files(folder: Path) -> list[tuple[str, Path, str]]:
    """Of each the field, the file, and what the page says of it."""
    still = np.zeros((1, 32, 32, 3), np.uint8)
    write_video(folder / "still.mp4", still, 25)
    write_video(folder / "long.mp4", still.repeat(110, axis=0), 10)
    (folder / "text.png").write_text("no image at all")
    (folder / "text.mp4").write_text("no video at all")
    (folder / "large.png").write_bytes(bytes(2_000_000))
    return [
        ("animate-photo", folder / "text.png", "text.png cannot be read as an image"),
        ("animate-driving", folder / "text.mp4", "text.mp4 is empty, cut off, damaged or no video"),
        ("animate-driving", folder / "still.mp4", "still.mp4 has a single frame, which holds no motion"),
        ("animate-driving", folder / "long.mp4", "long.mp4 is longer than the 10 seconds"),
        ("animate-photo", folder / "large.png", "maximum allowed size"),
    ]


def test_bad_uploads_are_refused_with_a_message(visitor, page_server, tmp_path):
    for name in ("animate-photo", "animate-driving"):
        visitor.clear(name)
    for name, path, words in bad_files(tmp_path):
        visitor.upload(name, path)
        assert str(page_server.folder) not in visitor.message(words)
    visitor.click("animate-start")
    visitor.message("no photo yet")


def test_a_phone_scrolls_down_only(visit):
    visitor = visit()
    visitor.page.set_viewport_size(PHONE)
    for tab in TABS:
        visitor.open_tab(tab)
        visitor.page.locator(f"#{tab.lower()}-start").wait_for()
        assert visitor.page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    visitor.page.locator("#direction-12").scroll_into_view_if_needed()
    preview = visitor.page.locator("#explore-preview").bounding_box()
    assert 0 <= preview["y"] < PHONE["height"] / 2  # in sight of every slider


def test_what_the_page_says_of_itself(visitor):
    text = visitor.page.locator("body").inner_text()
    assert "drawn people only" in text
    assert "without that person's consent" in text
    assert "Say that a video was generated" in text


def test_nothing_of_all_this_was_a_failure_on_the_server(page_server):
    assert page_server.process.poll() is None
    _, _, failure = "".join(page_server.log).partition("Traceback")
    assert not failure, failure


def test_the_end_of_the_server_leaves_nothing(start_page):
    server = start_page()
    assert (server.folder / "samples").is_dir()
    server.process.terminate()
    assert server.process.wait(60) == 0
    assert not server.folder.exists()
