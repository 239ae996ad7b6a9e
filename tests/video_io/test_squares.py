import numpy as np
import pytest
import torch

from leo_diffusers.video_io import Square, VideoReader, VideoWriter, centre_square, to_frame


def test_the_centre_is_what_frames_are_cropped_to_by_default():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    square = centre_square(40, 60)
    assert square == Square(top=0, left=10, side=40)
    with pytest.warns(UserWarning, match="only its central 40x40 square"):
        expected = to_frame(pixels, 32)
    assert torch.equal(to_frame(pixels, 32, square), expected)
    assert torch.equal(to_frame(pixels, square=square), to_frame(pixels[:, 10:50]))


@pytest.mark.filterwarnings("error")
def test_cutting_any_square(make_frames):
    pixels = np.random.default_rng(0).random((40, 60, 4)).astype(np.float32)  # transparent ones too
    cut = to_frame(pixels, 16, Square(5, 20, 24))
    assert torch.equal(cut, to_frame(np.ascontiguousarray(pixels[5:29, 20:44]), 16))


@pytest.mark.parametrize("square", [Square(-1, 0, 8), Square(0, 0, 41), Square(20, 0, 24), Square(0, 40, 24)])
def test_squares_outside_of_the_picture_are_refused(square, make_frames):
    pixels = np.zeros((40, 60, 3), np.uint8)
    with pytest.raises(ValueError, match=r"The image is 60x40, and Square\(.*\) does not lie inside of it"):
        to_frame(pixels, 16, square)
    with pytest.raises(ValueError, match="The picture is 60x40"):
        square.paste(torch.zeros(3, 40, 60), torch.zeros(3, square.side, square.side))


def test_what_was_cut_out_fits_where_it_was(make_frames):
    picture = make_frames(size=48)[0, :, :40]
    square = Square(3, 7, 30)
    patch = picture[:, 3:33, 7:37]
    torch.testing.assert_close(square.paste(picture, patch), picture, rtol=0, atol=1e-6)


def test_pasting_changes_nothing_outside_and_all_in_the_middle(make_frames):
    picture, patch = make_frames(size=48)[0], make_frames(size=30, seed=1)[0]
    before = picture.clone()
    pasted = Square(3, 7, 30).paste(picture, patch)
    assert torch.equal(picture, before)
    outside = torch.ones(48, 48, dtype=torch.bool)
    outside[3:33, 7:37] = False
    assert torch.equal(pasted[:, outside], picture[:, outside])
    assert torch.equal(pasted[:, 6:30, 10:34], patch[:, 3:27, 3:27])  # a tenth of the side fades


def test_the_border_fades_inwards():
    weights = Square(10, 10, 40).paste(torch.zeros(3, 60, 60), torch.ones(3, 40, 40))[0]
    middle = weights[30, 10:50]
    assert (middle.diff()[:4] > 0).all() and torch.equal(middle[4:36], torch.ones(32))
    torch.testing.assert_close(middle, middle.flip(0))
    torch.testing.assert_close(weights, weights.T)


def test_nothing_fades_at_the_picture_s_own_border(make_frames):
    picture, patch = make_frames(size=32)[0], make_frames(size=32, seed=1)[0]
    assert torch.equal(Square(0, 0, 32).paste(picture, patch), patch)
    wide = torch.zeros(3, 32, 64)
    pasted = Square(0, 0, 32).paste(wide, torch.ones(3, 32, 32))
    assert torch.equal(pasted[:, :, :28], torch.ones(3, 32, 28)) and (pasted[:, :, 31] < 0.1).all()


def test_patches_of_another_size_are_refused():
    with pytest.raises(ValueError, match="`patch` is 16x8, but the square has a side of 16"):
        Square(0, 0, 16).paste(torch.zeros(3, 32, 32), torch.zeros(3, 8, 16))


# --- videos ---


@pytest.fixture
def wide_video(tmp_path, make_frames):
    """17 frames of 48x32 as PNG, frame k of the grey level k."""
    with VideoWriter(tmp_path / "wide", 25) as writer:
        for level in range(17):
            frame = torch.full((3, 32, 48), level * 10 / 127.5 - 1)
            frame[:, :, 40:] = 1
            writer.write(frame)
    return tmp_path / "wide"


@pytest.mark.filterwarnings("error")
def test_readers_cut_the_square_that_they_are_told(wide_video):
    reader = VideoReader(wide_video, frame_size=16, square=Square(4, 20, 28))
    assert (reader.height, reader.width, reader.source_height, reader.source_width) == (16, 16, 32, 48)
    frames = list(reader)
    expected = [
        to_frame(np.ascontiguousarray(np.moveaxis(((frame.numpy() + 1) / 2), 0, -1)), 16, Square(4, 20, 28))
        for frame in VideoReader(wide_video)
    ]
    torch.testing.assert_close(torch.stack(frames), torch.stack(expected), rtol=0, atol=1e-5)
    unresized = VideoReader(wide_video, square=Square(4, 20, 28))
    assert (unresized.height, unresized.width) == (28, 28) and next(iter(unresized)).shape == (3, 28, 28)
    with pytest.raises(ValueError, match="wide is 48x32, and Square"):
        VideoReader(wide_video, square=Square(8, 20, 28))


@pytest.mark.parametrize("count, expected", [(1, [8]), (4, [2, 7, 12]), (8, [1, 4, 7, 10, 13, 16]), (40, range(17))])
def test_looking_at_a_whole_video(wide_video, count, expected):
    levels = [round(float(frame[0, 0, 0] + 1) * 127.5 / 10) for frame in VideoReader(wide_video).spread(count)]
    assert levels == list(expected)
