import math

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from leo_diffusers import LIAModel, LIAModelOutput, LIASource
from leo_diffusers.lia_checkpoint import load_lia_checkpoint
from leo_diffusers.models import flow_generator


def smooth_frames(batch_size: int, seed: int = 0, size: int = 32) -> torch.Tensor:
    """Frames whose neighbouring pixels differ little, as those of photographs do."""
    coarse = torch.rand(batch_size, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return F.interpolate(coarse, size=(size, size), mode="bilinear", align_corners=True)


def random_codes(batch_size: int, motion_dim: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch_size, motion_dim, generator=torch.Generator().manual_seed(seed))


def latent_seen_by_the_generator(model: LIAModel, source: LIASource, motion_code: torch.Tensor) -> torch.Tensor:
    seen = []
    hook = model.flow_generator.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model.decode(source, motion_code)
    hook.remove()
    return seen[0]


def row(source: LIASource, index: int) -> LIASource:
    return LIASource(
        latent=source.latent[index : index + 1],
        features=tuple(features[index : index + 1] for features in source.features),
        motion_code=source.motion_code[index : index + 1],
    )


# --- shapes and outputs ---


def test_shapes(animator):
    source_frame, driving_frame = smooth_frames(2), smooth_frames(2, seed=1)
    with torch.no_grad():
        source = animator.encode_source(source_frame)
        output = animator(source_frame, driving_frame)
    assert isinstance(source, LIASource) and isinstance(output, LIAModelOutput)
    assert source.latent.shape == (2, 32) and source.motion_code.shape == (2, 8)
    assert [tuple(scale.shape) for scale in source.features] == [(2, 32, 8, 8), (2, 16, 16, 16), (2, 16, 32, 32)]
    assert animator.encode_motion(driving_frame).shape == (2, 8)
    assert output.sample.shape == (2, 3, 32, 32)
    assert [tuple(flow.shape) for flow in output.flows] == [(2, 2, size, size) for size in (8, 16, 32)]
    assert [tuple(mask.shape) for mask in output.occlusion_masks] == [(2, 1, size, size) for size in (8, 16, 32)]


def test_tuple_output(animator):
    frames = smooth_frames(2), smooth_frames(2, seed=1)
    with torch.no_grad():
        output, as_tuple = animator(*frames), animator(*frames, return_dict=False)
    assert isinstance(as_tuple, tuple)
    torch.testing.assert_close(as_tuple, tuple(output.values()), rtol=0, atol=0)


@pytest.mark.parametrize("warp_source_image", [False, True])
def test_save_and_load(tmp_path, make_animator, warp_source_image):
    model = make_animator(align_corners=True, warp_source_image=warp_source_image)
    model.save_pretrained(tmp_path)
    loaded = LIAModel.from_pretrained(tmp_path)
    assert loaded.config.align_corners and loaded.config.warp_source_image == warp_source_image
    assert tuple(loaded.config.block_out_channels) == (16, 16, 32, 32)
    frames = smooth_frames(2), smooth_frames(2, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(loaded(*frames).sample, model(*frames).sample, rtol=0, atol=0)
    assert not any("kernel" in name for name in model.state_dict())


def test_default_size_is_that_of_the_paper():
    with torch.device("meta"):
        num_parameters = sum(parameter.numel() for parameter in LIAModel().parameters())
    assert num_parameters == pytest.approx(45.1e6, abs=0.05e6)


@pytest.mark.parametrize("warp_source_image", [False, True])
@pytest.mark.parametrize("size", [32, 64, 128, 256, 512, 1024])
def test_every_frame_size(size, warp_source_image):
    num_scales = int(math.log2(size)) - 1
    model = LIAModel(
        frame_size=size,
        latent_dim=16,
        motion_dim=4,
        block_out_channels=(4,) * num_scales,
        motion_head_layers=1,
        warp_source_image=warp_source_image,
    )
    frames = smooth_frames(2, size=size)
    with torch.no_grad():
        output = model(frames[:1], frames[1:])
    assert output.sample.shape == (1, 3, size, size) and torch.isfinite(output.sample).all()
    assert len(output.flows) == num_scales - 1 + warp_source_image


@pytest.mark.parametrize(("size", "top_channels"), [(512, (32,)), (1024, (16, 32))])
def test_the_papers_widths_at_high_resolution(size, top_channels):
    with torch.device("meta"):
        model = LIAModel(
            frame_size=size,
            block_out_channels=(*top_channels, 64, 128, 256, 512, 512, 512, 512),
            warp_source_image=True,
        )
        assert model(torch.zeros(1, 3, size, size), torch.zeros(1, 3, size, size)).sample.shape == (1, 3, size, size)


# --- what must be true ---


def test_forward_is_encode_and_decode(animator):
    source_frame, driving_frame = smooth_frames(2), smooth_frames(2, seed=1)
    with torch.no_grad():
        output = animator(source_frame, driving_frame)
        source, driving_code = animator.encode_source(source_frame), animator.encode_motion(driving_frame)
        decoded = animator.decode(source, driving_code)
    torch.testing.assert_close(decoded.sample, output.sample, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(decoded.flows, output.flows, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(decoded.occlusion_masks, output.occlusion_masks, rtol=1e-3, atol=1e-4)


def test_a_code_depends_on_its_frame_alone(animator):
    frames = smooth_frames(3)
    with torch.no_grad():
        codes = animator.encode_motion(frames)
        singles = torch.cat([animator.encode_motion(frame[None]) for frame in frames])
        torch.testing.assert_close(codes, singles, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(animator.encode_source(frames).motion_code, codes, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("warp_source_image", [False, True])
def test_a_batch_equals_its_samples_one_by_one(make_animator, warp_source_image):
    model, codes = make_animator(warp_source_image=warp_source_image), random_codes(3)
    with torch.no_grad():
        source = model.encode_source(smooth_frames(3))
        output = model.decode(source, codes)
        singles = [model.decode(row(source, i), codes[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(output.sample, torch.cat([one.sample for one in singles]), rtol=1e-3, atol=1e-3)
    for i, flow in enumerate(output.flows):
        torch.testing.assert_close(flow, torch.cat([one.flows[i] for one in singles]), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("cache_bytes", [None, 1])
def test_one_source_serves_a_batch_of_codes(monkeypatch, animator, cache_bytes):
    if cache_bytes is not None:
        monkeypatch.setattr(flow_generator, "CACHE_BYTES", cache_bytes)  # frame by frame
    codes = random_codes(5)
    with torch.no_grad():
        source = animator.encode_source(smooth_frames(1))
        copies = animator.encode_source(smooth_frames(1).repeat(5, 1, 1, 1))
        output = animator.decode(source, codes)
        torch.testing.assert_close(output.sample, animator.decode(copies, codes).sample, rtol=1e-3, atol=1e-3)
        singles = torch.cat([animator.decode(source, code[None]).sample for code in codes])
    torch.testing.assert_close(output.sample, singles, rtol=1e-3, atol=1e-3)


def test_a_source_may_be_decoded_again(animator):
    with torch.no_grad():
        source, codes = animator.encode_source(smooth_frames(1)), random_codes(2)
        before = [source.latent.clone(), *(features.clone() for features in source.features)]
        first = animator.decode(source, codes).sample
        assert torch.equal(animator.decode(source, codes).sample, first)
    assert all(torch.equal(now, then) for now, then in zip([source.latent, *source.features], before))


@pytest.mark.parametrize("with_grad", [True, False])
def test_arguments_are_left_as_they_were(make_animator, with_grad):
    model, frames, codes = make_animator(warp_source_image=True), smooth_frames(2), random_codes(1)
    frames = frames.contiguous(memory_format=torch.channels_last)  # so that no copy protects them
    before, codes_before = frames.clone(), codes.clone()
    with torch.set_grad_enabled(with_grad):
        model(frames[:1], frames[1:])
        model.decode(model.encode_source(frames[:1]), codes)
    assert torch.equal(frames, before) and torch.equal(codes, codes_before)


def test_a_zero_code_is_the_reference_image(animator):
    with torch.no_grad():
        source = animator.encode_source(smooth_frames(2))
        assert torch.equal(latent_seen_by_the_generator(animator, source, torch.zeros(2, 8)), source.latent)
        expected = animator.flow_generator(source.latent, source.features)[0]
        assert torch.equal(animator.decode(source, torch.zeros(2, 8)).sample, expected)


def test_relative_transfer_is_arithmetic_on_codes(animator):
    with torch.no_grad():
        source = animator.encode_source(smooth_frames(1))
        driving_code, start_code = random_codes(1), random_codes(1, seed=1)
        path = animator.motion_dictionary
        expected = source.latent + (path(driving_code) - path(start_code)) + path(source.motion_code)
        seen = latent_seen_by_the_generator(animator, source, source.motion_code + driving_code - start_code)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)


def test_without_a_dictionary_the_code_is_the_path(make_animator):
    model = make_animator(motion_basis="none", motion_dim=32)
    with torch.no_grad():
        source, code = model.encode_source(smooth_frames(1)), random_codes(1, 32)
        torch.testing.assert_close(latent_seen_by_the_generator(model, source, code), source.latent + code)


def test_a_free_basis_is_not_made_orthonormal(make_animator):
    model = make_animator(motion_basis="free")
    with torch.no_grad():
        source, code = model.encode_source(smooth_frames(1)), random_codes(1)
        expected = source.latent + code @ model.motion_dictionary.directions.T
        torch.testing.assert_close(latent_seen_by_the_generator(model, source, code), expected)


def test_the_source_frame_itself_is_warped(make_animator):
    model, frames = make_animator(warp_source_image=True, align_corners=True), smooth_frames(2)
    with torch.no_grad():
        for block in model.flow_generator.blocks:
            block.flow_head.weight.zero_()
            block.flow_head.bias.zero_()
        head = model.flow_generator.image_flow_head
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 0.0, 100.0]))  # no flow, and the mask shows everything
        source = model.encode_source(frames)
        output = model.decode(source, random_codes(2))
    assert torch.equal(source.features[-1], frames)
    assert not output.flows[-1].any() and torch.all(output.occlusion_masks[-1] == 1)
    torch.testing.assert_close(output.sample, frames, rtol=1e-4, atol=1e-4)


def test_a_hidden_source_frame_leaves_the_rendered_one(make_animator):
    model, frames = make_animator(warp_source_image=True), smooth_frames(2)
    rendered = []
    model.flow_generator.blocks[-1].rgb_head.register_forward_hook(
        lambda m, a, output: rendered.append(output.clone())
    )
    with torch.no_grad():
        head = model.flow_generator.image_flow_head
        head.weight.zero_()
        head.bias.copy_(torch.tensor([0.0, 0.0, -1000.0]))
        output = model.decode(model.encode_source(frames), random_codes(2))
    torch.testing.assert_close(output.sample, rendered[0])


# --- training ---


@pytest.mark.parametrize("motion_basis", ["orthogonal", "free", "none"])
@pytest.mark.parametrize("warp_source_image", [False, True])
def test_every_parameter_learns(make_animator, warp_source_image, motion_basis):
    motion_dim = 32 if motion_basis == "none" else 8
    model = make_animator(warp_source_image=warp_source_image, motion_basis=motion_basis, motion_dim=motion_dim)
    model.train()(smooth_frames(2), smooth_frames(2, seed=1)).sample.square().mean().backward()
    without_gradient = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without_gradient == []


def test_gradients_do_not_change_the_frame(animator):
    frames = smooth_frames(2), smooth_frames(2, seed=1)
    with torch.no_grad():
        expected = animator(*frames).sample
    torch.testing.assert_close(animator(*frames).sample, expected, rtol=1e-3, atol=1e-3)


def test_gradients_reach_the_frames(animator):
    source_frame, driving_frame = smooth_frames(1).requires_grad_(), smooth_frames(1, seed=1).requires_grad_()
    animator(source_frame, driving_frame).sample.square().sum().backward()
    assert source_frame.grad.any() and driving_frame.grad.any()


def test_gradient_checkpointing_changes_nothing(animator):
    animator.train()
    losses, gradients, num_calls = [], [], []
    animator.flow_generator.blocks[0].conv.register_forward_pre_hook(lambda *args: num_calls.append(1))
    animator.appearance_encoder.blocks[0].conv1.register_forward_pre_hook(lambda *args: num_calls.append(1))
    for checkpointing in (False, True):
        if checkpointing:
            animator.enable_gradient_checkpointing()
        animator.zero_grad()
        loss = animator(smooth_frames(2), smooth_frames(2, seed=1)).sample.square().mean()
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: parameter.grad.clone() for name, parameter in animator.named_parameters()})
    assert len(num_calls) == 2 + 4  # recomputed once in the backward pass
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-3, atol=1e-6)


def test_rendering_follows_an_optimizer_step(animator):
    source_frame, driving_frame = smooth_frames(1), smooth_frames(1, seed=1)
    optimizer = torch.optim.Adam(animator.parameters(), lr=0.05)
    with torch.no_grad():
        before = animator(source_frame, driving_frame).sample  # what depends on weights alone is kept from here
    animator(source_frame, driving_frame).sample.square().mean().backward()
    optimizer.step()
    expected = animator(source_frame, driving_frame).sample.detach()  # with gradients nothing is kept
    with torch.no_grad():
        after = animator(source_frame, driving_frame).sample
    assert (after - before).abs().amax() > 0.01
    torch.testing.assert_close(after, expected, rtol=1e-3, atol=1e-3)


# --- precision, compilation ---


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_codes_and_path_in_float32(tmp_path, animator, dtype):
    animator.save_pretrained(tmp_path)
    half = LIAModel.from_pretrained(tmp_path, dtype=dtype)
    for name, parameter in half.named_parameters():
        is_kept = name.startswith(("motion_head.", "motion_dictionary."))
        assert parameter.dtype == (torch.float32 if is_kept else dtype), name
    frames = smooth_frames(2), smooth_frames(2, seed=1)
    with torch.no_grad():
        expected = animator(*frames)
        output = half(*(frame.to(dtype) for frame in frames))
        source = half.encode_source(frames[0])
        assert source.motion_code.dtype == half.encode_motion(frames[1]).dtype == torch.float32
        assert source.latent.dtype == output.sample.dtype == dtype
        assert all(features.dtype == torch.float32 for features in source.features)
        torch.testing.assert_close(half.encode_motion(frames[1]), animator.encode_motion(frames[1]), rtol=0, atol=0.02)
        basis, exact_basis = half.motion_dictionary.basis(), animator.motion_dictionary.basis()
    assert torch.equal(basis, exact_basis)
    assert all(flow.dtype == torch.float32 for flow in output.flows)
    assert (output.sample.float() - expected.sample).norm() < 0.05 * expected.sample.norm()


@pytest.mark.parametrize("warp_source_image", [False, True])
def test_decode_compiles_into_one_graph(make_animator, warp_source_image):
    torch.compiler.reset()
    model, codes = make_animator(warp_source_image=warp_source_image), random_codes(3)
    with torch.no_grad():
        source = model.encode_source(smooth_frames(1))
        expected = model.decode(source, codes)
        compiled = torch.compile(model.decode, backend="eager", fullgraph=True)
        output = compiled(source, codes)
    torch.testing.assert_close(output.sample, expected.sample, rtol=1e-3, atol=1e-3)


def test_training_compiles_into_one_graph(animator):
    torch.compiler.reset()
    frames = smooth_frames(1), smooth_frames(1, seed=1)
    expected = animator(*frames).sample.detach()
    compiled = torch.compile(animator, backend="eager", fullgraph=True)
    output = compiled(*frames).sample
    torch.testing.assert_close(output.detach(), expected, rtol=1e-3, atol=1e-3)
    output.square().mean().backward()
    assert animator.flow_generator.constant.grad.any()


# --- refusals ---


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"frame_size": 48}, "`frame_size` must be a power of two from 32 to 1024, got 48"),
        ({"frame_size": 16}, "`frame_size` must be a power of two from 32 to 1024, got 16"),
        ({"frame_size": 2048}, "`frame_size` must be .* got 2048"),
        ({"frame_size": 128}, "`block_out_channels` must hold 6 numbers, .*from 128 down to 4 pixels, got 7"),
        ({"motion_head_layers": 0}, "`motion_head_layers` must be at least 1, got 0"),
        ({"motion_dim": 513}, r"`motion_dim` must be between 1 and `latent_dim` \(512\), got 513"),
        ({"motion_basis": "gram-schmidt"}, "`motion_basis` must be .*got 'gram-schmidt'"),
        ({"motion_basis": "none"}, r"`motion_dim` must equal `latent_dim` \(512\), got 20"),
    ],
)
def test_refuses_a_bad_config(config, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        LIAModel(**config)


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (3, 32, 32), (1, 4, 32, 32), (1, 32, 32, 3)])
def test_refuses_bad_frames(animator, shape):
    for encode in (animator.encode_source, animator.encode_motion):
        with pytest.raises(ValueError, match=r"A frame must have the shape \(B, 3, 32, 32\), got "):
            encode(torch.zeros(shape))


def test_refuses_bad_codes(animator):
    with torch.no_grad():
        source = animator.encode_source(smooth_frames(2))
    with pytest.raises(ValueError, match=r"`motion_code` must have the shape \(B, 8\), got \(2, 9\)"):
        animator.decode(source, torch.zeros(2, 9))
    with pytest.raises(ValueError, match=r"`motion_code` must have the shape \(B, 8\), got \(8,\)"):
        animator.decode(source, torch.zeros(8))
    with pytest.raises(ValueError, match="`source` holds 2 frames for 3 motion codes"):
        animator.decode(source, torch.zeros(3, 8))


# --- parity with the published networks ---


@pytest.mark.parametrize(("size", "image_tolerance"), [(64, 5e-4), (256, 5e-3)])
def test_outputs_are_those_of_the_published_networks(shared_dir, reference_checkpoint, size, image_tolerance):
    recorded = load_file(shared_dir / "reference" / f"lia_{size}.safetensors")
    model = load_lia_checkpoint(reference_checkpoint(size))
    logits = []
    for block in model.flow_generator.blocks:
        block.flow_head.register_forward_hook(lambda module, args, output: logits.append(output.clone()))
    with torch.no_grad():
        source = model.encode_source(recorded["source"])
        driving_code = model.encode_motion(recorded["driving"])
        start_code = model.encode_motion(recorded["start"])
        absolute = model.decode(source, driving_code).sample
        reference = model.decode(source, torch.zeros_like(driving_code)).sample
        del logits[:]
        relative = model.decode(source, source.motion_code + driving_code - start_code).sample
        forward = model(recorded["source"], recorded["driving"]).sample

    codes = {
        "z_source": source.latent,
        "alpha_source": source.motion_code,
        "alpha_driving": driving_code,
        "alpha_start": start_code,
        "directions": model.motion_dictionary.basis().detach(),
    }
    for name, value in codes.items():
        torch.testing.assert_close(value, recorded[name], rtol=0, atol=1e-4, msg=lambda text, name=name: name + text)
    frames = {"image_absolute": absolute, "image_relative": relative, "image_reference": reference}
    for name, frame in frames.items():
        error = (frame - recorded[name]).abs().amax()
        assert error < image_tolerance, f"{name} differs by {error}"
    assert (forward - recorded["image_absolute"]).abs().amax() < image_tolerance

    num_compared = 0
    for scale_logits, features in zip(logits, source.features):
        resolution = features.shape[-1]
        if f"flow_logits_relative_{resolution}" in recorded:
            torch.testing.assert_close(
                scale_logits, recorded[f"flow_logits_relative_{resolution}"], rtol=1e-3, atol=image_tolerance
            )
            num_compared += 1
        if f"feature_mean_{resolution}" in recorded:
            mean, std = features.mean(dim=(2, 3)), features.std(dim=(2, 3))
            torch.testing.assert_close(mean, recorded[f"feature_mean_{resolution}"], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(std, recorded[f"feature_std_{resolution}"], rtol=1e-3, atol=1e-4)
            num_compared += 1
    assert num_compared == (8 if size == 64 else 0)


def test_codes_and_paths_are_exempt_from_mixed_precision(animator):
    frame = torch.rand(1, 3, 32, 32) * 2 - 1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        code = animator.encode_motion(frame)
        path = animator.motion_dictionary(code)
    assert code.dtype == torch.float32 and path.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(path, animator.motion_dictionary(code))
