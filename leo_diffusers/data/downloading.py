"""Videos of public lists from where they were published, by yt-dlp."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imageio_ffmpeg
from tqdm import tqdm


YOUTUBE = "https://www.youtube.com/watch?v={video_id}"


def require_downloader() -> None:
    r"""
    Raises:
        ValueError: Where yt-dlp is not installed.
    """
    try:
        import yt_dlp  # noqa: F401
    except ImportError as error:
        raise ValueError(
            "--download needs yt-dlp: `pip install yt-dlp`, or leave --download out and put the videos into the "
            "folder of --videos, each named by its id."
        ) from error


def download_video(video_id: str, folder: Path, address: str = YOUTUBE) -> str | None:
    r"""
    Downloads one video, without sound, as `<id>.<suffix>`; mp4 where there is one.

    Args:
        video_id (`str`): YouTube's id.
        folder (`Path`): Where to put it. What a stopped download left there is gone on with.
        address (`str`): With `{video_id}` in it.

    Returns:
        `str` or `None`: Why it failed, None where it is there.
    """
    import yt_dlp

    options = {
        "format": "bestvideo[ext=mp4]/best[ext=mp4]/bestvideo/best",
        "outtmpl": {"default": str(folder / video_id).replace("%", "%%") + ".%(ext)s"},
        "ffmpeg_location": imageio_ffmpeg.get_ffmpeg_exe(),
        "noplaylist": True,
        "quiet": True,
        "no_warnings": True,
        "noprogress": True,
        "logger": _Silent(),
    }
    try:
        with yt_dlp.YoutubeDL(options) as downloader:
            downloader.download([address.format(video_id=video_id)])
    except yt_dlp.utils.YoutubeDLError as error:
        return f"download failed: {' '.join(str(error).split())}"
    return None


def download_videos(
    video_ids: Sequence[str], folder: Path, num_workers: int, address: str = YOUTUBE
) -> dict[str, str]:
    r"""
    Downloads videos, several at a time. Dead links are common and no error.

    Args:
        video_ids (`Sequence[str]`): YouTube's ids.
        folder (`Path`): Where to put them.
        num_workers (`int`): How many at a time.
        address (`str`): With `{video_id}` in it.

    Returns:
        `dict[str, str]`: What went wrong, by id; empty where all are there.
    """
    with ThreadPoolExecutor(num_workers) as pool:
        problems = pool.map(lambda video_id: download_video(video_id, folder, address), video_ids)
        listed = list(tqdm(problems, total=len(video_ids), desc="Downloading videos", unit="video"))
    return {video_id: problem for video_id, problem in zip(video_ids, listed, strict=True) if problem}


class _Silent:
    # yt-dlp prints errors beside raising them, into the progress bar.
    def debug(self, message: str) -> None:
        pass

    info = warning = error = debug
