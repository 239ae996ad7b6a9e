import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from leo_diffusers import MotionPriorModel
from leo_diffusers.pipelines.denoising import denoise
from leo_diffusers.training.losses import denoising_loss


MEAN = (0.5, -1.0, 0.1, 2.0, 0.0)
STD = (0.5, 2.0, 1.0, 0.3, 0.1)
BATCH, MOTION_DIM = 3, 5


def make_model(seed: int = 0, **config) -> MotionPriorModel:
    """A tiny model whose zero-initialised layers were moved, so that all inputs reach the output."""
    torch.manual_seed(seed)
    config = {"hidden_dim": 16, "num_layers": 2, "motion_mean": MEAN, "motion_std": STD, **config}
    model = MotionPriorModel(motion_dim=MOTION_DIM, **config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make_inputs(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "sample": torch.randn(BATCH, MOTION_DIM, generator=generator),
        "timestep": torch.tensor([1, 500, 999]),
    }


def test_default_size():
    with torch.device("meta"):
        model = MotionPriorModel()
        assert model(torch.zeros(2, 20), 10).sample.shape == (2, 20)
    layer = 2 * (512 * 512 + 512) + (512 * 1024 + 1024) + 2 * 512  # two linear layers, the timestep's, the norm
    ends = (20 * 512 + 512) + 2 * 512 + (512 * 20 + 20)
    embedding = 2 * (512 * 512 + 512)
    assert sum(parameter.numel() for parameter in model.parameters()) == 4 * layer + ends + embedding


def test_shapes_and_tuple_output():
    model, inputs = make_model(), make_inputs()
    output = model(**inputs).sample
    assert output.shape == (BATCH, MOTION_DIM)
    assert torch.equal(model(**inputs, return_dict=False)[0], output)


def test_a_batch_equals_its_samples_one_by_one():
    model, inputs = make_model(), make_inputs()
    singles = [model(**{name: tensor[i : i + 1] for name, tensor in inputs.items()}).sample for i in range(BATCH)]
    torch.testing.assert_close(model(**inputs).sample, torch.cat(singles), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("timestep", [7, torch.tensor(7), torch.tensor([7])])
def test_one_timestep_serves_the_batch(timestep):
    model, inputs = make_model(), make_inputs()
    expected = model(**{**inputs, "timestep": torch.full((BATCH,), 7)}).sample
    torch.testing.assert_close(model(**{**inputs, "timestep": timestep}).sample, expected, rtol=1e-4, atol=1e-5)


def test_the_layers_of_a_new_model_are_identities():
    torch.manual_seed(0)
    model = MotionPriorModel(motion_dim=MOTION_DIM, hidden_dim=16)
    for layer in model.layers:
        hidden_states, time_embedding = torch.randn(2, 16), torch.randn(2, 16)
        assert torch.equal(layer(hidden_states, time_embedding), hidden_states)


def test_every_parameter_learns():
    model = make_model().train()
    model(**make_inputs()).sample.square().mean().backward()
    without_gradient = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    assert without_gradient == []


@pytest.mark.parametrize("name", ["sample", "timestep"])
def test_every_input_matters(name):
    model, inputs = make_model(), make_inputs()
    changed = model(**{**inputs, name: inputs[name] + 1}).sample
    assert (changed - model(**inputs).sample).abs().amax() > 1e-4


def test_dropout_acts_in_training_only():
    model, inputs = make_model(dropout=0.5), make_inputs()
    assert torch.equal(model(**inputs).sample, model(**inputs).sample)
    model.train()
    assert not torch.equal(model(**inputs).sample, model(**inputs).sample)


def test_standardize_round_trip():
    model, codes = make_model(), 3 * torch.randn(BATCH, MOTION_DIM)
    sample = model.standardize(codes)
    torch.testing.assert_close(sample, (codes - torch.tensor(MEAN)) / torch.tensor(STD))
    torch.testing.assert_close(model.unstandardize(sample), codes)


def test_save_and_load(tmp_path):
    model, inputs = make_model(), make_inputs()
    model.save_pretrained(tmp_path)
    loaded = MotionPriorModel.from_pretrained(tmp_path)
    assert tuple(loaded.config.motion_mean) == MEAN and tuple(loaded.config.motion_std) == STD
    assert torch.equal(loaded(**inputs).sample, model(**inputs).sample)
    assert torch.equal(loaded.standardize(inputs["sample"]), model.standardize(inputs["sample"]))


@pytest.mark.parametrize("low_cpu_mem_usage", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_stay_exact_when_loaded_in_half_precision(tmp_path, dtype, low_cpu_mem_usage):
    make_model().save_pretrained(tmp_path)
    model = MotionPriorModel.from_pretrained(tmp_path, dtype=dtype, low_cpu_mem_usage=low_cpu_mem_usage)
    assert model.dtype == dtype
    for loaded in (model, model.to(torch.bfloat16), model.half().float()):
        assert loaded.statistics.mean.tolist() == torch.tensor(MEAN).tolist()
        assert loaded.statistics.std.tolist() == torch.tensor(STD).tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(dtype):
    model, inputs = make_model(), make_inputs()
    expected = model(**inputs).sample
    output = model.to(dtype)(**{**inputs, "sample": inputs["sample"].to(dtype)}).sample
    assert output.dtype == dtype
    assert (output.float() - expected).norm() < 0.05 * expected.norm()


def test_compiles_into_one_graph():
    torch.compiler.reset()
    model, inputs = make_model(), make_inputs()
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(**inputs).sample, model(**inputs).sample)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"motion_dim": 0}, "`motion_dim` must be at least 1, got 0"),
        ({"num_layers": 0}, "`num_layers` must be at least 1, got 0"),
        ({"hidden_dim": 0}, "`hidden_dim` must be even and at least 2, got 0"),
        ({"hidden_dim": 33}, "`hidden_dim` must be even and at least 2, got 33"),
        ({"dropout": 1.0}, "`dropout` must be at least 0 and below 1, got 1.0"),
        ({"motion_std": (1.0,) * 3}, r"`motion_std` must hold `motion_dim` \(20\) numbers, got 3"),
    ],
)
def test_refuses_a_bad_config(config, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        MotionPriorModel(**config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sample": torch.zeros(BATCH, 4)}, r"`sample` must have shape \(B, 5\), one code per row, got \(3, 4\)"),
        ({"sample": torch.zeros(5)}, r"`sample` must have shape \(B, 5\).*got \(5,\)"),
        ({"sample": torch.zeros(BATCH, 5, 1)}, r"`sample` must have shape \(B, 5\).*got \(3, 5, 1\)"),
        ({"timestep": torch.tensor([1, 2])}, r"`timestep` must be one number or one per sample \(3\), got 2"),
    ],
)
def test_refuses_bad_inputs(changes, message):
    with pytest.raises(ValueError, match=message):
        make_model()(**{**make_inputs(), **changes})


def two_poses(num_codes: int, generator: torch.Generator) -> torch.Tensor:
    """Codes of two poses, far from the origin, on different scales, and correlated within a pose."""
    pose = torch.randint(2, (num_codes, 1), generator=generator) * 2 - 1
    spread = torch.randn(num_codes, 2, generator=generator) @ torch.tensor([[0.3, -0.2], [0.0, 0.2]])
    return (torch.tensor([[1.0, 1.0]]) * pose + spread) * torch.tensor([0.1, 5.0]) + torch.tensor([3.0, -7.0])


@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_it_learns_a_distribution(prediction_type):
    generator = torch.Generator().manual_seed(0)
    data = two_poses(4000, generator)
    mean, std = data.mean(dim=0), data.std(dim=0)
    torch.manual_seed(0)
    prior = MotionPriorModel(2, 64, num_layers=2, motion_mean=tuple(mean.tolist()), motion_std=tuple(std.tolist()))
    scheduler = DDPMScheduler(prediction_type=prediction_type, clip_sample=False)
    optimizer = torch.optim.Adam(prior.parameters(), lr=5e-3)
    lr_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        sample = prior.standardize(data[torch.randint(len(data), (512,), generator=generator)])
        noise, timesteps = torch.randn(512, 2, generator=generator), torch.randint(1000, (512,), generator=generator)
        denoising_loss(prior, scheduler, sample, noise, timesteps).backward()
        optimizer.step()
        lr_scheduler.step()
        optimizer.zero_grad()

    sampler = DDIMScheduler.from_config(scheduler.config, timestep_spacing="trailing")
    noise = torch.randn(2000, 2, generator=generator)
    codes = prior.unstandardize(denoise(prior.eval(), sampler, noise, {}, num_inference_steps=50))
    torch.testing.assert_close((codes.mean(dim=0) - mean) / std, torch.zeros(2), atol=0.15, rtol=0)
    torch.testing.assert_close(codes.std(dim=0) / std, torch.ones(2), atol=0.15, rtol=0)
    torch.testing.assert_close(torch.corrcoef(codes.T), torch.corrcoef(data.T), atol=0.1, rtol=0)
    # Two poses stay two: a normal distribution of this mean and spread would put 30 % of the codes between them.
    pose = (codes[:, 0] - 3) / 0.1
    assert (pose.abs() < 0.4).float().mean() < 0.1 and (pose > 0).float().mean() == pytest.approx(0.5, abs=0.1)
