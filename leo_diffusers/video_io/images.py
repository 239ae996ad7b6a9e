"""Images to frames and back: the only place that scales pixels."""

import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from .files import IMAGE_SUFFIXES, PathLike, remove, temporary_beside
from .squares import Square, centre_square


RANGE_TOLERANCE = 1e-3  # half precision and resampling leave a range by this much, another convention by more


def to_frame(
    image: Image.Image | np.ndarray | torch.Tensor, frame_size: int | None = None, square: Square | None = None
) -> torch.Tensor:
    r"""
    Turn an image into a frame.

    Args:
        image (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`):
            A PIL image of any mode but "F" and "LAB", turned as its EXIF tag says; an array of shape `(H, W)`,
            `(H, W, 1)`, `(H, W, 3)` or `(H, W, 4)`, uint8, uint16 or float in [0, 1]; or a float tensor of shape
            `(3, H, W)` or `(1, 3, H, W)` in [-1, 1]. Transparent pixels are laid on white.
        frame_size (`int`, *optional*):
            Side of the result: the central square of the image is cut out and resized with antialiasing. A warning
            says when the cut loses pixels.
        square ([`Square`], *optional*): Part of the image to cut out instead of the central one.

    Returns:
        `torch.Tensor` of shape `(3, H, W)`: The frame, in [-1, 1]; on the device of `image` if that is a tensor.

    Raises:
        TypeError: If `image` is of another type or dtype.
        ValueError: If its shape or range is none of the above, or `square` does not lie inside of it.

    Examples:
        ```py
        >>> from PIL import Image
        >>> from leo_diffusers.video_io import to_frame

        >>> to_frame(Image.open("photo.png"), frame_size=64).shape
        torch.Size([3, 64, 64])
        ```
    """
    pixels = to_pixels(image)
    if square is None:
        check_crop("The image", *pixels.shape[:2], frame_size)
    frame = pixels_to_frame(pixels, frame_size, square)
    return frame.to(image.device) if isinstance(image, torch.Tensor) else frame


def to_uint8(frames: torch.Tensor) -> np.ndarray:
    r"""
    Turn frames into bytes, the inverse of [`to_frame`].

    Args:
        frames (`torch.Tensor` of shape `(3, H, W)` or `(F, 3, H, W)`):
            Frames in [-1, 1], on any device and of any float dtype; values outside are clamped.

    Returns:
        `np.ndarray` of shape `(H, W, 3)` or `(F, H, W, 3)`, uint8.

    Raises:
        TypeError: If `frames` is no float tensor.
        ValueError: If `frames` has another shape or holds NaN or infinity.

    Examples:
        ```py
        >>> import torch
        >>> from leo_diffusers.video_io import to_uint8

        >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0]).reshape(3, 1, 1))  # one pixel
        array([[[  0, 128, 255]]], dtype=uint8)
        ```
    """
    if not isinstance(frames, torch.Tensor) or not frames.is_floating_point():
        kind = getattr(frames, "dtype", type(frames).__name__)
        raise TypeError(f"`frames` must be a float tensor in [-1, 1], got {kind}: use `to_frame` to make one.")
    if frames.ndim not in (3, 4) or frames.shape[-3] != 3 or 0 in frames.shape[-2:]:
        raise ValueError(f"`frames` must have shape (3, H, W) or (F, 3, H, W), got {tuple(frames.shape)}.")
    values = frames.detach().float().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError("`frames` holds NaN or infinite values, so the model that made them has diverged.")
    pixels = ((values + 1) * 127.5).round().clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(pixels, -3, -1))


def to_pil(frame: torch.Tensor) -> Image.Image:
    r"""
    Turn one frame of shape `(3, H, W)` in [-1, 1] into a PIL image of mode "RGB".

    Examples:
        ```py
        >>> from leo_diffusers.video_io import read_image, to_pil

        >>> to_pil(read_image("photo.png").flip(-1)).save("mirrored.png")
        ```
    """
    pixels = to_uint8(frame)
    if pixels.ndim != 3:
        raise ValueError(f"`frame` must have shape (3, H, W), got {tuple(frame.shape)}: convert one at a time.")
    return Image.fromarray(pixels)


def to_unit_range(frames: torch.Tensor) -> torch.Tensor:
    r"""
    Map frames of any shape in [-1, 1] to float32 in [0, 1], clamped: the outputs "np" and "pt" of the pipelines.

    Examples:
        ```py
        >>> import torch
        >>> from leo_diffusers.video_io import to_unit_range

        >>> to_unit_range(torch.tensor([-1.0, 0.0, 1.2]))
        tensor([0.0000, 0.5000, 1.0000])
        ```
    """
    return ((frames.float() + 1) / 2).clamp(0, 1)


def read_image(path: PathLike, frame_size: int | None = None) -> torch.Tensor:
    r"""
    Read an image file as a frame of shape `(3, H, W)` in [-1, 1]. `frame_size` is that of [`to_frame`].

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no image or a damaged one.

    Examples:
        ```py
        >>> from leo_diffusers.video_io import read_image

        >>> read_image("photo.png").shape
        torch.Size([3, 128, 128])
        ```
    """
    pixels = read_pixels(Path(path))
    check_crop(str(path), *pixels.shape[:2], frame_size)
    return pixels_to_frame(pixels, frame_size)


def write_image(path: PathLike, frame: torch.Tensor) -> None:
    r"""
    Write one frame of shape `(3, H, W)` in [-1, 1] to an image file, whole or not at all.

    Raises:
        FileNotFoundError: If the folder of `path` does not exist.
        ValueError: If the suffix of `path` is not one of `IMAGE_SUFFIXES`.

    Examples:
        ```py
        >>> from leo_diffusers.video_io import read_video, write_image

        >>> frames = read_video("video.mp4", num_frames=1)
        >>> write_image("first_frame.png", frames[0])
        ```
    """
    path = Path(path)
    if path.suffix.lower() not in IMAGE_SUFFIXES:
        raise ValueError(f"{path}: images are written as one of {', '.join(IMAGE_SUFFIXES)}.")
    temporary = temporary_beside(path)
    try:
        to_pil(frame).save(temporary, quality=95)
        os.replace(temporary, path)
    finally:
        remove(temporary)


def to_pixels(image: Image.Image | np.ndarray | torch.Tensor) -> np.ndarray:
    r"""(H, W, 3 or 4), either integers over the full range of their dtype or float32 in [-1, 1]."""
    if isinstance(image, torch.Tensor):
        return _tensor_to_pixels(image)
    if isinstance(image, Image.Image):
        image = _pil_to_array(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"`image` must be a PIL image, a NumPy array or a tensor, got {type(image).__name__}.")
    array = image[..., None] if image.ndim == 2 else image
    if array.ndim != 3 or array.shape[2] not in (1, 3, 4) or array.size == 0:
        raise ValueError(f"An image array must have shape (H, W) or (H, W, 1, 3 or 4), got {image.shape}.")
    if np.issubdtype(array.dtype, np.floating):
        _check_range("A float image array", array, 0, 1)
        array = array.clip(0, 1).astype(np.float32) * 2 - 1
    elif array.dtype not in (np.uint8, np.uint16):
        raise TypeError(f"An image array must be uint8, uint16 or float in [0, 1], got {array.dtype}.")
    return array.repeat(3, axis=2) if array.shape[2] == 1 else array


def _tensor_to_pixels(image: torch.Tensor) -> np.ndarray:
    frame = image[0] if image.ndim == 4 and image.shape[0] == 1 else image
    if frame.ndim != 3 or frame.shape[0] != 3 or frame.numel() == 0:
        raise ValueError(f"An image tensor must have shape (3, H, W), got {tuple(image.shape)}.")
    if not image.is_floating_point():
        raise TypeError(f"An image tensor must be float in [-1, 1], got {image.dtype}: pass bytes as a NumPy array.")
    values = frame.detach().float().cpu().numpy()
    _check_range("An image tensor", values, -1, 1)
    if 0 <= values.min() < values.max():
        warnings.warn(
            'An image tensor has no value below 0 and is read as one of [-1, 1]: of what `output_type="pt"` gave, '
            "which is of [0, 1], pass `2 * frames - 1`.",
            UserWarning,
            stacklevel=3,
        )
    return values.clip(-1, 1).transpose(1, 2, 0)


def _pil_to_array(image: Image.Image) -> np.ndarray:
    image = ImageOps.exif_transpose(image)
    if image.mode in ("F", "LAB"):
        raise ValueError(f'PIL images of mode "{image.mode}" are not supported: pass "RGB" or floats in [0, 1].')
    if not image.mode.startswith("I"):
        return np.asarray(image.convert("RGBA" if image.has_transparency_data else "RGB"))
    array = np.asarray(image)  # "I" and "I;16": PIL's own conversion to "RGB" clips them at 255
    if array.min() < 0 or array.max() > 65535:
        raise ValueError(f'PIL images of mode "{image.mode}" must hold values from 0 to 65535.')
    return array.astype(np.uint16)


def pixels_to_frame(pixels: np.ndarray, frame_size: int | None, square: Square | None = None) -> torch.Tensor:
    r"""Pixels as of [`to_pixels`] to a frame (3, H, W), cut square and resized where a size is given."""
    if square is None and frame_size is not None:
        square = centre_square(*pixels.shape[:2])
    if square is not None:
        pixels = square.cut(pixels)
    # NumPy, not torch: for arrays this small torch's threads cost more than they save, far more on a busy machine.
    frame = np.array(pixels.transpose(2, 0, 1), dtype=np.float32, order="C")
    if np.issubdtype(pixels.dtype, np.integer):
        frame = frame / np.float32(np.iinfo(pixels.dtype).max / 2) - 1
    if len(frame) == 4:
        alpha = (frame[3:] + 1) / 2
        frame = frame[:3] * alpha + (1 - alpha)
    if frame_size not in (None, frame.shape[-1]):
        size = (frame_size, frame_size)
        channels = [Image.fromarray(channel).resize(size, Image.Resampling.LANCZOS) for channel in frame]
        frame = np.stack([np.asarray(channel) for channel in channels]).clip(-1, 1)  # edges overshoot
    return torch.from_numpy(frame)


def read_pixels(path: Path) -> np.ndarray:
    r"""Pixels of an image file, as of [`to_pixels`]."""
    if not path.exists():
        raise FileNotFoundError(f"There is no image {path}.")
    try:
        with Image.open(path) as image:
            return to_pixels(image)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as an image, it may be damaged or no image at all: {error}"
        ) from error


def _check_range(name: str, values: np.ndarray, low: float, high: float) -> None:
    minimum, maximum = float(values.min()), float(values.max())
    if not (minimum >= low - RANGE_TOLERANCE and maximum <= high + RANGE_TOLERANCE):  # false for NaN too
        found = f"from {minimum:.4g} to {maximum:.4g}"
        raise ValueError(f"{name} must lie in [{low}, {high}] and hold no NaN, got values {found}: rescale it.")


def check_crop(name: str, height: int, width: int, frame_size: int | None) -> None:
    r"""Refuses an impossible `frame_size`, and warns where a crop cuts pixels away."""
    if frame_size is None:
        return
    if isinstance(frame_size, bool) or not isinstance(frame_size, int) or frame_size < 1:
        raise ValueError(f"`frame_size` must be a positive integer, got {frame_size!r}.")
    if height != width:
        kept = f"{min(height, width)}x{min(height, width)}"
        message = f"{name} is {width}x{height}, and only its central {kept} square is used: crop it to choose another."
        warnings.warn(message, UserWarning, stacklevel=3)
