r"""
Files to frames and back: images, videos, GIFs and folders of numbered images.

A frame is a float32 RGB tensor of shape `(3, H, W)` in [-1, 1]. This package is the only place that scales pixels: a
byte p becomes p / 127.5 - 1, whatever else the clip holds. Readers and writers hold one frame at a time.
"""

from .faces import find_face_square, load_face_detector
from .ffmpeg import FFmpegError
from .files import IMAGE_SUFFIXES, VIDEO_SUFFIXES, find_videos
from .images import read_image, to_frame, to_pil, to_uint8, to_unit_range, write_image
from .reading import VideoReader, read_video
from .squares import Square, centre_square
from .writing import SYNTHETIC, VideoWriter, write_video


__all__ = [
    "IMAGE_SUFFIXES",
    "SYNTHETIC",
    "VIDEO_SUFFIXES",
    "FFmpegError",
    "Square",
    "VideoReader",
    "VideoWriter",
    "centre_square",
    "find_face_square",
    "find_videos",
    "load_face_detector",
    "read_image",
    "read_video",
    "to_frame",
    "to_pil",
    "to_uint8",
    "to_unit_range",
    "write_image",
    "write_video",
]
