import pytest
import torch
import torch.nn.functional as F

from leo_diffusers.models.motion_unet_1d import MotionUNet1DModel
from leo_diffusers.models.motion_unet_1d_blocks import MAX_COLUMNS, FrameConv1d


MEAN = (0.5, -1.0, 0.1, 2.0, 0.0)
STD = (0.5, 2.0, 1.0, 0.3, 0.1)
CONDITIONS = {"none": (0, 0), "start": (1, 0), "start_end": (1, 1)}
BATCH, MOTION_DIM, LENGTH = 3, 5, 16


def make_model(seed: int = 0, **config) -> MotionUNet1DModel:
    """A tiny model whose zero-initialised layers were moved, so that all inputs reach the output."""
    torch.manual_seed(seed)
    config = {"condition": "start", "motion_mean": MEAN, "motion_std": STD, **config}
    model = MotionUNet1DModel(
        motion_dim=MOTION_DIM,
        sequence_length=LENGTH,
        block_out_channels=(12, 16, 24),
        layers_per_block=1,
        attention_levels=(1, 2),
        num_attention_heads=2,
        **config,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make_inputs(condition: str = "start", seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    num_before, num_after = CONDITIONS[condition]
    num_frames = LENGTH - num_before - num_after
    inputs = {
        "sample": torch.randn(BATCH, MOTION_DIM, num_frames, generator=generator),
        "timestep": torch.tensor([1, 500, 999]),
    }
    if num_before:
        inputs["start_motion_code"] = torch.randn(BATCH, MOTION_DIM, generator=generator)
    if num_after:
        inputs["end_motion_code"] = torch.randn(BATCH, MOTION_DIM, generator=generator)
    return inputs


def network_input(model: MotionUNet1DModel, **inputs) -> torch.Tensor:
    seen = []
    hook = model.conv_in.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(**inputs)
    hook.remove()
    return seen[0]


def test_default_size_is_that_of_the_paper():
    with torch.device("meta"):
        num_parameters = sum(parameter.numel() for parameter in MotionUNet1DModel().parameters())
    assert num_parameters == 44_356_756
    assert num_parameters == pytest.approx(44.4e6, rel=0.02)


def test_default_lengths_and_attention_places():
    with torch.device("meta"):
        model = MotionUNet1DModel()
        output = model(torch.zeros(2, 20, 63), 10, torch.zeros(2, 20)).sample
    assert output.shape == (2, 20, 63)
    attention_places = {name.rsplit(".", 1)[0] for name in model.attn_processors}
    levels_down = [f"down_blocks.{level}.layers.{layer}" for level in (2, 3) for layer in range(2)]
    levels_up = [f"up_blocks.{index}.layers.{layer}" for index in (0, 1) for layer in range(3)]
    assert attention_places == {f"{place}.attention" for place in [*levels_down, "mid_layers.0", *levels_up]}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_shapes_and_tuple_output(condition):
    model, inputs = make_model(condition=condition), make_inputs(condition)
    output = model(**inputs).sample
    assert model.num_sample_frames == inputs["sample"].shape[-1]
    assert output.shape == inputs["sample"].shape
    torch.testing.assert_close(model(**inputs, return_dict=False)[0], output, rtol=0, atol=0)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_batch_equals_its_samples_one_by_one(condition):
    model, inputs = make_model(condition=condition), make_inputs(condition)
    singles = [model(**{name: tensor[i : i + 1] for name, tensor in inputs.items()}).sample for i in range(BATCH)]
    torch.testing.assert_close(model(**inputs).sample, torch.cat(singles), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("timestep", [7, torch.tensor(7), torch.tensor([7])])
def test_one_timestep_serves_the_batch(timestep):
    model, inputs = make_model(), make_inputs()
    expected = model(**{**inputs, "timestep": torch.full((BATCH,), 7)}).sample
    output = model(**{**inputs, "timestep": timestep}).sample
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


def test_save_and_load(tmp_path):
    model, inputs = make_model(), make_inputs()
    model.save_pretrained(tmp_path)
    loaded = MotionUNet1DModel.from_pretrained(tmp_path)
    assert tuple(loaded.config.motion_mean) == MEAN
    assert tuple(loaded.config.motion_std) == STD
    assert loaded.config.condition == "start"
    assert not any(name.startswith("code_") for name in model.state_dict())
    torch.testing.assert_close(loaded(**inputs).sample, model(**inputs).sample, rtol=0, atol=0)


@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
def test_statistics_stay_exact_when_loaded_in_half_precision(tmp_path, low_cpu_mem_usage):
    make_model().save_pretrained(tmp_path)
    model = MotionUNet1DModel.from_pretrained(tmp_path, dtype=torch.float16, low_cpu_mem_usage=low_cpu_mem_usage)
    assert model.dtype == torch.float16
    for cast in (lambda model: model, lambda model: model.to(torch.bfloat16), lambda model: model.half().float()):
        model = cast(model)
        torch.testing.assert_close(model.statistics.mean, torch.tensor(MEAN), rtol=0, atol=0)
        torch.testing.assert_close(model.statistics.std, torch.tensor(STD), rtol=0, atol=0)


def test_statistics_are_there_after_a_start_on_the_meta_device():
    with torch.device("meta"):
        model = make_model()
    model = model.to_empty(device="cpu")
    torch.testing.assert_close(model.statistics.mean, torch.tensor(MEAN), rtol=0, atol=0)


def test_gradient_checkpointing_changes_nothing():
    model, inputs = make_model(), make_inputs()
    model.train()
    losses, gradients, num_calls = [], [], []
    hook = model.mid_layers[0].residual_block.register_forward_pre_hook(lambda *args: num_calls.append(1))
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        model.zero_grad()
        loss = model(**inputs).sample.square().mean()
        loss.backward()
        losses.append(loss.detach())
        gradients.append({name: parameter.grad.clone() for name, parameter in model.named_parameters()})
    hook.remove()
    assert len(num_calls) == 1 + 2  # recomputed once in the backward pass
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("statistics", [{}, {"motion_mean": None, "motion_std": None}])
@pytest.mark.parametrize("condition", CONDITIONS)
def test_standardize_round_trip(condition, statistics):
    model = make_model(condition=condition, **statistics)
    motion_codes = 3 * torch.randn(BATCH, LENGTH, MOTION_DIM)
    num_before, num_after = CONDITIONS[condition]
    given = {}
    if num_before:
        given["start_motion_code"] = motion_codes[:, 0]
    if num_after:
        given["end_motion_code"] = motion_codes[:, -1]

    sample = model.standardize(motion_codes)
    assert sample.shape == (BATCH, MOTION_DIM, model.num_sample_frames)
    restored = model.unstandardize(sample, **given)
    torch.testing.assert_close(restored, motion_codes, rtol=0, atol=1e-5)
    if num_before:
        assert torch.equal(restored[:, 0], motion_codes[:, 0])
    if num_after:
        assert torch.equal(restored[:, -1], motion_codes[:, -1])


def test_standardize_against_the_formula():
    motion_codes = torch.randn(BATCH, LENGTH, MOTION_DIM)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    shifted = make_model(condition="none").standardize(motion_codes)
    torch.testing.assert_close(shifted, ((motion_codes - mean) / std).mT)
    residuals = make_model(condition="start").standardize(motion_codes)
    torch.testing.assert_close(residuals, ((motion_codes[:, 1:] - motion_codes[:, :1]) / std).mT)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_standardize_keeps_the_dtype(dtype):
    model = make_model()
    motion_codes = torch.randn(BATCH, LENGTH, MOTION_DIM).to(dtype)
    sample = model.standardize(motion_codes)
    restored = model.unstandardize(sample, motion_codes[:, 0])
    assert sample.dtype == restored.dtype == dtype
    assert torch.equal(restored[:, 0], motion_codes[:, 0])
    # A fine start code stays what it was beside a coarse sample.
    start_motion_code = torch.randn(BATCH, MOTION_DIM, dtype=torch.float64)
    assert torch.equal(model.unstandardize(sample, start_motion_code)[:, 0], start_motion_code)


@pytest.mark.parametrize("condition", ["start", "start_end"])
def test_the_network_sees_the_standardised_sequence(condition):
    model = make_model(condition=condition)
    motion_codes = torch.randn(BATCH, LENGTH, MOTION_DIM)
    given = {"start_motion_code": motion_codes[:, 0]}
    if condition == "start_end":
        given["end_motion_code"] = motion_codes[:, -1]
    seen = network_input(model, sample=model.standardize(motion_codes), timestep=0, **given)
    expected = ((motion_codes - torch.tensor(MEAN)) / torch.tensor(STD)).mT
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)


def test_no_residual_means_a_constant_sequence():
    inputs = {**make_inputs(), "sample": torch.zeros(BATCH, MOTION_DIM, LENGTH - 1)}
    seen = network_input(make_model(), **inputs)
    expected = (inputs["start_motion_code"] - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(seen, expected[..., None].expand(-1, -1, LENGTH))


def test_a_shift_of_the_start_code_shifts_the_whole_input():
    model, inputs = make_model(), make_inputs()
    shift = torch.randn(BATCH, MOTION_DIM)
    shifted_inputs = {**inputs, "start_motion_code": inputs["start_motion_code"] + shift}
    difference = network_input(model, **shifted_inputs) - network_input(model, **inputs)
    expected = (shift / torch.tensor(STD))[..., None].expand(-1, -1, LENGTH)
    torch.testing.assert_close(difference, expected, rtol=1e-4, atol=1e-5)


def test_a_new_model_predicts_zero():
    model = MotionUNet1DModel(block_out_channels=(32, 32), attention_levels=(1,))
    output = model(torch.randn(2, 20, 63), 500, torch.randn(2, 20)).sample
    assert torch.equal(output, torch.zeros(2, 20, 63))


def test_every_parameter_learns():
    model = make_model().train()
    model(**make_inputs()).sample.square().mean().backward()
    without_gradient = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without_gradient == []


@pytest.mark.parametrize("condition", CONDITIONS)
def test_every_input_matters(condition):
    model, inputs = make_model(condition=condition), make_inputs(condition)
    output = model(**inputs).sample
    for name, value in inputs.items():
        changed = model(**{**inputs, name: value + 1}).sample
        assert (changed - output).abs().amax() > 1e-4, name


def test_dropout_acts_in_training_only():
    model, inputs = make_model(dropout=0.5), make_inputs()
    assert torch.equal(model(**inputs).sample, model(**inputs).sample)
    model.train()
    assert not torch.equal(model(**inputs).sample, model(**inputs).sample)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_compiles_into_one_graph(condition):
    torch.compiler.reset()
    model, inputs = make_model(condition=condition), make_inputs(condition)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(**inputs).sample, model(**inputs).sample)


def test_compiles_into_one_graph_with_gradient_checkpointing():
    torch.compiler.reset()
    model, inputs = make_model().train(), make_inputs()
    model(**inputs).sample.square().mean().backward()
    expected = model.conv_in.weight.grad.clone()
    model.zero_grad()
    model.enable_gradient_checkpointing()
    torch.compile(model, backend="aot_eager", fullgraph=True)(**inputs).sample.square().mean().backward()
    torch.testing.assert_close(model.conv_in.weight.grad, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("out_channels", [32, 20])
@pytest.mark.parametrize(("batch_size", "num_frames"), [(1, 1), (1, 8), (3, 7), (2, MAX_COLUMNS)])
@pytest.mark.parametrize(("kernel_size", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_frame_convolution_is_a_convolution(kernel_size, stride, batch_size, num_frames, out_channels):
    torch.compiler.reset()
    layer = FrameConv1d(12, out_channels, kernel_size, stride, padding=kernel_size // 2)
    features = torch.randn(batch_size, 12, num_frames, requires_grad=True)
    expected = F.conv1d(features, layer.weight, layer.bias, stride, kernel_size // 2)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(layer(features), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(compiled(features), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer.double()(features.double()), expected.double(), rtol=1e-4, atol=1e-5)

    layer.float()
    leaves = (features, layer.weight, layer.bias)
    upstream = torch.randn_like(expected)
    gradients = torch.autograd.grad(layer(features), leaves, upstream)
    expected = F.conv1d(*leaves, stride, kernel_size // 2)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, leaves, upstream), rtol=1e-4, atol=1e-5)


def test_frame_convolution_follows_its_weights():
    layer, features = FrameConv1d(8, 16, kernel_size=3, padding=1), torch.randn(1, 8, 8)
    with torch.no_grad():
        before = layer(features)
        layer.weight.data.mul_(2)  # as an exponential moving average writes them
        layer.bias.data.mul_(2)
        torch.testing.assert_close(layer(features), 2 * before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(dtype):
    model, inputs = make_model(), make_inputs()
    expected = model(**inputs).sample
    output = model.to(dtype)(**{**inputs, "sample": inputs["sample"].to(dtype)}).sample  # the code stays float32
    assert output.dtype == dtype
    assert torch.isfinite(output).all()
    assert (output.float() - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"motion_dim": 0}, "`motion_dim` must be at least 1, got 0"),
        ({"sequence_length": 20}, "`sequence_length` must be a positive multiple of 8.*got 20"),
        ({"block_out_channels": ()}, "`block_out_channels` must hold a positive number per level"),
        ({"layers_per_block": 0}, "`layers_per_block` must be at least 1, got 0"),
        ({"attention_levels": (2, 4)}, r"`attention_levels` must lie between 0 and 3, got \(2, 4\)"),
        ({"num_attention_heads": 0}, "`num_attention_heads` must be at least 1, got 0"),
        ({"num_attention_heads": 5}, r"`num_attention_heads` \(5\) must divide the 384 channels of level 2"),
        ({"attention_levels": (), "num_attention_heads": 3}, "must divide the 512 channels of level 3"),
        ({"condition": "end"}, "`condition` must be one of .*start_end.*got 'end'"),
        (
            {"condition": "start_end", "sequence_length": 2, "block_out_channels": (32, 32), "attention_levels": ()},
            "`sequence_length` must be above 2, the frames that are given with `condition='start_end'`, got 2",
        ),
        ({"motion_mean": (0.0,) * 3}, r"`motion_mean` must hold `motion_dim` \(20\) numbers, got 3"),
        ({"motion_std": (1.0,) * 21}, r"`motion_std` must hold `motion_dim` \(20\) numbers, got 21"),
        ({"motion_mean": (float("nan"),) * 20}, "`motion_mean` must hold finite Python numbers"),
        ({"motion_mean": torch.zeros(20)}, r"`motion_mean` must hold finite Python numbers.*\.tolist\(\)"),
        ({"motion_std": (float("inf"),) * 20}, "`motion_std` must hold finite Python numbers"),
        ({"motion_std": (1.0,) * 19 + (0.0,)}, "`motion_std` must be positive in every dimension"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1, got 1.0"),
    ],
)
def test_refuses_a_bad_config(config, message):
    with torch.device("meta"), pytest.raises(ValueError, match=f"(?s){message}"):
        MotionUNet1DModel(**config)


@pytest.mark.parametrize(
    ("condition", "changes", "message"),
    [
        ("start", {"sample": torch.zeros(BATCH, MOTION_DIM, LENGTH)}, r"`sample` must have shape \(B, 5, 15\)"),
        ("start", {"sample": torch.zeros(BATCH, LENGTH - 1, MOTION_DIM)}, "time comes last"),
        ("none", {"sample": torch.zeros(MOTION_DIM, LENGTH)}, r"`sample` must have shape \(B, 5, 16\).*got \(5, 16\)"),
        ("start", {"start_motion_code": None}, "`condition='start'` needs `start_motion_code`"),
        ("start_end", {"end_motion_code": None}, "`condition='start_end'` needs `end_motion_code`"),
        ("start", {"end_motion_code": torch.zeros(BATCH, MOTION_DIM)}, "takes no `end_motion_code`"),
        ("none", {"start_motion_code": torch.zeros(BATCH, MOTION_DIM)}, "takes no `start_motion_code`"),
        ("start", {"start_motion_code": torch.zeros(1, MOTION_DIM)}, r"must have shape \(3, 5\).*got \(1, 5\)"),
        ("start", {"timestep": torch.tensor([1, 2])}, r"`timestep` must be one number or one per sample \(3\), got 2"),
    ],
)
def test_refuses_bad_inputs(condition, changes, message):
    model, inputs = make_model(condition=condition), make_inputs(condition)
    with pytest.raises(ValueError, match=message):
        model(**{**inputs, **changes})


def test_helpers_refuse_bad_inputs():
    model = make_model()
    with pytest.raises(ValueError, match=r"`motion_codes` must have shape \(B, 16, 5\), got \(3, 15, 5\)"):
        model.standardize(torch.zeros(BATCH, LENGTH - 1, MOTION_DIM))
    with pytest.raises(ValueError, match="needs `start_motion_code`"):
        model.unstandardize(torch.zeros(BATCH, MOTION_DIM, LENGTH - 1))


@pytest.mark.parametrize(
    ("condition", "given"), [("none", {}), ("start", {"start": 0}), ("start_end", {"start": 0, "end": -1})]
)
def test_conditions_are_the_frames_that_are_given(condition, given):
    model = MotionUNet1DModel(
        motion_dim=4, sequence_length=8, block_out_channels=(16, 16), attention_levels=(1,), condition=condition
    )
    codes = torch.randn(2, 8, 4)
    conditions = model.conditions_of(codes)
    assert set(conditions) == {f"{name}_motion_code" for name in given}
    for name, index in given.items():
        assert torch.equal(conditions[f"{name}_motion_code"], codes[:, index])
    torch.testing.assert_close(model.unstandardize(model.standardize(codes), **conditions), codes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_timesteps_can_be_embedded_before(make_motion_unet, dtype):
    model = make_motion_unet().to(dtype)
    sample, start = torch.randn(3, 8, 15, dtype=dtype), torch.randn(3, 8)
    timesteps = torch.tensor([999, 500, 3])
    with torch.no_grad():
        embeddings = model.embed_timesteps(timesteps)
        for index, timestep in enumerate(timesteps):
            expected = model(sample, timestep, start).sample
            given = model(sample, timestep, start, timestep_embedding=embeddings[index : index + 1]).sample
            torch.testing.assert_close(given, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=1e-5)
        batch = model(sample, timesteps, start).sample
        torch.testing.assert_close(model(sample, 0, start, timestep_embedding=embeddings).sample, batch)
