"""What the commands of `leo-diffusers` do."""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, HFValidationError, RepositoryNotFoundError
from tqdm import tqdm

from . import video_io
from .code_export import export_code
from .command_line import stop_requests
from .lia_checkpoint import load_lia_checkpoint
from .model_card import check_license, take_over_training
from .onnx_export import check_packages, export_onnx
from .pipelines.components import NETWORKS, assemble_pipeline, cast_weights
from .pipelines.motion_control import MotionControl
from .pipelines.motion_pipeline import FirstFrameSource
from .pipelines.pipeline_card import CardContents, write_pipeline_card
from .pipelines.pipeline_leo import LEOPipeline
from .pipelines.pipeline_leo_edit import LEOEditPipeline
from .pipelines.pipeline_leo_infinite import LEOInfinitePipeline
from .pipelines.pipeline_lia import LIAPipeline
from .video_io.ffmpeg import exact_frame_rate


DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PIPELINES = {one.__name__: one for one in (LIAPipeline, LEOPipeline, LEOInfinitePipeline, LEOEditPipeline)}
STANDARD_OUTPUT = Path("-")
EDITOR_OPTIONS = ("strength", "guidance_scale", "num_inference_steps")
FILE_FRAMES = 1024  # of a stream to a file, where no number is given
PLAYER = "ffplay -f rawvideo -pixel_format rgb24 -video_size {width}x{height} -framerate {rate:g} -"

CONVERTED_DESCRIPTION = """\
The image animator of LIA at {frame_size} pixels, converted from a checkpoint in the format that its authors released.
LIA's code and weights are licensed CC BY-NC 4.0: attribution is required and commercial use is not allowed."""

CONVERTED_DATA = """\
That of LIA's authors: VoxCeleb for `vox.pt`, TaiChi-HD for `taichi.pt`, TED-talks for `ted.pt`."""

CONVERTED_METRICS = """\
Not measured here; LIA's paper has the authors' numbers."""

ASSEMBLED_DESCRIPTION = """\
LEO, put together with leo_diffusers from networks that were trained one by one: {names}."""


# ------------------------------------------------------------------------------------------------------ in common


def choose_device(name: str | None) -> torch.device:
    r"""The device of `--device`, the fastest there is by default."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    usable = {"cpu"} if accelerator is None else {"cpu", accelerator.type}
    try:
        device = torch.device(name or accelerator or "cpu")
    except RuntimeError:
        device = None
    if device is None or device.type not in usable:
        raise ValueError(f"--device {name} is not there: this machine has {' and '.join(sorted(usable))}.")
    return device


def check_model(model: str | Path) -> None:
    r"""
    Refuses what is no model in few words, before diffusers does in paragraphs.

    Args:
        model (`str` or `Path`): Folder or Hub id of a pipeline.

    Raises:
        FileNotFoundError: Where there is none, or it cannot be reached.
    """
    model = str(model)
    name_one = "name its folder or Hub id by --model."
    if os.path.isdir(model):
        if os.path.isfile(os.path.join(model, "model_index.json")):
            return
        found = [name for name in NETWORKS if os.path.isdir(os.path.join(model, name))]
        parts = f", only {' and '.join(found)}, which `leo-diffusers assemble` adds to one" if found else ""
        raise FileNotFoundError(f"The folder {model} holds no model (model_index.json){parts}: {name_one}")
    # No Hub id begins with a slash, or has two.
    if os.path.isabs(model) or model.count("/") > 1:
        raise FileNotFoundError(f"There is no model in {model}: {name_one}")
    try:
        if isinstance(try_to_load_from_cache(model, "model_index.json"), str):
            return  # known from before; diffusers looks for news of it, and does without where there is no network
        get_hf_file_metadata(hf_hub_url(model, "model_index.json"))
    except GatedRepoError:
        problem = f"{model} asks for its terms to be accepted on the Hub: do so there, and log in by `hf auth login`."
    except RepositoryNotFoundError:
        problem = f"There is no model {model}, no folder and nothing public on the Hub: {name_one} "
        problem += "A private one needs `hf auth login`."
    except EntryNotFoundError:
        problem = f"{model} on the Hub holds no model (model_index.json): {name_one}"
    except HFValidationError:
        problem = f"There is no folder {model}, and no Hub id looks so: {name_one}"
    except Exception as error:  # of the client's HTTP library, which is another from version to version
        kind = type(error).__name__
        problem = f"There is no folder {model}, and the Hub did not answer ({kind}): {name_one}"
    else:
        return
    raise FileNotFoundError(problem)


def load_pipeline(
    pipeline_class: type[DiffusionPipeline], arguments: argparse.Namespace, **loading: object
) -> DiffusionPipeline:
    r"""The model of `--model`, on `--device` in `--dtype`."""
    check_model(arguments.model)
    torch.manual_seed(arguments.seed)
    device = choose_device(arguments.device)
    return pipeline_class.from_pretrained(arguments.model, dtype=DTYPES[arguments.dtype], **loading).to(device)


def check_first_frame_options(arguments: argparse.Namespace) -> None:
    r"""Refuses what contradicts itself before any model is loaded."""
    if arguments.prompt is not None and arguments.first_frame_model is None:
        raise ValueError("--prompt needs --first-frame-model, a diffusers text-to-image pipeline.")
    if arguments.image and arguments.first_frame_model is not None:
        raise ValueError("--image is a first frame already: leave out --prompt and --first-frame-model.")
    if arguments.paste_back and not arguments.image:
        raise ValueError("--paste-back puts the result back into the photo: give --image.")


def load_first_frame_source(arguments: argparse.Namespace) -> FirstFrameSource:
    r"""The text-to-image model of `--first-frame-model`, if there is one."""
    if arguments.first_frame_model is None:
        return None
    pipeline = DiffusionPipeline.from_pretrained(arguments.first_frame_model, dtype=DTYPES[arguments.dtype])
    return pipeline.to(choose_device(arguments.device))


def motion_control_of(arguments: argparse.Namespace, motion_dim: int) -> MotionControl | None:
    r"""The motion control that the command line asks of a model with `motion_dim` directions, if any."""
    factors, values = dict(arguments.direction_scale), dict(arguments.direction_value)
    if arguments.motion_scale == 1 and not (factors or values or arguments.smoothing):
        return None
    scale = dict.fromkeys(range(motion_dim), arguments.motion_scale) | factors
    return MotionControl(scale, values, arguments.smoothing)


class RawVideoWriter(contextlib.AbstractContextManager):
    r"""Writes frames as raw RGB bytes to standard output; ends the process quietly when nobody reads them any more."""

    def write(self, frame: torch.Tensor) -> None:
        r"""One frame (3, H, W) in [-1, 1]."""
        sys.stdout.buffer.write(video_io.to_uint8(frame).tobytes())
        sys.stdout.buffer.flush()

    def __exit__(self, exception_type: type | None, exception: object, traceback: object) -> bool:
        if not isinstance(exception, BrokenPipeError):
            return False
        # The interpreter flushes standard output once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True


# ------------------------------------------------------------------------------------------------------- commands


def run_animate(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers animate`: in constant memory, at the driving video's frame rate and with its audio."""
    image = video_io.read_image(arguments.image)
    driving = video_io.VideoReader(arguments.driving_video)
    writer = video_io.VideoWriter(arguments.output, driving.frames_per_second, audio_from=arguments.driving_video)
    pipeline = load_pipeline(LIAPipeline, arguments)
    frames = pipeline.stream(
        image,
        arguments.driving_video,
        motion_mode=arguments.motion_mode,
        reference_frame=arguments.reference_frame,
        motion_control=motion_control_of(arguments, pipeline.animator.config.motion_dim),
        output_type="pt",
        crop=arguments.crop,
        paste_back=arguments.paste_back,
    )
    with writer:
        for frame in tqdm(frames, total=len(driving), unit="frame"):
            writer.write(frame * 2 - 1)
    print(f"Wrote {arguments.output}.")


def run_generate(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers generate`: one video, or several numbered ones, from photos, a prompt, or nothing."""
    if arguments.num_videos < 1:
        raise ValueError(f"--num-videos must be at least 1, got {arguments.num_videos}.")
    check_first_frame_options(arguments)
    if arguments.shared_motion and len(arguments.image) < 2:
        raise ValueError("--shared-motion shows one motion on several photos: give --image two or more.")
    images = [video_io.read_image(path) for path in arguments.image] or [None]
    outputs = [arguments.output]
    num_outputs = arguments.num_videos * len(images)
    if num_outputs > 1:
        stem, suffix = arguments.output.stem, arguments.output.suffix
        outputs = [arguments.output.with_name(f"{stem}-{i}{suffix}") for i in range(num_outputs)]
    writers = iter([video_io.VideoWriter(output, arguments.fps) for output in outputs])
    pipeline = load_pipeline(LEOPipeline, arguments)
    source = load_first_frame_source(arguments)
    options = {
        "num_frames": arguments.num_frames,
        "num_inference_steps": arguments.num_inference_steps,
        "prompt": arguments.prompt,
        "first_frame_source": source,
    }
    control = motion_control_of(arguments, pipeline.animator.config.motion_dim)
    for index in range(arguments.num_videos):
        # One generator a video: video 3 of 4 is the same as with --seed + 3 alone.
        seed = arguments.seed + index
        transfer = {}
        if arguments.shared_motion:
            # Before motion control, which counts from each photo's own code.
            generator = torch.Generator().manual_seed(seed)
            drawn = pipeline(images[0], generator=generator, output_type="latent", crop=arguments.crop, **options)
            transfer = {"motion_codes": drawn.motion_codes, "motion_mode": "relative"}
        for image in images:
            generator = torch.Generator().manual_seed(seed)
            output = pipeline(
                image,
                generator=generator,
                motion_control=control,
                output_type="pt",
                crop=arguments.crop,
                paste_back=arguments.paste_back,
                **options,
                **transfer,
            )
            with next(writers) as writer:
                writer.write(output.frames[0] * 2 - 1)
            print(f"Wrote {writer.path}.")


def run_stream(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers stream`: endless video to a file, or as raw RGB to standard output."""
    check_first_frame_options(arguments)
    is_piped = arguments.output == STANDARD_OUTPUT
    num_frames = arguments.num_frames
    if num_frames is None and not is_piped:
        num_frames = FILE_FRAMES
    image = None if arguments.image is None else video_io.read_image(arguments.image)
    exact_frame_rate(arguments.fps)  # raw video has no rate, but its player must be told one
    sink = RawVideoWriter() if is_piped else video_io.VideoWriter(arguments.output, arguments.fps)
    with contextlib.redirect_stdout(sys.stderr):  # what others print is no video
        pipeline = load_pipeline(LEOInfinitePipeline, arguments)
        frames = pipeline.stream(
            image,
            num_frames=num_frames,
            num_inference_steps=arguments.num_inference_steps,
            transition=arguments.transition,
            transition_interval=arguments.transition_interval,
            drift_limit=arguments.drift_limit,
            prompt=arguments.prompt,
            first_frame_source=load_first_frame_source(arguments),
            generator=torch.Generator().manual_seed(arguments.seed),
            motion_control=motion_control_of(arguments, pipeline.animator.config.motion_dim),
            output_type="pt",
            crop=arguments.crop,
            paste_back=arguments.paste_back,
        )
    if is_piped:
        frame_size = pipeline.animator.config.frame_size
        height, width = image.shape[-2:] if arguments.paste_back else (frame_size, frame_size)
        player = PLAYER.format(width=width, height=height, rate=arguments.fps)
        print(f"Raw video, to be piped into: {player}", file=sys.stderr)
    pipeline.set_progress_bar_config(disable=True)  # this one counts the frames
    failure = None
    # Stop requests outermost: one that comes while the file is finished must not destroy it.
    with stop_requests() as is_stopped, sink as writer, contextlib.closing(frames):
        try:
            for frame in tqdm(frames, total=num_frames, unit="frame"):
                writer.write(frame * 2 - 1)
                if is_stopped():
                    print("Stopped: what was generated so far is kept.", file=sys.stderr)
                    break
        except (ValueError, RuntimeError, MemoryError) as error:
            failure = error  # raised when the file is finished: hours of frames are not lost with the last one
    if failure is not None:
        raise failure
    if not is_piped:
        print(f"Wrote {arguments.output}.")


def check_edit_options(arguments: argparse.Namespace) -> None:
    r"""Refuses what leads to no edit before any model is loaded."""
    if (arguments.prompt is None) == (arguments.edited_frame is None):
        raise ValueError("Give either --edited-frame, or --prompt with --editor.")
    if arguments.prompt is not None and arguments.editor is None:
        raise ValueError(
            "--prompt needs an editor: name a diffusers image pipeline by --editor, or use --edited-frame."
        )
    for name in ("editor", "controlnet", "detector", *EDITOR_OPTIONS):
        if arguments.edited_frame is not None and getattr(arguments, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is for --prompt: with --edited-frame nothing is left to edit."
            )


def run_edit(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers edit`: in constant memory, at the video's frame rate and with its audio."""
    check_edit_options(arguments)
    edited_frame = None if arguments.edited_frame is None else video_io.read_image(arguments.edited_frame)
    video = video_io.VideoReader(arguments.video)
    writer = video_io.VideoWriter(arguments.output, video.frames_per_second, audio_from=arguments.video)
    loading = {name: getattr(arguments, name) for name in ("editor", "controlnet", "detector")}
    pipeline = load_pipeline(LEOEditPipeline, arguments, **loading)
    given = {name: getattr(arguments, name) for name in EDITOR_OPTIONS}
    editor_arguments = {name: value for name, value in given.items() if value is not None}
    frames = pipeline.stream(
        arguments.video,
        prompt=arguments.prompt,
        edited_frame=edited_frame,
        editor_arguments=editor_arguments,
        motion_mode=arguments.motion_mode,
        reference_frame=arguments.reference_frame,
        motion_control=motion_control_of(arguments, pipeline.animator.config.motion_dim),
        generator=torch.Generator().manual_seed(arguments.seed),
        output_type="pt",
        crop=arguments.crop,
        paste_back=arguments.paste_back,
    )
    with writer:
        for frame in tqdm(frames, total=len(video), unit="frame"):
            writer.write(frame * 2 - 1)
    print(f"Wrote {arguments.output}.")


def run_manipulate(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers manipulate`: an image, or a video of the walk to it."""
    is_image = arguments.output.suffix.lower() in video_io.IMAGE_SUFFIXES
    image = video_io.read_image(arguments.image)
    writer = None if is_image else video_io.VideoWriter(arguments.output, arguments.fps)
    pipeline = load_pipeline(LIAPipeline, arguments)
    num_frames = 1 if is_image else arguments.num_frames
    output = pipeline.manipulate(
        image,
        dict(arguments.direction),
        num_frames=num_frames,
        output_type="pt",
        crop=arguments.crop,
        paste_back=arguments.paste_back,
    )
    frames = output.frames[0] * 2 - 1
    if is_image:
        video_io.write_image(arguments.output, frames[0])
    else:
        with writer:
            writer.write(frames)
    print(f"Wrote {arguments.output}.")


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    r"""A folder to write into, which appears under its name only when it is complete."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists and is not an empty folder: choose another name.")
    # Below a folder that is there already, so that a failure leaves no empty parents behind.
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    with tempfile.TemporaryDirectory(dir=parent, prefix=".new-") as folder:
        complete = Path(folder) / "complete"
        yield complete
        if path.exists():
            path.rmdir()
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(complete, path)


def run_assemble(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers assemble`: a LEO model with the networks that were trained for it, in one folder."""
    check_license(arguments.license)
    check_model(arguments.model)
    with new_folder(arguments.output) as folder:
        pipeline = assemble_pipeline(arguments.model, arguments.add)
        pipeline.save_pretrained(str(folder))
        names = ", ".join(name for name in NETWORKS if getattr(pipeline, name, None) is not None)
        write_pipeline_card(
            folder,
            pipeline,
            arguments.output.name,
            CardContents(license=arguments.license, with_sample=not arguments.no_sample),
            introduction=ASSEMBLED_DESCRIPTION.format(names=names),
            training=take_over_training([arguments.model, *arguments.add], folder),
        )
    print(f"Wrote {arguments.output}: {type(pipeline).__name__} with {names}.")


def run_export_code(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers export-code`: a model with the code that runs it, for `trust_remote_code=True`."""
    if arguments.license is not None:
        check_license(arguments.license)
    check_model(arguments.model)
    with new_folder(arguments.output) as folder:
        pipeline = PIPELINES.get(arguments.pipeline, DiffusionPipeline).from_pretrained(arguments.model)
        if arguments.dtype != "float32":
            cast_weights(pipeline, DTYPES[arguments.dtype])
        card = {"license": arguments.license, "with_sample": not arguments.no_sample}
        code_file = export_code(pipeline, folder, arguments.output.name, **card)
    print(f"Wrote {arguments.output}: {type(pipeline).__name__} with its code, {code_file.name}.")


def run_export(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers export`: a model's animator as ONNX."""
    check_packages()
    if arguments.batch_size is not None and arguments.batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, got {arguments.batch_size}.")
    check_model(arguments.model)
    config = LIAPipeline.load_config(arguments.model)
    if "animator" not in config:
        name = config["_class_name"]
        raise ValueError(f"{arguments.model} is a {name} and has no animator: name a model of LIA or LEO.")
    with new_folder(arguments.output) as folder:
        pipeline = LIAPipeline.from_pretrained(arguments.model)
        difference = export_onnx(pipeline, folder, arguments.batch_size)
    size = pipeline.animator.config.frame_size
    print(f"Wrote {arguments.output}: encoder.onnx and decoder.onnx, {size} pixels, {difference:.0e} off PyTorch.")


def run_convert(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers convert`: a released checkpoint to a folder that LIAPipeline loads."""
    output_dir = arguments.output_dir
    with new_folder(output_dir) as folder:
        animator = load_lia_checkpoint(arguments.checkpoint)
        pipeline = LIAPipeline(animator)
        cast_weights(pipeline, DTYPES[arguments.dtype])
        pipeline.save_pretrained(str(folder))
        write_pipeline_card(
            folder,
            pipeline,
            output_dir.name,
            CardContents(license="cc-by-nc-4.0", data=CONVERTED_DATA, metrics=CONVERTED_METRICS),
            introduction=CONVERTED_DESCRIPTION.format(frame_size=animator.config.frame_size),
        )
    print(f"Wrote {output_dir}: LIAPipeline at {animator.config.frame_size} pixels.")
