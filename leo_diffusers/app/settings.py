"""AppSettings: which model the page shows, to whom, and how much each of them may ask for."""

from dataclasses import dataclass

from .. import DEMO_MODEL
from ..commands import DTYPES


@dataclass(frozen=True)
class AppSettings:
    r"""
    What the page is made of.

    Args:
        model (`str`): Folder or Hub id of a LEO or LIA model.
        device (`str`, *optional*): "cpu", "cuda", "mps", ...; None for the fastest there is.
        dtype (`str`): Number format of the networks: "float32", "float16" or "bfloat16".
        editor (`str`, *optional*): Folder or Hub id of a diffusers image pipeline, which edits by prompts.
        controlnet (`str`, *optional*): Folder or Hub id of a ControlNet for it.
        detector (`str`, *optional*): The ControlNet's: "canny", "lineart", or one of controlnet-aux.
        host (`str`, *optional*): Address to listen on; None for the environment's `GRADIO_SERVER_NAME`, which a Space
            sets, or else this machine alone.
        port (`int`, *optional*): Port; None for the environment's `GRADIO_SERVER_PORT`, or the first free one from
            7860.
        max_upload_megabytes (`int`): Size of an uploaded file at most.
        max_video_seconds (`int`): Length of an uploaded video at most.
        max_endless_seconds (`int`): Length of an endless video at most: somewhere even they must end.

    Raises:
        ValueError: Where `dtype` is none of these, a limit is below 1, or there is no such port.
    """

    model: str = DEMO_MODEL
    device: str | None = None
    dtype: str = "float32"
    editor: str | None = None
    controlnet: str | None = None
    detector: str | None = None
    host: str | None = None
    port: int | None = None
    max_upload_megabytes: int = 100
    max_video_seconds: int = 60
    max_endless_seconds: int = 60

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}, got {self.dtype!r}.")
        for name in ("max_upload_megabytes", "max_video_seconds", "max_endless_seconds"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if self.port is not None and not 0 < self.port < 2**16:
            raise ValueError(f"`port` must be from 1 to {2**16 - 1}, got {self.port}.")
