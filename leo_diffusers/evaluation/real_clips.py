"""Real clips as the protocols of FVD prepare them: where they are is the protocols' own business."""

import warnings
from collections import Counter
from collections.abc import Iterable

import torch
import torch.nn.functional as F

from .. import video_io
from ..data.video_clips import VideoClip
from ..metrics.protocols import ClipPosition, Protocol, quantize


def resize_bilinear(frames: torch.Tensor, size: int, rounding: str) -> torch.Tensor:
    r"""8-bit frames (F, 3, H, W) -> the middle square of each, 8-bit, of `size`, not anti-aliased (DIGAN)."""
    side = min(frames.shape[-2:])
    top, left = ((length - side) // 2 for length in frames.shape[-2:])
    square = frames[..., top : top + side, left : left + side].float()
    # Not in [-1, 1]: what is not resized must come out as it was, also where it is rounded down.
    resized = F.interpolate(square, (size, size), mode="bilinear", align_corners=False)
    return (resized.round() if rounding == "nearest" else resized).to(torch.uint8)


def from_8bit(frames: torch.Tensor) -> torch.Tensor:
    r"""8-bit frames -> float32 in [-1, 1]."""
    return frames.float() / 127.5 - 1


def read_clip(
    clip: VideoClip, position: ClipPosition, num_frames: int, frame_size: int, protocol: Protocol
) -> torch.Tensor:
    r"""
    Frames of a real video, as a protocol prepares them.

    Args:
        clip ([`VideoClip`]): The video.
        position ([`ClipPosition`]): Where in it.
        num_frames (`int`): How many.
        frame_size (`int`): Side of the result, pixels.
        protocol ([`Protocol`]): Resizes and rounds.

    Returns:
        `torch.Tensor` of shape `(F, 3, H, W)`: The 256 values of 8 bits in [-1, 1].

    Raises:
        ValueError: Where the video is cut off.
    """
    is_bilinear = protocol.resizing == "bilinear"
    start, span = clip.start_frame + position.start, (num_frames - 1) * position.stride + 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* only its central")  # the protocols have it so
        reader = video_io.VideoReader(clip.path, None if is_bilinear else frame_size, start, span)
    with reader:
        frames = [frame for index, frame in enumerate(reader) if index % position.stride == 0]
    if len(frames) < num_frames:
        raise ValueError(f"{clip.name} ends {len(frames)} frames of {num_frames} after its frame {start}.")
    frames = torch.stack(frames)
    if not is_bilinear:
        return from_8bit(quantize(frames, protocol.rounding))
    pixels = torch.from_numpy(video_io.to_uint8(frames)).permute(0, 3, 1, 2)
    return from_8bit(resize_bilinear(pixels, frame_size, protocol.rounding))


def count_codecs(clips: Iterable[VideoClip]) -> dict[str, int]:
    r"""How many of the clips are stored in which way, by suffix: the loss of it is in the features."""
    return dict(Counter(codec_of(clip) for clip in clips))


def codec_of(clip: VideoClip) -> str:
    r"""The suffix of a clip's file, or of the frames in its folder."""
    if not clip.path.is_dir():
        return clip.path.suffix.lower()
    suffixes = sorted({path.suffix.lower() for path in clip.path.iterdir()} & set(video_io.IMAGE_SUFFIXES))
    return f"folder of {', '.join(suffixes)}"
