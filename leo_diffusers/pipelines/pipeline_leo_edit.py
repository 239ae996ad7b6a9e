"""LEOEditPipeline: a video's motion on its own first frame, edited."""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from diffusers import ModelMixin
from diffusers.utils import replace_example_docstring

from .. import video_io
from ..models.lia import LIAModel, LIASource
from ..video_io.images import to_pixels
from ..video_io.squares import Square, centre_square
from .cropping import Background, Crop, DrivingVideo, check_crop, find_video_square, fit_edited_frame
from .image_editor import Detector, ImageEditor, ImagePipeline, as_editor, load_detector, load_image_pipeline
from .motion_control import MotionControl
from .pipeline_lia import LIAPipeline
from .pipeline_output import LEOPipelineOutput


Image = PIL.Image.Image | np.ndarray | torch.Tensor

HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token")  # the same for model and editor

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> from PIL import Image, ImageOps
        >>> from leo_diffusers import DEMO_MODEL, LEOEditPipeline
        >>> from leo_diffusers.video_io import VideoReader, write_video

        >>> def posterize(image, prompt):  # or any diffusers image pipeline
        ...     return ImageOps.posterize(image, bits=3)
        >>> pipeline = LEOEditPipeline.from_pretrained(DEMO_MODEL, editor=posterize)
        >>> output = pipeline("video.mp4", "a poster")
        >>> rate = VideoReader("video.mp4").frames_per_second
        >>> write_video("result.mp4", output.frames[0], rate, audio_from="video.mp4")

        >>> output = pipeline("video.mp4", edited_frame=Image.open("edited.png"))  # edited by hand
        >>> len(output.frames[0])
        16
        ```
"""


@dataclass
class LEOEditPipelineOutput(LEOPipelineOutput):
    r"""
    [`LEOPipelineOutput`] of an edited video.

    Args:
        edited_frame (`PIL.Image.Image`): The edited first frame, at the animator's size.
    """

    edited_frame: PIL.Image.Image | None = None


class LEOEditPipeline(LIAPipeline):
    r"""
    Edits a video by its first frame (LEO Fig. 7): an image editor changes that frame, and the video's motion,
    relative to it, moves the result.

    The editor is no component: it is neither saved nor offloaded with the pipeline, which works without one for
    frames that were edited elsewhere. `to` moves it along to a device but leaves its dtype; its own offloading is
    turned on at `pipeline.editor.pipeline`.

    Args:
        animator ([`LIAModel`]): The image animator.
        editor ([`ImageEditor`], `DiffusionPipeline` or `Callable`, *optional*): What makes an edited image of an image
            and a prompt; see [`ImageEditor`].
    """

    def __init__(self, animator: LIAModel, editor: ImageEditor | ImagePipeline | None = None):
        super().__init__(animator)
        self.editor = None if editor is None else as_editor(editor)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        editor: str | Path | ImageEditor | ImagePipeline | None = None,
        controlnet: str | Path | ModelMixin | None = None,
        detector: str | Detector | None = None,
        **kwargs: object,
    ) -> "LEOEditPipeline":
        r"""
        Loads a LEO or LIA model and, in the same dtype and on the same device, an editor for first frames.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Hub id or folder of the model.
            editor (`str`, `Path`, [`ImageEditor`], `DiffusionPipeline` or `Callable`, *optional*): Hub id or folder
                of a diffusers image pipeline, or what [`ImageEditor`] takes.
            controlnet (`str`, `Path` or [`ModelMixin`], *optional*): ControlNet for the editor.
            detector (`str` or `Callable`, *optional*): What makes the ControlNet's image, see [`load_detector`].
            kwargs: As of `DiffusionPipeline.from_pretrained`, for the model; `dtype` and the arguments for the Hub
                (`token`, `cache_dir`, `local_files_only`, `force_download`) serve the editor too.

        Returns:
            [`LEOEditPipeline`]: The pipeline.

        Raises:
            ValueError: Where `controlnet` or `detector` has no editor to serve, or does not fit it.
        """
        if editor is None and (controlnet is not None or detector is not None):
            raise ValueError("`controlnet` and `detector` serve an editor: pass `editor` as well.")
        if controlnet is not None and detector is None and isinstance(editor, (str, Path)):
            raise ValueError(
                'An editor with `controlnet` is guided by a control image: pass a `detector` of it, such as "canny".'
            )
        detector = load_detector(detector) if isinstance(detector, str) else detector
        pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if editor is not None:
            loading = {name: kwargs[name] for name in HUB_ARGUMENTS if name in kwargs}
            dtype = kwargs.get("dtype", kwargs.get("torch_dtype"))
            if isinstance(dtype, torch.dtype):  # a dict names components of the model
                loading["dtype"] = dtype
            pipeline.editor = as_editor(load_image_pipeline(editor, controlnet, **loading), detector)
            pipeline.editor.to(pipeline.device)
        return pipeline

    def to(self, *args: object, **kwargs: object) -> "LEOEditPipeline":
        r"""As of `DiffusionPipeline.to`. The editor follows to a device (see [`ImageEditor.to`]), not to a dtype."""
        super().to(*args, **kwargs)
        targets = [target for target in (*args, kwargs.get("device")) if not isinstance(target, torch.dtype | None)]
        if targets and isinstance(self.editor, ImageEditor):
            self.editor.to(targets[0])
        return self

    def check_reference_frame(self, prompt: str | None, reference_frame: int | str) -> None:
        r"""Refuses to count the motion from another frame than the first, which is the one that is edited."""
        if prompt is not None and reference_frame not in (0, "auto"):
            raise ValueError(
                f"`reference_frame` is {reference_frame}, but `prompt` edits the first frame: leave it out, or pass "
                "that frame, edited, as `edited_frame`."
            )

    def check_edit(
        self,
        prompt: str | None,
        edited_frame: Image | None,
        editor: ImageEditor | ImagePipeline | None,
        editor_arguments: dict[str, object] | None,
    ) -> ImageEditor | None:
        r"""Refuses what leads to no edited frame, before anything is read. Returns the editor to use, if any."""
        if edited_frame is not None:
            if prompt is not None or editor is not None or editor_arguments:
                raise ValueError(
                    "`edited_frame` takes the editor's place: pass either it or `prompt`, `editor` and "
                    "`editor_arguments`."
                )
            return None
        if prompt is None:
            raise ValueError("Pass a `prompt` for the editor, or an `edited_frame`: there is nothing to edit.")
        if not isinstance(prompt, str):
            raise TypeError(f"`prompt` must be one string, got {type(prompt).__name__}.")
        editor = self.editor if editor is None else editor
        if editor is None:
            raise ValueError(
                "`prompt` needs an editor: pass `editor`, a diffusers image pipeline or a function (image, prompt) -> "
                "image, here or to the pipeline, or pass `edited_frame` instead."
            )
        editor = as_editor(editor)
        editor.check_arguments(editor_arguments or {})
        return editor

    def open_video(self, video: DrivingVideo) -> tuple[Image, DrivingVideo]:
        r"""
        Args:
            video (`str`, `Path`, [`~video_io.VideoReader`] or iterable): See [`~LEOEditPipeline.__call__`].

        Returns:
            `tuple`: The first frame at the video's full resolution, and the video, to be read from that frame on in
            place of `video`, which may be an iterator.

        Raises:
            FileNotFoundError: Where there is no such file.
            ValueError: Where the video cannot be read or holds no frames.
        """
        is_file = isinstance(video, (str, Path))
        frames = iter(video_io.VideoReader(video, num_frames=1) if is_file else video)
        first = next(frames, None)
        if first is None:
            raise ValueError("`video` holds no frames.")
        return first, itertools.chain([first], frames) if isinstance(video, Iterator) else video

    def edit_frame(
        self,
        frame: Image,
        prompt: str,
        editor: ImageEditor,
        editor_arguments: dict[str, object] | None,
        generator: torch.Generator | None,
        square: Square | None = None,
    ) -> PIL.Image.Image:
        r"""
        Edits a square of a frame, the central one by default, at the editor's resolution, and resizes the result for
        the animator.
        """
        square = square or centre_square(*to_pixels(frame).shape[:2])
        cut = video_io.to_pil(video_io.to_frame(frame, square=square))
        edited_frame = editor(cut, prompt, generator, **(editor_arguments or {}))
        return video_io.to_pil(video_io.to_frame(edited_frame, self.animator.config.frame_size))

    def prepare_edit(
        self,
        video: DrivingVideo,
        prompt: str | None,
        edited_frame: Image | None,
        editor: ImageEditor | ImagePipeline | None,
        editor_arguments: dict[str, object] | None,
        generator: torch.Generator | None,
        crop: Crop,
        paste_back: bool,
    ) -> tuple[PIL.Image.Image, DrivingVideo, Square | None, Background | None]:
        r"""
        The edited first frame at the animator's size, the video from its first frame on, the square of its frames that
        is used, and where asked for, what is around it.
        """
        editor = self.check_edit(prompt, edited_frame, editor, editor_arguments)
        first, video = self.open_video(video)
        video, square = find_video_square(video, crop)
        if editor is None:
            edited_frame = fit_edited_frame(edited_frame, self.animator.config.frame_size, first, square)
        else:
            edited_frame = self.edit_frame(first, prompt, editor, editor_arguments, generator, square)
        if not paste_back:
            return edited_frame, video, square, None
        video, shown = itertools.tee(video) if isinstance(video, Iterator) else (video, video)
        return edited_frame, video, square, Background.of_video(shown, first, square)

    def prepare_edited_animation(
        self,
        video: DrivingVideo,
        prompt: str | None,
        edited_frame: Image | None,
        editor: ImageEditor | ImagePipeline | None,
        editor_arguments: dict[str, object] | None,
        motion_mode: str,
        reference_frame: int | str,
        motion_control: MotionControl | None,
        generator: torch.Generator | None,
        decode_chunk_size: int | None,
        output_type: str,
        crop: Crop,
        paste_back: bool,
    ) -> tuple[PIL.Image.Image, LIASource, Iterator[torch.Tensor], Background | None]:
        r"""The edited frame, and what is rendered, as of [`~LIAPipeline.prepare_animation`]."""
        self.check_inputs(
            motion_mode, reference_frame, motion_control, decode_chunk_size, output_type, crop, paste_back
        )
        self.check_reference_frame(prompt, reference_frame)
        edited_frame, video, square, background = self.prepare_edit(
            video, prompt, edited_frame, editor, editor_arguments, generator, crop, paste_back
        )
        source = self.animator.encode_source(self.preprocess(edited_frame))
        motion_codes = self.driven_motion(
            source, video, motion_mode, reference_frame, motion_control, decode_chunk_size, square
        )
        return edited_frame, source, motion_codes, background

    @torch.no_grad()
    def edit_first_frame(
        self,
        video: DrivingVideo,
        prompt: str,
        editor: ImageEditor | ImagePipeline | None = None,
        editor_arguments: dict[str, object] | None = None,
        generator: torch.Generator | None = None,
        crop: Crop = "center",
    ) -> PIL.Image.Image:
        r"""
        The edited first frame alone, to be looked at before the video is rendered, and passed on as `edited_frame`.

        Args: as [`~LEOEditPipeline.__call__`]. Of an iterator that can be read only once, the first frame is gone.

        Returns:
            `PIL.Image.Image`: The edited frame, at the animator's size.

        Raises:
            FileNotFoundError: Where there is no such video.
            TypeError: Where an argument is of another type.
            ValueError: As [`~LEOEditPipeline.__call__`].

        Examples:
            ```py
            >>> from PIL import ImageOps
            >>> from leo_diffusers import DEMO_MODEL, LEOEditPipeline

            >>> pipeline = LEOEditPipeline.from_pretrained(DEMO_MODEL)
            >>> def posterize(image, prompt):
            ...     return ImageOps.posterize(image, bits=3)
            >>> edited_frame = pipeline.edit_first_frame("video.mp4", "a poster", editor=posterize)
            >>> edited_frame.size
            (128, 128)
            ```
        """
        check_crop(crop, False, "pil")
        return self.prepare_edit(video, prompt, None, editor, editor_arguments, generator, crop, False)[0]

    @torch.no_grad()
    def stream(
        self,
        video: DrivingVideo,
        prompt: str | None = None,
        edited_frame: Image | None = None,
        editor: ImageEditor | ImagePipeline | None = None,
        editor_arguments: dict[str, object] | None = None,
        motion_mode: str = "relative",
        reference_frame: int | str = 0,
        motion_control: MotionControl | None = None,
        generator: torch.Generator | None = None,
        decode_chunk_size: int | None = None,
        output_type: str = "pil",
        crop: Crop = "center",
        paste_back: bool = False,
    ) -> Iterator[PIL.Image.Image | np.ndarray | torch.Tensor]:
        r"""
        Edits at once, then renders while the video is read: memory does not grow with its length.

        Args: as [`~LEOEditPipeline.__call__`].

        Returns:
            Iterator of single frames, as of [`~LIAPipeline.stream`].

        Raises:
            FileNotFoundError: Where there is no such video.
            TypeError: Where an argument is of another type.
            ValueError: As [`~LEOEditPipeline.__call__`]; that the video ends before `reference_frame` shows later.

        Examples:
            ```py
            >>> from PIL import Image
            >>> from leo_diffusers import DEMO_MODEL, LEOEditPipeline
            >>> from leo_diffusers.video_io import VideoReader, VideoWriter, to_frame

            >>> pipeline = LEOEditPipeline.from_pretrained(DEMO_MODEL)
            >>> rate = VideoReader("video.mp4").frames_per_second
            >>> with VideoWriter("result.mp4", rate, audio_from="video.mp4") as writer:
            ...     for frame in pipeline.stream("video.mp4", edited_frame=Image.open("edited.png")):
            ...         writer.write(to_frame(frame))
            ```
        """
        _, source, motion_codes, background = self.prepare_edited_animation(
            video,
            prompt,
            edited_frame,
            editor,
            editor_arguments,
            motion_mode,
            reference_frame,
            motion_control,
            generator,
            decode_chunk_size,
            output_type,
            crop,
            paste_back,
        )
        return self.stream_frames(source, motion_codes, decode_chunk_size, output_type, background)

    @torch.no_grad()
    @replace_example_docstring(EXAMPLE_DOC_STRING)
    def __call__(
        self,
        video: DrivingVideo,
        prompt: str | None = None,
        edited_frame: Image | None = None,
        editor: ImageEditor | ImagePipeline | None = None,
        editor_arguments: dict[str, object] | None = None,
        motion_mode: str = "relative",
        reference_frame: int | str = 0,
        motion_control: MotionControl | None = None,
        generator: torch.Generator | None = None,
        decode_chunk_size: int | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        crop: Crop = "center",
        paste_back: bool = False,
    ) -> LEOEditPipelineOutput | tuple:
        r"""
        Moves an edited first frame as `video`, generated or real, moves its own. All frames are returned at once;
        [`~LEOEditPipeline.stream`] serves long videos.

        Args:
            video (`str`, `Path`, [`~video_io.VideoReader`] or iterable): A file, or frames as [`~video_io.to_frame`]
                takes them. The editor sees the first one's square at the full resolution given.
            prompt (`str`, *optional*): What the editor shall do, or show.
            edited_frame (`PIL.Image.Image`, `np.ndarray` or `torch.Tensor`, *optional*): The first frame, edited
                elsewhere: takes the place of prompt and editor. Either all of it, at the video's size, or its square;
                resized with a warning if that has another size than the animator's frames.
            editor ([`ImageEditor`], `DiffusionPipeline` or `Callable`, *optional*): Used instead of the pipeline's.
            editor_arguments (`dict`, *optional*): What the editor takes beside image and prompt, such as `strength`,
                `guidance_scale` or `num_inference_steps`.
            motion_mode (`str`): "relative" (the edited face keeps its own pose and adds the video's motion) or
                "absolute".
            reference_frame (`int` or `str`): For relative motion, the frame of `video` that has the pose of the
                edited one: the first, unless `edited_frame` is another. "auto" is the one of the nearest motion code.
            motion_control ([`MotionControl`], *optional*): Smooths, scales or replaces the motion.
            generator (`torch.Generator`, *optional*): Source of the editor's noise.
            decode_chunk_size (`int`, *optional*): Frames that go through the animator at a time.
            output_type (`str`): "pil", "np", "pt", or "latent" for the motion codes alone.
            return_dict (`bool`): Whether to return an output object instead of a tuple.
            crop (`str` or `Callable`): Which square of `video` is edited and moved, the same in all frames: "center",
                with a warning where that is not all; "auto", around the face, found by OpenCV in frames spread over
                a file, or in the first ones of an iterator; or "none", which refuses what is not square. A function
                from a picture `(H, W, 3)`, uint8, to boxes (left, top, right, bottom) of faces does what "auto" does.
            paste_back (`bool`): Whether to return `video` at its own size, with the edited square put back into each
                of its frames, instead of that square alone. What is around the square moves on as it did: where head
                or shoulders reach across its border, which fades, the edit ends and shows. An iterator's frames are
                kept until they are rendered, with `reference_frame="auto"` all of them.

        Examples:

        Returns:
            [`LEOEditPipelineOutput`] or `tuple`: One clip, the motion codes it was rendered from, and the edited
            frame.

        Raises:
            FileNotFoundError: Where there is no such video.
            TypeError: Where an argument is of another type.
            ValueError: Where `prompt` and `edited_frame` are both given or both missing, a prompt has no editor, the
                editor knows no such argument or returned no image, the video is empty, or another argument is none
                of those named here.
        """
        edited_frame, source, motion_codes, background = self.prepare_edited_animation(
            video,
            prompt,
            edited_frame,
            editor,
            editor_arguments,
            motion_mode,
            reference_frame,
            motion_control,
            generator,
            decode_chunk_size,
            output_type,
            crop,
            paste_back,
        )
        motion_codes = torch.cat(list(motion_codes))
        frames, motion_codes = self.render(source, motion_codes, decode_chunk_size, output_type, False, background)
        output = LEOEditPipelineOutput(frames, motion_codes, edited_frame)
        return output if return_dict else (frames, motion_codes, edited_frame)
