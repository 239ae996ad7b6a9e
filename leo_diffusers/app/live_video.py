"""A video that plays while it is made: short pieces of H.264, which the browser strings together (HLS)."""

import subprocess
from dataclasses import dataclass

import gradio as gr
import torch
import torch.nn.functional as F

from .. import video_io
from ..video_io.ffmpeg import FFmpegError, ffmpeg_command, last_line, run_ffmpeg
from ..video_io.writing import BT709


START_TIME = 10.0  # of the first piece, in seconds: MPEG-TS holds no times below zero


@dataclass
class Piece:
    r"""
    A piece of a video.

    Args:
        data (`bytes`): MPEG-TS.
        seconds (`float`): Its length.
    """

    data: bytes
    seconds: float


def encode_piece(frames: list[torch.Tensor], frames_per_second: float, start: float) -> Piece:
    r"""
    Args:
        frames (`list[torch.Tensor]`): Frames (3, H, W) in [-1, 1]; the last row or column of an odd size comes twice.
        frames_per_second (`float`): Their rate.
        start (`float`): Seconds of the video that came before.

    Returns:
        [`Piece`]: The frames, encoded so that they can be shown without those before.

    Raises:
        FFmpegError: If ffmpeg fails.
    """
    pictures = torch.stack(frames)
    pictures = F.pad(pictures, (0, pictures.shape[-1] % 2, 0, pictures.shape[-2] % 2), mode="replicate")
    height, width = pictures.shape[-2:]
    command = ffmpeg_command("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}")
    command += ["-r", str(frames_per_second), "-i", "pipe:0", *BT709.split(), "-pix_fmt", "yuv420p"]
    # No B-frames: they would begin a piece before its time.
    command += ["-c:v", "libx264", "-preset", "veryfast", "-crf", "19", "-bf", "0"]
    command += ["-output_ts_offset", f"{START_TIME + start:.6f}", "-muxdelay", "0", "-muxpreload", "0"]
    command += ["-f", "mpegts", "pipe:1"]
    with run_ffmpeg(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as (process, log):
        data, _ = process.communicate(video_io.to_uint8(pictures).tobytes())
        if process.returncode != 0:
            raise FFmpegError(f"ffmpeg failed to encode the video: {last_line(log)}")
    return Piece(data, len(frames) / frames_per_second)


def live_video(label: str, height: int, **options: object) -> gr.Video:
    r"""A field for [`Piece`]s, which a generator function yields one after the other."""
    video = gr.Video(
        label=label, height=height, streaming=True, autoplay=True, interactive=False, buttons=[], **options
    )

    async def stream_output(piece: Piece | None, output_id: str, first_chunk: bool) -> tuple[dict | None, dict]:
        chunk = piece and {"data": piece.data, "duration": piece.seconds, "extension": ".ts"}
        address = {"path": output_id, "is_stream": True, "orig_name": "endless.mp4"}
        return chunk, {**address, "meta": {"_type": "gradio.FileData"}}

    # Gradio's own would encode the pieces with a system's ffmpeg and ffprobe; the ffmpeg of imageio has no ffprobe.
    video.stream_output = stream_output
    return video
