"""What diffusers' documentation promises of any model, for all networks of the package."""

import json
import shutil
from collections.abc import Callable
from functools import partial

import pytest
import torch
from accelerate import cpu_offload
from diffusers import ModelMixin
from torch._dynamo.testing import CompileCounter

from leo_diffusers import FrameDiscriminator
from leo_diffusers.models.motion_unet_1d_blocks import SelfAttention1D, SelfAttention1DProcessor
from tests.conftest import build_animator, build_label_network, build_motion_prior, build_motion_unet, perturb


FLOAT8 = torch.float8_e4m3fn


def build_discriminator() -> FrameDiscriminator:
    torch.manual_seed(0)
    return perturb(FrameDiscriminator(frame_size=32, block_out_channels=(8, 8, 16, 16)), 0)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def animate(model: ModelMixin) -> torch.Tensor:
    """All that the pipelines ask of an animator, and no forward."""
    source = model.encode_source(noise(1, 3, 32, 32).clamp(-1, 1))
    frames = model.decode(source, noise(3, 8)).sample
    return torch.cat([frames.flatten(), model.encode_motion(noise(2, 3, 32, 32, seed=1)).flatten()])


def denoise(model: ModelMixin, num_frames: int) -> torch.Tensor:
    """As the pipelines: timesteps are embedded before, and samples become codes after."""
    codes = noise(2, 16, 8)
    embeddings = model.embed_timesteps(torch.tensor([900, 100]))
    sample = noise(2, 8, num_frames)
    for timestep, embedding in zip((900, 100), embeddings):
        conditions = model.conditions_of(codes)
        sample = model(sample, timestep, **conditions, timestep_embedding=embedding[None]).sample
    return model.unstandardize(sample, **conditions)


def denoise_code(model: ModelMixin) -> torch.Tensor:
    return model.unstandardize(model(noise(2, 8), 10).sample)


def judge(model: ModelMixin) -> torch.Tensor:
    return model(noise(4, 3, 32, 32))


def read_labels(model: ModelMixin) -> torch.Tensor:
    return torch.cat([output.flatten() for output in model(noise(2, 3, 32, 32))])


STATISTICS = {"motion_mean": (0.5,) * 8, "motion_std": (2.0,) * 8}
CASES: dict[str, tuple[Callable[[], ModelMixin], Callable[[ModelMixin], torch.Tensor]]] = {
    "animator": (build_animator, animate),
    "animator with all": (partial(build_animator, warp_source_image=True, inpaint_rgb=True), animate),
    "motion U-Net": (partial(build_motion_unet, **STATISTICS), partial(denoise, num_frames=15)),
    "transition U-Net": (
        partial(build_motion_unet, condition="start_end", **STATISTICS),
        partial(denoise, num_frames=14),
    ),
    "motion prior": (partial(build_motion_prior, **STATISTICS), denoise_code),
    "discriminator": (build_discriminator, judge),
    "label network": (build_label_network, read_labels),
}


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request) -> tuple[ModelMixin, Callable[[ModelMixin], torch.Tensor], torch.Tensor]:
    """A network, what is done with it, and what comes of that."""
    build, use = request.param
    model = build()

    def without_gradients(network: ModelMixin) -> torch.Tensor:
        with torch.no_grad():
            return use(network).float()

    return model, without_gradients, without_gradients(model)


def distance(output: torch.Tensor, expected: torch.Tensor) -> float:
    return ((output - expected).norm() / expected.norm()).item()


# --- files ---


def test_a_variant_has_files_of_its_own(tmp_path, case):
    model, use, expected = case
    model.save_pretrained(tmp_path, variant="fp16")
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.fp16.safetensors"}
    torch.testing.assert_close(use(type(model).from_pretrained(tmp_path, variant="fp16")), expected)
    with pytest.raises(OSError, match="diffusion_pytorch_model"):
        type(model).from_pretrained(tmp_path)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_large_weights_are_cut_into_shards(tmp_path, case, variant):
    model, use, expected = case
    model.save_pretrained(tmp_path, max_shard_size="15KB", variant=variant)
    suffix = "" if variant is None else f".{variant}"
    shards = {path.name for path in tmp_path.glob("*.safetensors")}
    assert len(shards) > 1 and all(name.startswith(f"diffusion_pytorch_model{suffix}-00") for name in shards)
    index = json.loads((tmp_path / f"diffusion_pytorch_model.safetensors.index{suffix}.json").read_text())
    assert set(index["weight_map"]) == set(model.state_dict()) and set(index["weight_map"].values()) == shards
    torch.testing.assert_close(use(type(model).from_pretrained(tmp_path, variant=variant)), expected)


# --- where the weights are ---


def test_weights_that_are_fetched_layer_by_layer(case):
    model, use, expected = case
    cpu_offload(model, torch.device("cpu"), offload_buffers=True)  # of `enable_sequential_cpu_offload`
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    for _ in range(2):
        torch.testing.assert_close(use(model), expected)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


@pytest.mark.parametrize("offload_type", ["block_level", "leaf_level"])
def test_weights_that_are_fetched_group_by_group(tmp_path, case, offload_type):
    model, use, expected = case
    # To disk, which leaves nothing behind: weights that are not fetched would show.
    model.enable_group_offload(
        onload_device=torch.device("cpu"),
        offload_type=offload_type,
        num_blocks_per_group=1,
        offload_to_disk_path=str(tmp_path),
    )
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    for _ in range(2):
        torch.testing.assert_close(use(model), expected)


def test_a_device_map(tmp_path, case):
    model, use, expected = case
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(use(type(model).from_pretrained(tmp_path, device_map={"": "cpu"})), expected)


# --- number formats ---


def test_storage_in_eight_bits(case):
    model, use, expected = case
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    model.enable_layerwise_casting(storage_dtype=FLOAT8, compute_dtype=torch.float32)
    stored = {name for name, parameter in model.named_parameters() if parameter.dtype == FLOAT8}
    assert sum(model.get_parameter(name).numel() for name in stored) > 0.5 * num_parameters
    exact = (*(model._keep_in_fp32_modules or ()), *(model._skip_layerwise_casting_patterns or ()), "norm")
    assert not [name for name in stored if any(part in name for part in exact)]
    assert model.dtype == torch.float32
    for _ in range(2):
        output = use(model)
        assert 0 < distance(output, expected) < 0.35  # three bits of mantissa
    assert stored == {name for name, parameter in model.named_parameters() if parameter.dtype == FLOAT8}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_moving_to_another_number_format(case, dtype):
    model, use, expected = case
    assert model.to(dtype).dtype == dtype
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    model.to(torch.float32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert 0 < distance(use(model), expected) < 0.05


# --- training ---


def bytes_for_backward(model: ModelMixin, run: Callable[[], torch.Tensor]) -> int:
    """What autograd stores beside the weights."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    stored: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = run()
        num_bytes = sum(stored.values())
    loss.backward()
    return num_bytes


@pytest.mark.parametrize("name", ["animator", "motion U-Net"])
def test_gradient_checkpointing_stores_less(name):
    model = CASES[name][0]().train()

    def run() -> torch.Tensor:
        if name == "animator":
            return model(noise(4, 3, 32, 32), noise(4, 3, 32, 32, seed=1)).sample.square().mean()
        return model(noise(8, 8, 15), 10, noise(8, 8)).sample.square().mean()

    whole = bytes_for_backward(model, run)
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.enable_gradient_checkpointing()
    assert model.is_gradient_checkpointing
    assert bytes_for_backward(model, run) < 0.5 * whole
    for parameter_name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[parameter_name], rtol=1e-3, atol=1e-6)
    model.disable_gradient_checkpointing()
    assert not model.is_gradient_checkpointing
    assert bytes_for_backward(model, run) == whole


@pytest.mark.parametrize("name", ["motion prior", "discriminator", "label network"])
def test_small_networks_refuse_gradient_checkpointing(name):
    with pytest.raises(ValueError, match="does not support gradient checkpointing"):
        CASES[name][0]().enable_gradient_checkpointing()


# --- attention ---


class Silenced(SelfAttention1DProcessor):
    """Lets the residual connection through, and nothing else."""

    def __call__(self, attention: SelfAttention1D, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states


@torch.no_grad()
def predict(unet: ModelMixin) -> torch.Tensor:
    return unet(noise(2, 8, 15), 10, noise(2, 8)).sample


def test_attention_processors_can_be_exchanged(motion_unet):
    names = set(motion_unet.attn_processors)
    modules = {name for name, module in motion_unet.named_modules() if isinstance(module, SelfAttention1D)}
    assert names == {f"{name}.processor" for name in modules} and len(names) > 2
    expected = predict(motion_unet)
    motion_unet.set_attn_processor(Silenced())
    silenced = predict(motion_unet)
    assert distance(silenced, expected) > 1e-3
    assert {type(processor) for processor in motion_unet.attn_processors.values()} == {Silenced}

    one = sorted(names)[0]
    processors = {name: SelfAttention1DProcessor() for name in names}
    motion_unet.set_attn_processor(dict(processors))
    torch.testing.assert_close(predict(motion_unet), expected)
    motion_unet.set_attn_processor({**processors, one: Silenced()})
    assert distance(predict(motion_unet), expected) > 1e-4 and distance(predict(motion_unet), silenced) > 1e-4
    with pytest.raises(ValueError, match="A dict of processors was passed"):
        motion_unet.set_attn_processor({one: Silenced()})


def test_attention_backends_agree(motion_unet):
    expected = predict(motion_unet)
    for backend in ("native", "_native_math"):
        motion_unet.set_attention_backend(backend)
        assert {processor._attention_backend for processor in motion_unet.attn_processors.values()} == {backend}
        torch.testing.assert_close(predict(motion_unet), expected, rtol=1e-4, atol=1e-5)
    motion_unet.reset_attention_backend()
    assert {processor._attention_backend for processor in motion_unet.attn_processors.values()} == {None}
    with pytest.raises(ValueError, match="nothing"):
        motion_unet.set_attention_backend("nothing")


def test_projections_are_one_from_the_start(motion_unet):
    expected, weights = predict(motion_unet), set(motion_unet.state_dict())
    motion_unet.fuse_qkv_projections()
    assert set(motion_unet.state_dict()) == weights
    torch.testing.assert_close(predict(motion_unet), expected)
    motion_unet.unfuse_qkv_projections()
    torch.testing.assert_close(predict(motion_unet), expected)


# --- compilation ---


def compiled(function: Callable) -> tuple[Callable, CompileCounter]:
    """Traced whole, and run as it was traced, and how often that was."""
    torch.compiler.reset()
    counter = CompileCounter()
    return torch.compile(function, backend=counter, fullgraph=True), counter


@pytest.mark.parametrize("name", ["animator", "animator with all"])
@torch.no_grad()
def test_an_animator_is_compiled_once(name):
    model = CASES[name][0]()
    frames = [noise(1, 3, 32, 32, seed=seed).clamp(-1, 1) for seed in range(3)]
    source = model.encode_source(frames[0])
    encode_source, num_encoded = compiled(model.encode_source)
    for frame in frames:
        torch.testing.assert_close(
            encode_source(frame).latent, model.encode_source(frame).latent, rtol=1e-3, atol=1e-4
        )
    assert num_encoded.frame_count == 1
    encode_motion, num_encoded = compiled(model.encode_motion)
    for frame in frames:
        torch.testing.assert_close(encode_motion(frame), model.encode_motion(frame), rtol=1e-3, atol=1e-4)
    assert num_encoded.frame_count == 1
    decode, num_decoded = compiled(model.decode)
    for seed in range(3):
        codes = noise(4, 8, seed=seed)
        torch.testing.assert_close(
            decode(source, codes).sample, model.decode(source, codes).sample, rtol=1e-3, atol=1e-3
        )
    assert num_decoded.frame_count == 1


TIMESTEPS = (999, 500, 250, 1)


@pytest.mark.parametrize("name", ["motion U-Net", "transition U-Net", "motion prior"])
@torch.no_grad()
def test_denoisers_are_compiled_once_for_all_timesteps(name):
    model = CASES[name][0]()
    inputs = {"sample": noise(2, 8)}
    if name != "motion prior":
        inputs = {"sample": noise(2, 8, model.num_sample_frames), **model.conditions_of(noise(2, 16, 8))}
    # Numbers are taken for constants first, and for variables when they vary: that is all of it.
    kinds = {
        "tensor": ([torch.tensor(timestep) for timestep in TIMESTEPS], [1, 1, 1, 1]),
        "one per sample": ([torch.tensor([timestep, 7]) for timestep in TIMESTEPS], [1, 1, 1, 1]),
        "number": (list(TIMESTEPS), [1, 2, 2, 2]),
    }
    for kind, (timesteps, expected) in kinds.items():
        forward, num_compiled = compiled(model)
        counts = []
        for timestep in timesteps:
            output = forward(**inputs, timestep=timestep).sample
            torch.testing.assert_close(output, model(**inputs, timestep=timestep).sample, rtol=1e-3, atol=1e-4)
            counts.append(num_compiled.frame_count)
        assert counts == expected, kind


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no compiler of C++")
@torch.no_grad()
def test_compiled_code_gives_the_same():
    torch.compiler.reset()
    animator = CASES["animator with all"][0]()
    source, codes = animator.encode_source(noise(1, 3, 32, 32).clamp(-1, 1)), noise(4, 8)
    output = torch.compile(animator.decode, fullgraph=True)(source, codes).sample
    torch.testing.assert_close(output, animator.decode(source, codes).sample, rtol=1e-3, atol=1e-3)
    unet = CASES["motion U-Net"][0]()
    inputs = noise(2, 8, 15), torch.tensor(10), noise(2, 8)
    output = torch.compile(unet, fullgraph=True)(*inputs).sample
    torch.testing.assert_close(output, unet(*inputs).sample, rtol=1e-3, atol=1e-4)
