"""What diffusers' documentation promises of any pipeline, for all pipelines of the package."""

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import DDIMScheduler, DiffusionPipeline, HeunDiscreteScheduler, ModelMixin
from diffusers.utils import export_to_video
from torch._dynamo.testing import CompileCounter

from leo_diffusers import LEOEditPipeline, LEOInfinitePipeline, LEOPipeline, LIAPipeline, video_io
from tests.conftest import build_full_pipeline
from tests.pipelines.conftest import StepRecorder, seeded


PIPELINES = (LIAPipeline, LEOPipeline, LEOInfinitePipeline, LEOEditPipeline)
NUM_STEPS = 3
MOTION_DIM, CHUNK = 8, 15  # frames that a chunk adds: one less than the sequence length
SHORT = {"num_inference_steps": NUM_STEPS, "output_type": "pt"}


def build_pipeline(pipeline_class: type[DiffusionPipeline]) -> DiffusionPipeline:
    """All four share their components."""
    pipeline = pipeline_class.from_pipe(build_full_pipeline(LEOInfinitePipeline))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def assert_same(video: torch.Tensor, expected: torch.Tensor) -> None:
    """Up to rounding, which differs with where weights lie in memory: a quarter of a step of eight bits."""
    torch.testing.assert_close(video, expected, rtol=0, atol=1e-3)


def networks_of(pipeline: DiffusionPipeline) -> dict[str, ModelMixin]:
    return {name: part for name, part in pipeline.components.items() if isinstance(part, ModelMixin)}


@pytest.fixture
def video_of(photo, clip_frames) -> Callable[[DiffusionPipeline], torch.Tensor]:
    """The same few frames (F, 3, H, W) of a pipeline whenever it is asked."""

    def make(pipeline: DiffusionPipeline) -> torch.Tensor:
        if isinstance(pipeline, LEOEditPipeline):
            output = pipeline(clip_frames, edited_frame=photo, output_type="pt")
        elif isinstance(pipeline, LIAPipeline):
            output = pipeline(photo, clip_frames, output_type="pt")
        elif isinstance(pipeline, LEOInfinitePipeline):  # from nothing, through a transition
            output = pipeline(None, 36, transition="diffusion", drift_limit=2, generator=seeded(), **SHORT)
        else:
            output = pipeline(num_frames=8, generator=seeded(), **SHORT)
        return output.frames[0]

    return make


@pytest.fixture(params=PIPELINES, ids=lambda pipeline_class: pipeline_class.__name__)
def pipeline(request) -> DiffusionPipeline:
    return build_pipeline(request.param)


# --- one set of networks for several pipelines ---


@pytest.mark.parametrize("other_class", PIPELINES, ids=lambda pipeline_class: pipeline_class.__name__)
def test_from_pipe_shares_what_both_have(pipeline, other_class):
    pipeline.to(torch.bfloat16)
    addresses = {name: next(network.parameters()).data_ptr() for name, network in networks_of(pipeline).items()}
    if issubclass(other_class, LIAPipeline):
        other, missing = other_class.from_pipe(pipeline), {}
    else:
        missing = {} if hasattr(pipeline, "motion_unet") else build_pipeline(LEOPipeline).components
        missing.pop("animator", None)
        other = other_class.from_pipe(pipeline, **missing)
    assert type(other) is other_class and other.animator is pipeline.animator
    for name, network in networks_of(other).items():
        if name not in missing:
            assert network is getattr(pipeline, name) and network.dtype == torch.bfloat16
            assert next(network.parameters()).data_ptr() == addresses[name]


def test_from_pipe_names_what_is_missing():
    with pytest.raises(ValueError, match="motion_unet"):
        LEOPipeline.from_pipe(build_pipeline(LIAPipeline))


def test_components_make_an_equal_pipeline(pipeline, video_of):
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    again = type(pipeline)(**parts)
    again.set_progress_bar_config(disable=True)
    assert {name: again.components[name] for name in networks_of(pipeline)} == networks_of(pipeline)
    assert torch.equal(video_of(again), video_of(pipeline))


# --- files ---


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_sharded_folder(tmp_path, pipeline, video_of, variant):
    pipeline.save_pretrained(tmp_path, variant=variant, max_shard_size="100KB")
    suffix = "" if variant is None else f".{variant}"
    index = json.loads((tmp_path / "animator" / f"diffusion_pytorch_model.safetensors.index{suffix}.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    for loader in (type(pipeline), DiffusionPipeline):
        again = loader.from_pretrained(tmp_path, variant=variant)
        again.set_progress_bar_config(disable=True)
        assert type(again) is type(pipeline)
        assert_same(video_of(again), video_of(pipeline))


def test_a_device_map_and_number_formats_by_name(tmp_path, pipeline, video_of):
    pipeline.save_pretrained(tmp_path)
    again = type(pipeline).from_pretrained(tmp_path, device_map="cpu")
    again.set_progress_bar_config(disable=True)
    assert_same(video_of(again), video_of(pipeline))
    dtypes = {"animator": torch.float32, "default": torch.bfloat16}
    again = type(pipeline).from_pretrained(tmp_path, dtype=dtypes)
    found = {name: network.dtype for name, network in networks_of(again).items()}
    assert found == {name: dtypes.get(name, torch.bfloat16) for name in networks_of(pipeline)}


# --- where networks are, and in which number format ---


def test_moving_to_another_number_format(pipeline, video_of):
    exact = video_of(pipeline)
    assert pipeline.to(torch.bfloat16) is pipeline
    assert {network.dtype for network in networks_of(pipeline).values()} == {torch.bfloat16}
    half = video_of(pipeline)
    assert half.dtype == torch.float32
    assert 0 < (half - exact).abs().mean() < 0.05


def test_moving_to_another_device(pipeline):
    pipeline.to("meta")
    assert {
        parameter.device.type for network in networks_of(pipeline).values() for parameter in network.parameters()
    } == {"meta"}
    assert pipeline.device == torch.device("meta")


def test_networks_that_are_fetched_one_by_one(pipeline, video_of):
    expected = video_of(pipeline)
    pipeline.enable_model_cpu_offload(device="cpu")
    assert all(hasattr(network, "_hf_hook") for network in networks_of(pipeline).values())
    for _ in range(2):
        assert_same(video_of(pipeline), expected)
    pipeline.remove_all_hooks()
    assert not any(hasattr(network, "_hf_hook") for network in networks_of(pipeline).values())
    assert_same(video_of(pipeline), expected)


def test_weights_that_are_fetched_layer_by_layer(pipeline, video_of):
    expected = video_of(pipeline)
    for network in networks_of(pipeline).values():
        # What `enable_sequential_cpu_offload` does, which takes no CPU for the accelerator.
        cpu_offload(network, torch.device("cpu"), offload_buffers=len(network._parameters) > 0)
        assert {parameter.device.type for parameter in network.parameters()} == {"meta"}
    for _ in range(2):
        assert_same(video_of(pipeline), expected)


@pytest.mark.parametrize("offload_type", ["block_level", "leaf_level"])
def test_weights_that_are_fetched_group_by_group(tmp_path, pipeline, video_of, offload_type):
    expected = video_of(pipeline)
    for name, network in networks_of(pipeline).items():
        # To disk, which leaves nothing behind; a folder each, since networks of one class name their groups alike.
        network.enable_group_offload(
            onload_device=torch.device("cpu"),
            offload_type=offload_type,
            num_blocks_per_group=1,
            offload_to_disk_path=str(tmp_path / name),
        )
    for _ in range(2):
        assert_same(video_of(pipeline), expected)


def test_storage_in_eight_bits(pipeline, video_of):
    expected = video_of(pipeline)
    for network in networks_of(pipeline).values():
        network.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    assert 0 < (video_of(pipeline) - expected).abs().mean() < 0.1


# --- what comes out ---


def test_every_frame_is_counted(pipeline, video_of, capfd):
    pipeline.set_progress_bar_config(disable=False)
    num_frames = len(video_of(pipeline))
    assert f"| {num_frames}/{num_frames} [" in capfd.readouterr().err


def test_diffusers_writes_the_video(tmp_path, pipeline, photo, clip_frames):
    pytest.importorskip("imageio")
    if isinstance(pipeline, LEOEditPipeline):
        output = pipeline(clip_frames, edited_frame=photo)
    elif isinstance(pipeline, LIAPipeline):
        output = pipeline(photo, clip_frames)
    else:
        output = pipeline(photo, num_frames=6, num_inference_steps=2)
    frames = output.frames[0]
    path = export_to_video(frames, str(tmp_path / "video.mp4"), fps=25)
    read = [(frame + 1) / 2 for frame in video_io.VideoReader(path)]
    assert len(read) == len(frames)
    for frame, image in zip(read, frames, strict=True):
        assert (frame - torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255).abs().mean() < 0.05


def test_one_generator_per_endless_video_equals_single_calls(infinite_pipeline):
    arguments = {**SHORT, "num_frames": 36, "transition": "diffusion", "output_type": "latent"}
    together = infinite_pipeline(num_videos_per_prompt=2, generator=[seeded(1), seeded(2)], **arguments).frames
    for seed, codes in zip((1, 2), together):
        alone = infinite_pipeline(generator=[seeded(seed)], **arguments).frames[0]
        torch.testing.assert_close(codes, alone, rtol=1e-4, atol=1e-4)


# --- callbacks of endless motion; those of LEOPipeline have tests beside its own ---


def no_seams(**arguments: object) -> dict[str, object]:
    return {**SHORT, "output_type": "latent", "seam_frames": 0, "generator": seeded(), **arguments}


def test_a_callback_sees_every_step_of_every_chunk(make_full_pipeline, photo):
    pipeline = make_full_pipeline(
        LEOInfinitePipeline, transition_scheduler=HeunDiscreteScheduler(prediction_type="sample")
    )
    seen = []

    def look(pipeline, step, timestep, tensors):
        seen.append((step, pipeline.num_timesteps, tensors["latents"].shape[-1]))
        return {}

    arguments = {"num_frames": 1 + 3 * CHUNK + 1, "transition": "diffusion"}
    expected = pipeline(photo, **no_seams(**arguments)).frames
    assert torch.equal(pipeline(photo, **no_seams(**arguments), callback_on_step_end=look).frames, expected)
    # Chunk, transition, chunk, and one more transition for the last frame; Heun's method goes 2 n - 1 steps.
    sizes = [15] * NUM_STEPS + [14] * (2 * NUM_STEPS - 1)
    assert seen == [(step, 2 * len(sizes), size) for step, size in enumerate(2 * sizes)]


def test_a_callback_replaces_the_latents_of_a_chunk(infinite_pipeline, photo):
    def stand_still_in_the_second_chunk(pipeline, step, timestep, tensors):
        is_end = step == 2 * NUM_STEPS - 1
        return {"latents": torch.zeros_like(tensors["latents"])} if is_end else {}

    arguments = no_seams(num_frames=1 + 3 * CHUNK)
    codes = infinite_pipeline(photo, **arguments, callback_on_step_end=stand_still_in_the_second_chunk).frames[0]
    first, second, third = codes[1:].split(CHUNK)
    torch.testing.assert_close(second, first[-1:].expand(CHUNK, -1))
    for chunk in (first, third):
        assert chunk.diff(dim=0).abs().max() > 1e-3
    assert torch.equal(first, infinite_pipeline(photo, **no_seams(num_frames=1 + CHUNK)).frames[0, 1:])


@pytest.mark.parametrize("last_step", [0, NUM_STEPS - 1, NUM_STEPS, 2 * NUM_STEPS])
def test_a_callback_ends_an_endless_video_early(infinite_pipeline, photo, last_step):
    steps = []

    def stop(pipeline, step, timestep, tensors):
        steps.append(step)
        pipeline._interrupt = step == last_step
        return tensors

    whole = infinite_pipeline(photo, **no_seams(num_frames=1 + 4 * CHUNK)).frames
    arguments = no_seams(num_frames=1 + 4 * CHUNK, callback_on_step_end=stop)
    codes = infinite_pipeline(photo, **arguments).frames
    assert steps == list(range(last_step + 1)) and infinite_pipeline.interrupt
    num_frames = 1 + last_step // NUM_STEPS * CHUNK  # of the chunks before, which are complete
    assert codes.shape == (1, num_frames, MOTION_DIM)
    assert torch.equal(codes, whole[:, :num_frames])
    again = infinite_pipeline(photo, **no_seams(num_frames=20)).frames
    assert not infinite_pipeline.interrupt and torch.equal(again, whole[:, :20])


def test_callback_objects_and_names(infinite_pipeline, photo):
    recorder = StepRecorder()
    infinite_pipeline(photo, **no_seams(num_frames=20, callback_on_step_end=recorder))
    assert recorder.steps == list(range(2 * NUM_STEPS))
    message = r"`callback_on_step_end_tensor_inputs` can name \['latents'\], got \['noise'\]"
    with pytest.raises(ValueError, match=message):
        infinite_pipeline(photo, **no_seams(callback_on_step_end_tensor_inputs=["noise"]))


# --- compilation ---


@pytest.mark.parametrize("pipeline_class", [LEOPipeline, LEOInfinitePipeline])
def test_compiled_networks_are_compiled_once_for_all_steps(make_full_pipeline, photo, pipeline_class):
    torch.compiler.reset()
    pipeline = make_full_pipeline(pipeline_class, scheduler=DDIMScheduler(clip_sample=False))
    arguments = {**SHORT, "num_inference_steps": 5, "num_frames": 16, "decode_chunk_size": 4}
    expected = pipeline(photo, **arguments, generator=seeded()).frames
    counters = {name: CompileCounter() for name in ("motion_unet", "decode")}
    pipeline.motion_unet.compile(backend=counters["motion_unet"], fullgraph=True)
    pipeline.animator.decode = torch.compile(pipeline.animator.decode, backend=counters["decode"], fullgraph=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for _ in range(2):
            frames = pipeline(photo, **arguments, generator=seeded()).frames
            assert_same(frames, expected)
    assert {name: counter.frame_count for name, counter in counters.items()} == dict.fromkeys(counters, 1)
