import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from leo_diffusers.video_io import (
    IMAGE_SUFFIXES,
    read_image,
    to_frame,
    to_pil,
    to_uint8,
    to_unit_range,
    write_image,
)
from tests.video_io.conftest import leftovers, smooth_frames


def byte_image(height=6, width=8, channels=3):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (height, width, channels), dtype=np.uint8)


def test_bytes_map_to_frames_and_back_exactly():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    frame = to_frame(ramp)
    assert frame.shape == (3, 16, 16) and frame.dtype == torch.float32 and frame.is_contiguous()
    assert frame.min() == -1 and frame.max() == 1
    torch.testing.assert_close(frame[0], torch.from_numpy(ramp.astype(np.float32) / 127.5 - 1))
    np.testing.assert_array_equal(to_uint8(frame), np.repeat(ramp[..., None], 3, axis=2))
    np.testing.assert_array_equal(np.asarray(to_pil(frame))[..., 0], ramp)


def test_pixels_are_never_stretched_per_image():
    assert torch.allclose(to_frame(np.full((4, 4, 3), 100, np.uint8)), torch.tensor(100 / 127.5 - 1))


def test_arrays_of_every_dtype_and_layout_agree():
    pixels = byte_image()
    expected = to_frame(pixels)
    torch.testing.assert_close(to_frame(pixels.astype(np.uint16) * 257), expected)
    torch.testing.assert_close(to_frame(pixels.astype(np.float64) / 255), expected)
    torch.testing.assert_close(to_frame(pixels[:, ::-1].copy()[:, ::-1]), expected)
    torch.testing.assert_close(to_frame(expected[None]), expected)
    torch.testing.assert_close(to_frame(expected.half()), expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(to_frame(pixels[..., :1]), to_frame(pixels[..., 0]))


def test_transparent_pixels_are_laid_on_white():
    pixels = byte_image(channels=4)
    pixels[..., 3] = 0
    assert torch.all(to_frame(pixels) == 1)
    assert torch.all(to_frame(Image.fromarray(pixels)) == 1)
    pixels[..., 3] = 255
    torch.testing.assert_close(to_frame(pixels), to_frame(pixels[..., :3]))
    assert torch.all(to_frame(Image.new("LA", (4, 4), (0, 0))) == 1)
    half = to_frame(Image.new("RGBA", (4, 4), (0, 0, 0, 51)))
    torch.testing.assert_close(half, torch.full((3, 4, 4), 0.6))


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "palette.png", transparency=0)
    frame = read_image(tmp_path / "palette.png")
    assert frame[:, 0, 0].tolist() == [1, -1, -1]
    assert torch.all(frame[:, 1:] == 1)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "HSV"])
def test_pil_modes(mode):
    image = Image.fromarray(byte_image()).convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(to_uint8(to_frame(image)), expected)


def test_sixteen_bit_images_are_scaled_not_clipped(tmp_path):
    levels = np.linspace(0, 65535, 24).astype(np.uint16).reshape(4, 6)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    expected = torch.from_numpy(levels.astype(np.float32) / 32767.5 - 1)
    torch.testing.assert_close(read_image(tmp_path / "grey.png")[1], expected)
    torch.testing.assert_close(to_frame(Image.fromarray(levels.astype(np.int32)))[1], expected)
    with pytest.raises(ValueError, match="from 0 to 65535"):
        to_frame(Image.new("I", (2, 2), 70000))


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(byte_image(6, 8))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    torch.testing.assert_close(read_image(tmp_path / "turned.png"), to_frame(image.rotate(-90, expand=True)))


def test_frame_size_crops_the_centre_with_a_warning():
    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, 5:15] = 255
    with pytest.warns(UserWarning, match="20x10.*10x10"):
        frame = to_frame(pixels, frame_size=4)
    assert frame.shape == (3, 4, 4)
    assert torch.all(frame == 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert to_frame(pixels[:, 5:15], frame_size=16).shape == (3, 16, 16)


def test_resizing_agrees_with_pil_and_antialiases():
    pixels = byte_image(64, 64)
    expected = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.LANCZOS))
    resized = to_frame(pixels, frame_size=16)
    assert np.abs(to_uint8(resized).astype(int) - expected).max() <= 1
    torch.testing.assert_close(to_frame(to_frame(pixels), frame_size=16), resized)
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    assert to_frame(stripes, frame_size=16).abs().max() < 0.1


@pytest.mark.parametrize(
    ("image", "error", "message"),
    [
        ("image.png", TypeError, "must be a PIL image"),
        ([1, 2], TypeError, "got list"),
        (np.zeros((3, 8, 9), np.uint8), ValueError, "must have shape"),
        (np.zeros((2, 8, 9, 3), np.uint8), ValueError, "must have shape"),
        (np.zeros((0, 8, 3), np.uint8), ValueError, "must have shape"),
        (np.zeros((8, 8, 3), np.int64), TypeError, "got int64"),
        (np.full((8, 8, 3), 255.0), ValueError, "from 255 to 255"),
        (np.full((8, 8, 3), -0.5), ValueError, r"lie in \[0, 1\]"),
        (np.full((8, 8, 3), np.nan), ValueError, "no NaN"),
        (torch.full((3, 8, 8), 1.5), ValueError, r"lie in \[-1, 1\]"),
        (torch.full((3, 8, 8), torch.nan), ValueError, "no NaN"),
        (torch.zeros(8, 8, 3), ValueError, r"shape \(3, H, W\)"),
        (torch.zeros(2, 3, 8, 8), ValueError, r"got \(2, 3, 8, 8\)"),
        (torch.zeros(3, 8, 8, dtype=torch.uint8), TypeError, "NumPy array"),
        (Image.new("F", (4, 4)), ValueError, 'mode "F"'),
        (Image.new("LAB", (4, 4)), ValueError, 'mode "LAB"'),
    ],
)
def test_to_frame_refuses(image, error, message):
    with pytest.raises(error, match=message):
        to_frame(image)


@pytest.mark.parametrize("frame_size", [0, -4, 2.5, True, "256"])
def test_frame_size_is_checked(frame_size):
    with pytest.raises(ValueError, match="`frame_size` must be a positive integer"):
        to_frame(np.zeros((4, 4), np.uint8), frame_size)


def test_to_uint8_clamps_and_rounds():
    frames = torch.tensor([-3.0, -1.0, 0.0, 1.0, 9.0]).expand(2, 3, 1, 5)
    assert to_uint8(frames).shape == (2, 1, 5, 3)
    assert to_uint8(frames)[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert to_uint8(frames.bfloat16())[0, 0, :, 0].tolist() == [0, 0, 128, 255, 255]
    torch.testing.assert_close(to_unit_range(frames)[0, 0, 0], torch.tensor([0, 0, 0.5, 1, 1]))


def test_to_uint8_and_to_pil_refuse():
    with pytest.raises(ValueError, match="NaN or infinite"):
        to_uint8(torch.full((3, 4, 4), torch.inf))
    with pytest.raises(ValueError, match="must have shape"):
        to_uint8(torch.zeros(4, 4, 3))
    with pytest.raises(TypeError, match="got uint8"):
        to_uint8(np.zeros((3, 4, 4), np.uint8))
    with pytest.raises(ValueError, match="one at a time"):
        to_pil(torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("suffix", IMAGE_SUFFIXES)
def test_image_files_round_trip(tmp_path, suffix):
    frame = smooth_frames(1)[0]
    write_image(tmp_path / f"image{suffix}", frame)
    read = read_image(tmp_path / f"image{suffix}")
    assert (read - frame).abs().mean() < 0.02
    if suffix in (".png", ".bmp", ".tif", ".tiff"):
        np.testing.assert_array_equal(to_uint8(read), to_uint8(frame))
    assert leftovers(tmp_path) == []


def test_image_files_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        read_image(tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text\.png cannot be read as an image"):
        read_image(tmp_path / "text.png")
    Image.fromarray(byte_image(64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"cut\.png cannot be read as an image"):
        read_image(tmp_path / "cut.png")
    with pytest.raises(ValueError, match="written as one of .png"):
        write_image(tmp_path / "image.xyz", torch.zeros(3, 4, 4))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        write_image(tmp_path / "nowhere" / "image.png", torch.zeros(3, 4, 4))
    with pytest.raises(ValueError, match="NaN"):
        write_image(tmp_path / "whole.png", torch.full((3, 4, 4), torch.nan))
    assert read_image(tmp_path / "whole.png").shape == (3, 64, 64)
    assert leftovers(tmp_path) == []


def test_tensors_of_another_range_are_warned_of():
    frame = torch.rand(3, 8, 8)
    with pytest.warns(UserWarning, match=r"is read as one of \[-1, 1\]"):
        to_frame(frame)
    with warnings.catch_warnings(action="error"):
        for image in (2 * frame - 1, torch.zeros(3, 8, 8), frame.permute(1, 2, 0).numpy()):
            to_frame(image)
