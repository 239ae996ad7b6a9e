"""What only an accelerator can show: offload, half precision, compiled decoding. Run with `make test-gpu`."""

import pytest
import torch
from diffusers import DDIMScheduler

from leo_diffusers import LEOInfinitePipeline, LEOPipeline, LIAModel, MotionUNet1DModel


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no accelerator"),
]


def build_pipeline(seed: int = 0) -> LEOPipeline:
    torch.manual_seed(seed)
    animator = LIAModel(frame_size=64, latent_dim=64, block_out_channels=(32, 64, 64, 64, 64))
    for block in animator.flow_generator.blocks:
        torch.nn.init.normal_(block.flow_head.weight, std=0.1)
    unet = MotionUNet1DModel(sequence_length=16, block_out_channels=(32, 64), attention_levels=(1,))
    for parameter in unet.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    pipeline = LEOPipeline(animator.eval(), unet.eval(), DDIMScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: LEOPipeline) -> torch.Tensor:
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    generator = torch.Generator().manual_seed(0)
    return pipeline(image, num_frames=16, num_inference_steps=4, generator=generator, output_type="pt").frames


def test_the_accelerator_agrees_with_the_cpu():
    expected = generate(build_pipeline())
    device = torch.accelerator.current_accelerator()
    torch.testing.assert_close(generate(build_pipeline().to(device)).cpu(), expected, atol=2e-3, rtol=0)


def test_model_cpu_offload_gives_the_same_video():
    device = torch.accelerator.current_accelerator()
    expected = generate(build_pipeline().to(device))
    pipeline = build_pipeline()
    pipeline.enable_model_cpu_offload()
    torch.testing.assert_close(generate(pipeline), expected, atol=1e-3, rtol=0)
    assert {parameter.device.type for parameter in pipeline.animator.parameters()} == {"cpu"}
    assert {parameter.device.type for parameter in pipeline.motion_unet.parameters()} == {"cpu"}


def test_sequential_cpu_offload_gives_the_same_video():
    device = torch.accelerator.current_accelerator()
    expected = generate(build_pipeline().to(device))
    pipeline = build_pipeline()
    pipeline.enable_sequential_cpu_offload()
    torch.testing.assert_close(generate(pipeline), expected, atol=1e-3, rtol=0)
    assert {parameter.device.type for parameter in pipeline.animator.parameters()} == {"meta"}


@pytest.mark.parametrize("offload_type", ["block_level", "leaf_level"])
def test_group_offload_gives_the_same_video(offload_type):
    device = torch.accelerator.current_accelerator()
    expected = generate(build_pipeline().to(device))
    pipeline = build_pipeline()
    pipeline.enable_group_offload(onload_device=device, offload_type=offload_type, num_blocks_per_group=1)
    for _ in range(2):
        torch.testing.assert_close(generate(pipeline), expected, atol=1e-3, rtol=0)
    assert {parameter.device.type for parameter in pipeline.motion_unet.parameters()} == {"cpu"}


def test_an_offloaded_stream_gives_the_same_frames():
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    streams = []
    for offload in (False, True):
        components = build_pipeline().components
        pipeline = LEOInfinitePipeline(**{name: part for name, part in components.items() if part is not None})
        if offload:
            pipeline.enable_model_cpu_offload()
        else:
            pipeline.to(torch.accelerator.current_accelerator())
        generator = torch.Generator().manual_seed(0)
        frames = pipeline.stream(
            image, num_frames=40, num_inference_steps=4, drift_limit=2, generator=generator, output_type="pt"
        )
        streams.append(torch.stack(list(frames)))
    torch.testing.assert_close(*streams, atol=1e-3, rtol=0)
    assert {parameter.device.type for parameter in pipeline.animator.parameters()} == {"cpu"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close_to_float32(tmp_path, dtype):
    build_pipeline().save_pretrained(str(tmp_path))
    device = torch.accelerator.current_accelerator()
    videos = []
    for load_dtype in (torch.float32, dtype):
        pipeline = LEOPipeline.from_pretrained(tmp_path, dtype=load_dtype).to(device)
        pipeline.set_progress_bar_config(disable=True)
        videos.append(generate(pipeline).float())
    assert (videos[0] - videos[1]).abs().mean() < 0.02


def test_compiled_decoding_equals_eager_decoding():
    device = torch.accelerator.current_accelerator()
    animator = build_pipeline().animator.to(device)
    with torch.no_grad():
        source = animator.encode_source(torch.rand(1, 3, 64, 64, device=device) * 2 - 1)
        codes = torch.randn(4, animator.config.motion_dim, device=device)
        expected = animator.decode(source, codes).sample
        compiled = torch.compile(animator.decode, fullgraph=True)(source, codes).sample
    torch.testing.assert_close(compiled, expected, atol=2e-3, rtol=0)
