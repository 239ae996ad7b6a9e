"""Editors of a first frame: any diffusers image pipeline, or a function, as (image, prompt) -> image."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import PIL.Image
import torch
from diffusers import DiffusionPipeline, ModelMixin

from .. import video_io


ImagePipeline = DiffusionPipeline | Callable
Detector = Callable[[PIL.Image.Image], PIL.Image.Image]

FRAME, CONTROL_MAP = "frame", "control map"  # what an image argument of a pipeline wants to be given
CONTROL_COMPONENTS = {"controlnet", "adapter"}
OWN_ARGUMENTS = {
    "image",
    "control_image",
    "prompt",
    "generator",
    "num_images_per_prompt",
    "output_type",
    "return_dict",
}
UNSTATED_SIZE = 1024  # pixels; pipelines that name no size of their own (Z-Image, LongCat) were trained at this one
SIZE_MULTIPLE = 16  # pixels; an autoencoder's 8 times a transformer's patches of 2
MIN_DETECTOR_SIZE = 64  # pixels; controlnet-aux rounds to multiples of it, and smaller images to nothing
LINE_ART = ("lineart", "lineart_standard")  # without weights; controlnet-aux has no id for it
DETECTOR_PACKAGES = {"mediapipe_face": "mediapipe", "dwpose": "mmpose"}  # what controlnet-aux does not bring along


def call_image_pipeline(
    pipeline: ImagePipeline, *inputs: object, generator: torch.Generator | None = None, **arguments: object
) -> PIL.Image.Image:
    r"""
    Makes one image with a diffusers pipeline (`call_image_pipeline(sdxl, prompt="a portrait")`) or a function.

    Args:
        pipeline (`DiffusionPipeline` or `Callable`): A pipeline is asked for one PIL image. A function may return a
            PIL image, an array or tensor as [`~video_io.to_frame`] takes it, a list of them, or an object with
            `images`.
        inputs: Positional arguments, for functions, whose argument names nobody knows.
        generator (`torch.Generator`, *optional*): Passed on where the call has an argument of this name.
        arguments: Keyword arguments of the call.

    Returns:
        `PIL.Image.Image`: The first image, of mode "RGB".

    Raises:
        ValueError: Where the call knows no such argument, or returned no image, or one that a safety checker blacked
            out.
    """
    check_arguments(pipeline, arguments)
    parameters = call_parameters(pipeline)
    own = {"generator": generator}
    if isinstance(pipeline, DiffusionPipeline):
        own |= {"num_images_per_prompt": 1, "output_type": "pil"}
    own = {name: value for name, value in own.items() if name in parameters}
    return first_image(pipeline(*inputs, **arguments, **own), name_of(pipeline))


def first_image(output: object, name: str) -> PIL.Image.Image:
    r"""The one image in whatever an editor or a detector of this name returned; see [`call_image_pipeline`]."""
    if any(getattr(output, "nsfw_content_detected", None) or ()):
        raise ValueError(f"{name} returned a black image: its safety checker objected. Change the prompt or the seed.")
    image = getattr(output, "images", output)
    while isinstance(image, (list, tuple)) or getattr(image, "ndim", 0) == 4:
        image = image[0] if len(image) else None
    if not isinstance(image, (PIL.Image.Image, np.ndarray, torch.Tensor)):
        raise ValueError(f"{name} returned no image, but {type(image).__name__}.")
    return video_io.to_pil(video_io.to_frame(image))


def call_parameters(pipeline: ImagePipeline | type) -> Mapping[str, inspect.Parameter]:
    r"""Parameters of a call by name, those of a pipeline's `__call__`; none where a built-in tells nothing."""
    is_class = isinstance(pipeline, type)
    try:
        return inspect.signature(pipeline.__call__ if is_class else pipeline).parameters
    except ValueError:
        return {}


def check_arguments(pipeline: ImagePipeline, arguments: Mapping[str, object]) -> None:
    r"""Refuses what the call does not know. Many pipelines of diffusers drop it silently: they have `**kwargs`."""
    parameters = call_parameters(pipeline).values()
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    if takes_any and not isinstance(pipeline, DiffusionPipeline):
        return
    known = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    unknown = sorted(set(arguments) - set(known))
    if unknown:
        raise ValueError(f"{name_of(pipeline)} takes no {', '.join(unknown)}. It takes {', '.join(known)}.")


def name_of(pipeline: ImagePipeline) -> str:
    r"""How messages call a pipeline or function."""
    return getattr(pipeline, "__name__", type(pipeline).__name__)


def image_inputs(pipeline_class: type[DiffusionPipeline]) -> dict[str, str]:
    r"""
    What the image arguments of a pipeline mean, read from its signatures.

    Args:
        pipeline_class (`type`): A class of diffusers, or of a community pipeline.

    Returns:
        `dict[str, str]`: "image" and "control_image", as far as the class has them, each to `FRAME` or `CONTROL_MAP`.
        Text-to-image pipelines with a ControlNet take the control map as `image`.
    """
    parameters = call_parameters(pipeline_class)
    if "control_image" in parameters:
        frame = {"image": FRAME} if "image" in parameters else {}
        return {**frame, "control_image": CONTROL_MAP}
    if "image" not in parameters:
        return {}
    is_guided = CONTROL_COMPONENTS & set(inspect.signature(pipeline_class.__init__).parameters)
    return {"image": CONTROL_MAP if is_guided else FRAME}


class ImageEditor:
    r"""
    A diffusers image pipeline, or a function, as an editor `(image, prompt) -> image`.

    Pipelines are adapted by their signature: ControlNet pipelines of Stable Diffusion, SDXL, Flux and their like get
    the detector's map, image-to-image pipelines and instruction editors (InstructPix2Pix, Flux Kontext, Qwen-Image-
    Edit) get the image. They work at the size that they were trained at.

    Args:
        editor (`DiffusionPipeline` or `Callable`): A pipeline, or a function of an image and a prompt, by position.
            A function gets `generator` and the detector's `control_image` where it has arguments of these names.
        detector (`str` or `Callable`, *optional*): What makes the control map: a name as of [`load_detector`], or a
            function from image to image. Its map is resized to the image's size.
        image_size (`int`, *optional*): Shorter side in pixels that a pipeline works at, instead of its own.
        defaults: Arguments of every call, such as `strength` or `guidance_scale`.

    Raises:
        TypeError: Where `editor` cannot be called.
        ValueError: Where it takes no image or no prompt, where it lacks a detector or cannot use one, or where it
            knows no such argument.

    Examples:
        ```py
        >>> from PIL import Image, ImageFilter
        >>> from leo_diffusers import ImageEditor

        >>> def sketch(image, prompt, control_image, strength):
        ...     return Image.blend(image, control_image, strength)
        >>> def find_edges(image):
        ...     return image.filter(ImageFilter.FIND_EDGES)
        >>> editor = ImageEditor(sketch, detector=find_edges, strength=0.5)
        >>> editor(Image.open("photo.png"), "a sketch").save("sketch.png")
        >>> editor(Image.open("photo.png"), "a sketch", strength=0.9).size
        (128, 128)
        ```
    """

    def __init__(
        self,
        editor: ImagePipeline,
        detector: str | Detector | None = None,
        image_size: int | None = None,
        **defaults: object,
    ):
        if not callable(editor):
            raise TypeError(f"`editor` must be a diffusers pipeline or a function, got {type(editor).__name__}.")
        self.pipeline = editor
        self.is_pipeline = isinstance(editor, DiffusionPipeline)
        if self.is_pipeline:
            self.inputs = image_inputs(type(editor))
            self._check_pipeline()
        else:
            self.inputs = {"control_image": CONTROL_MAP} if "control_image" in call_parameters(editor) else {}
        self._check_detector(detector)
        if image_size is not None and (not isinstance(image_size, int) or image_size < 1):
            raise ValueError(f"`image_size` must be a positive integer, got {image_size!r}.")
        self.check_arguments(defaults)
        self.detector = load_detector(detector) if isinstance(detector, str) else detector
        self.image_size = image_size
        self.defaults = defaults

    def __call__(
        self,
        image: PIL.Image.Image,
        prompt: str,
        generator: torch.Generator | None = None,
        **overrides: object,
    ) -> PIL.Image.Image:
        r"""
        Args:
            image (`PIL.Image.Image`): What is edited, of any size.
            prompt (`str`): What the editor shall do, or show.
            generator (`torch.Generator`, *optional*): Source of the editor's noise.
            overrides: Arguments for this call, beside and above the defaults.

        Returns:
            `PIL.Image.Image`: The edited image, at the editor's size.

        Raises:
            ValueError: Where the editor knows no such argument or returned no image.
        """
        self.check_arguments(overrides)
        arguments = {**self.defaults, **overrides}
        if self.is_pipeline:
            image = self.resize(image)
            sizes = zip(("width", "height"), image.size)
            known = call_parameters(self.pipeline)
            arguments = {**{name: size for name, size in sizes if name in known}, **arguments, "prompt": prompt}
        pictures = {FRAME: image}
        if self.detector is not None:
            pictures[CONTROL_MAP] = self.detect(image)
        arguments |= {name: pictures[kind] for name, kind in self.inputs.items() if kind in pictures}
        inputs = () if self.is_pipeline else (image, prompt)
        return call_image_pipeline(self.pipeline, *inputs, generator=generator, **arguments)

    def check_arguments(self, arguments: Mapping[str, object]) -> None:
        r"""Refuses arguments that the editor does not know, or that this class sets itself."""
        own = sorted(OWN_ARGUMENTS & set(arguments))
        if own:
            raise ValueError(f"{', '.join(own)} cannot be set for an editor: it makes one image of one image.")
        check_arguments(self.pipeline, arguments)

    def native_size(self) -> int:
        r"""Shorter side in pixels that the pipeline works at."""
        if self.image_size is not None:
            return self.image_size
        sizes = [getattr(self.pipeline, "default_sample_size", None)]
        for name in ("unet", "transformer"):
            config = getattr(getattr(self.pipeline, name, None), "config", {})
            sizes.append(config.get("sample_size"))
        scale = getattr(self.pipeline, "vae_scale_factor", None)
        sizes = [size for size in sizes if isinstance(size, int)]
        return sizes[0] * scale if sizes and scale else UNSTATED_SIZE

    def resize(self, image: PIL.Image.Image) -> PIL.Image.Image:
        r"""The image at the pipeline's size, sides rounded to what its networks can halve."""
        scale = self.native_size() / min(image.size)
        sides = [max(1, round(side * scale / SIZE_MULTIPLE)) * SIZE_MULTIPLE for side in image.size]
        return image.resize(sides, PIL.Image.Resampling.LANCZOS)

    def detect(self, image: PIL.Image.Image) -> PIL.Image.Image:
        r"""The control map of an image, at the image's size."""
        control_map = first_image(self.detector(image), "`detector`")
        return control_map.resize(image.size, PIL.Image.Resampling.BILINEAR)

    def to(self, device: torch.device | str) -> "ImageEditor":
        r"""Moves the editor, if it is a pipeline or a network that has no offloading or device map of its own."""
        networks = getattr(self.pipeline, "components", {}).values()
        is_managed = any(hasattr(network, "_hf_hook") for network in networks)
        is_managed |= getattr(self.pipeline, "hf_device_map", None) is not None
        if isinstance(self.pipeline, (DiffusionPipeline, torch.nn.Module)) and not is_managed:
            self.pipeline.to(device)
        return self

    def _check_pipeline(self) -> None:
        name = name_of(self.pipeline)
        if not self.inputs:
            raise ValueError(
                f"{name} takes no image. Pass `AutoPipelineForImage2Image.from_pipe(pipeline)` as the editor, or a "
                "function (image, prompt) -> image that calls it."
            )
        if "prompt" not in call_parameters(self.pipeline):
            raise ValueError(f"{name} takes no prompt, so it cannot be told how to edit.")

    def _check_detector(self, detector: str | Detector | None) -> None:
        name = name_of(self.pipeline)
        is_guided = CONTROL_MAP in self.inputs.values()
        if self.is_pipeline and is_guided and detector is None:
            raise ValueError(f'{name} is guided by a control image: pass a `detector`, such as "canny".')
        if detector is not None and not is_guided:
            raise ValueError(f"{name} takes no control image, so `detector` would have no effect: leave it out.")
        if detector is not None and not isinstance(detector, str) and not callable(detector):
            raise TypeError(f"`detector` must be a name or a function, got {type(detector).__name__}.")


def as_editor(editor: ImageEditor | ImagePipeline, detector: Detector | None = None) -> ImageEditor:
    r"""What a user passes as an editor, as an [`ImageEditor`]."""
    if isinstance(editor, ImageEditor) and detector is None:
        return editor
    return ImageEditor(editor, detector)


def load_detector(name: str) -> Detector:
    r"""
    Args:
        name (`str`): "canny", "lineart" (also "lineart_standard") and "shuffle" need no weights; every other id of
            `controlnet_aux.processor.MODELS`, such as "lineart_realistic", "softedge_pidinet" or "openpose_face",
            takes its weights from the Hub.

    Returns:
        `Callable`: From a PIL image to its control map, detected at the image's own resolution.

    Raises:
        ValueError: Where there is no such detector, or a package that it needs is missing.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about detectors that are not asked for
            from controlnet_aux import LineartStandardDetector
            from controlnet_aux.processor import MODELS, Processor
    except (ImportError, OSError, RuntimeError) as error:  # the latter two: a torchvision of another torch
        raise ValueError(
            f'`detector="{name}"` needs controlnet-aux: `pip install "leo_diffusers[edit]"` ({error}).'
        ) from error
    if name not in (*LINE_ART, *MODELS):
        raise ValueError(f"`detector` must be one of {', '.join(sorted({*LINE_ART, *MODELS}))}, got {name!r}.")
    package = DETECTOR_PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        raise ValueError(f'`detector="{name}"` needs the package {package}.')
    if name in LINE_ART:
        detector, settings = LineartStandardDetector(), {}
    else:
        processor = Processor(name)
        detector, settings = processor.processor, processor.params
    parameters = inspect.signature(detector.__call__).parameters

    def detect(image: PIL.Image.Image) -> PIL.Image.Image:
        resolution = max(MIN_DETECTOR_SIZE, min(image.size))
        sizes = {"detect_resolution": resolution, "image_resolution": resolution}  # both are 512 otherwise
        sizes = {argument: size for argument, size in sizes.items() if argument in parameters}
        return detector(image.convert("RGB"), output_type="pil", **sizes, **settings)

    return detect


def load_image_pipeline(
    editor: str | Path | ImagePipeline, controlnet: str | Path | ModelMixin | None = None, **loading: object
) -> ImagePipeline:
    r"""
    Loads a pipeline that edits images.

    Args:
        editor (`str`, `Path`, `DiffusionPipeline` or `Callable`): Hub id or folder of a diffusers pipeline. One that
            only makes images from text is turned into its image-to-image kin. A function is returned as it is.
        controlnet (`str`, `Path` or [`ModelMixin`], *optional*): Hub id or folder of a ControlNet, or the network.
        loading: Arguments of `from_pretrained`, such as `dtype` or `token`.

    Returns:
        `DiffusionPipeline` or `Callable`: The editor, for [`ImageEditor`].

    Raises:
        ValueError: Where diffusers has no such pipeline, or a ControlNet is to join a function.
    """
    # Here, as it takes a second: most users of the package edit nothing.
    from diffusers import AutoModel, AutoPipelineForImage2Image, AutoPipelineForText2Image

    if isinstance(controlnet, (str, Path)):
        controlnet = AutoModel.from_pretrained(str(controlnet), **loading)  # a Path breaks it
    if isinstance(editor, (str, Path)) and controlnet is not None:
        try:
            return AutoPipelineForImage2Image.from_pretrained(editor, controlnet=controlnet, **loading)
        except ValueError:  # Stable Diffusion 3, Qwen-Image, Z-Image: guided by the control map alone
            return AutoPipelineForText2Image.from_pretrained(editor, controlnet=controlnet, **loading)
    pipeline = DiffusionPipeline.from_pretrained(editor, **loading) if isinstance(editor, (str, Path)) else editor
    if not isinstance(pipeline, DiffusionPipeline):
        if controlnet is not None:
            raise ValueError("`controlnet` can only join a diffusers pipeline, and `editor` is none.")
        return pipeline
    if controlnet is not None:
        return AutoPipelineForImage2Image.from_pipe(pipeline, controlnet=controlnet)
    return pipeline if image_inputs(type(pipeline)) else AutoPipelineForImage2Image.from_pipe(pipeline)
