"""The part of the animator that is not in the papers: colours for what the mask hides."""

import math

import pytest
import torch
import torch.nn.functional as F

from leo_diffusers import LIAModel
from leo_diffusers.models import flow_generator
from leo_diffusers.models.flow_generator import GeneratorBlock, InpaintingHead


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def smooth_frames(batch_size: int, seed: int = 0) -> torch.Tensor:
    coarse = noise(batch_size, 3, 4, 4, seed=seed).clamp(-1, 1)
    return F.interpolate(coarse, size=(32, 32), mode="bilinear", align_corners=True)


FRAMES = smooth_frames(2), smooth_frames(2, seed=1)


def without_heads(model: LIAModel) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if "inpainting_head" not in name}


@pytest.fixture(params=[False, True], ids=["features", "image"])
def inpainting(request, make_animator) -> LIAModel:
    """One whose heads have learned something."""
    return make_animator(inpaint_rgb=True, warp_source_image=request.param)


# --- one head, one scale ---


def test_head_against_its_formula():
    head = InpaintingHead(8)
    assert not head.weight.any()
    torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(0))
    hidden_states, mask = noise(2, 8, 6, 5), torch.rand(2, 1, 6, 5)
    expected = F.conv2d(hidden_states, head.weight[..., None, None] / math.sqrt(8)) * (1 - mask)
    torch.testing.assert_close(head(hidden_states, mask), expected, rtol=1e-4, atol=1e-5)
    assert not head(hidden_states, torch.ones(2, 1, 6, 5)).any()


def test_block_adds_the_head_to_its_frame():
    torch.manual_seed(0)
    block = GeneratorBlock(10, 8, 12, align_corners=True, inpaint_rgb=True)
    inputs = noise(2, 10, 4, 4), noise(2, 12, seed=1), noise(2, 8, 8, 8, seed=2), noise(2, 3, 4, 4, seed=3)
    frame_below = noise(2, 3, 4, 4, seed=4)
    before = block(*inputs, frame_below)
    torch.nn.init.normal_(block.inpainting_head.weight)
    *others, frame = block(*inputs, frame_below)
    hidden_states, _, _, _, mask = others
    assert all(map(torch.equal, others, before))
    torch.testing.assert_close(frame, before[-1] + block.inpainting_head(hidden_states, mask))
    assert (frame - before[-1]).abs().mean() > 0.1


# --- the animator ---


@pytest.mark.parametrize("warp_source_image", [False, True])
@torch.no_grad()
def test_at_first_it_is_the_animator_without(make_animator, warp_source_image):
    plain = make_animator(warp_source_image=warp_source_image)
    model = LIAModel.from_config(plain.config, inpaint_rgb=True).eval()
    unknown = model.load_state_dict(plain.state_dict(), strict=False)
    assert unknown.unexpected_keys == []
    assert unknown.missing_keys == [f"flow_generator.blocks.{i}.inpainting_head.weight" for i in range(3)]
    torch.testing.assert_close(model(*FRAMES).sample, plain(*FRAMES).sample, rtol=0, atol=0)


@torch.no_grad()
def test_it_shows_colours_that_the_source_lacks(inpainting):
    plain = LIAModel.from_config(inpainting.config, inpaint_rgb=False).eval()
    plain.load_state_dict(without_heads(inpainting))
    output, expected = inpainting(*FRAMES), plain(*FRAMES)
    assert (output.sample - expected.sample).abs().mean() > 1e-3
    for name in ("flows", "occlusion_masks", "motion_code"):
        torch.testing.assert_close(output[name], expected[name], rtol=0, atol=0)


def test_the_first_gradient_reaches_the_heads():
    torch.manual_seed(0)
    model = LIAModel(32, 32, 8, (16, 16, 32, 32), motion_head_layers=2, inpaint_rgb=True)
    (model(*FRAMES).sample - FRAMES[1]).abs().mean().backward()
    for block in model.flow_generator.blocks:
        assert (block.inpainting_head.weight.grad != 0).all()


def test_every_parameter_learns(inpainting):
    inpainting.train()(*FRAMES).sample.square().mean().backward()
    silent = [name for name, parameter in inpainting.named_parameters() if not parameter.grad.any()]
    assert silent == []


@torch.no_grad()
def test_save_and_load(inpainting, tmp_path):
    inpainting.save_pretrained(tmp_path)
    loaded = LIAModel.from_pretrained(tmp_path)
    assert loaded.config.inpaint_rgb is True
    torch.testing.assert_close(loaded(*FRAMES).sample, inpainting(*FRAMES).sample, rtol=0, atol=0)


def test_weights_from_before_have_no_heads(animator):
    config = {name: value for name, value in animator.config.items() if name != "inpaint_rgb"}
    older = LIAModel.from_config(config)
    assert older.config.inpaint_rgb is False and older.state_dict().keys() == animator.state_dict().keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(inpainting, tmp_path, dtype):
    inpainting.save_pretrained(tmp_path)
    half = LIAModel.from_pretrained(tmp_path, dtype=dtype)
    assert half.flow_generator.blocks[0].inpainting_head.weight.dtype == dtype
    output, expected = half(*(frame.to(dtype) for frame in FRAMES)).sample, inpainting(*FRAMES).sample
    assert output.dtype == dtype and (output.float() - expected).norm() < 0.05 * expected.norm()


def test_mixed_precision_comes_near(inpainting):
    expected = inpainting(*FRAMES).sample.detach()
    with torch.autocast("cpu", torch.bfloat16):
        output = inpainting(*FRAMES).sample
    output.float().square().mean().backward()
    assert (output.float() - expected).norm() < 0.05 * expected.norm()
    assert all(block.inpainting_head.weight.grad.any() for block in inpainting.flow_generator.blocks)


def test_gradient_checkpointing_changes_nothing(inpainting):
    inpainting.train()
    gradients, num_calls = [], []
    inpainting.flow_generator.blocks[0].inpainting_head.register_forward_pre_hook(lambda *args: num_calls.append(1))
    for checkpointing in (False, True):
        if checkpointing:
            inpainting.enable_gradient_checkpointing()
        inpainting.zero_grad()
        inpainting(*FRAMES).sample.square().mean().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in inpainting.named_parameters()})
    assert len(num_calls) == 1 + 2  # recomputed once
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


@torch.no_grad()
def test_frame_by_frame_is_the_same(inpainting, monkeypatch):
    source, codes = inpainting.encode_source(FRAMES[0][:1]), noise(5, 8)
    expected = inpainting.decode(source, codes).sample
    monkeypatch.setattr(flow_generator, "CACHE_BYTES", 1)
    torch.testing.assert_close(inpainting.decode(source, codes).sample, expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_decode_compiles_into_one_graph(inpainting):
    torch.compiler.reset()
    source, codes = inpainting.encode_source(FRAMES[0][:1]), noise(3, 8)
    expected = inpainting.decode(source, codes).sample
    output = torch.compile(inpainting.decode, backend="eager", fullgraph=True)(source, codes).sample
    torch.testing.assert_close(output, expected, rtol=1e-3, atol=1e-3)
