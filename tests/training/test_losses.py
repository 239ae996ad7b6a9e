import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from diffusers import DDPMScheduler

from leo_diffusers import FrameDiscriminator, MotionUNet1DModel
from leo_diffusers.training.losses import (
    denoising_loss,
    discriminator_loss,
    draw_noise,
    generator_loss,
    reconstruction_losses,
)
from leo_diffusers.training.perceptual_loss import SSIMPyramidLoss


BATCH, LENGTH, MOTION_DIM = 3, 16, 8
MEAN, STD = tuple(0.3 * i for i in range(MOTION_DIM)), tuple(0.5 + 0.25 * i for i in range(MOTION_DIM))
CONDITIONS = ("none", "start", "start_end")
PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def make_scheduler(prediction_type: str = "epsilon", **options) -> DDPMScheduler:
    return DDPMScheduler(prediction_type=prediction_type, clip_sample=False, **options)


def make_codes(batch_size: int = BATCH) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    codes = torch.randn(batch_size, LENGTH, MOTION_DIM, generator=generator)
    return codes * torch.tensor(STD) + torch.tensor(MEAN)


def motion_denoising_loss(unet, scheduler: DDPMScheduler, codes: torch.Tensor, seeds, snr_gamma=None) -> torch.Tensor:
    """The loss of motion codes, with noise and timestep of each sample from a seed of its own."""
    sample, num_timesteps = unet.standardize(codes), scheduler.config.num_train_timesteps
    drawn = [draw_noise(seed, torch.tensor([0]), sample.shape[1:], num_timesteps) for seed in seeds]
    noise, timesteps = (torch.cat(tensors) for tensors in zip(*drawn))
    return denoising_loss(unet, scheduler, sample, noise, timesteps, unet.conditions_of(codes), snr_gamma)


@pytest.fixture
def make_unet(make_motion_unet):
    def make(condition: str = "start", **options) -> MotionUNet1DModel:
        return make_motion_unet(condition=condition, motion_mean=MEAN, motion_std=STD, **options)

    return make


class Seen:
    """What a network is given and what it answers."""

    def __init__(self, unet: nn.Module):
        unet.register_forward_hook(self.keep, with_kwargs=True)

    def keep(self, module, args, kwargs, output):
        (self.sample, self.timesteps), self.conditions = args, dict(kwargs)
        self.conditions.pop("return_dict")
        self.output = output[0]


# --- adversarial and reconstruction losses ---


def test_adversarial_losses_are_log_likelihoods():
    generator = torch.Generator().manual_seed(0)
    real, fake = 4 * torch.randn(2, 16, generator=generator)
    torch.testing.assert_close(generator_loss(fake), -F.logsigmoid(fake).mean())
    expected = -torch.sigmoid(real).log().mean() - (1 - torch.sigmoid(fake)).log().mean()
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    assert discriminator_loss(torch.full((2,), 1e4), torch.full((2,), -1e4)) == 0
    assert generator_loss(torch.full((2,), -1e4)) == 1e4  # no saturation, no infinity
    torch.testing.assert_close(discriminator_loss(torch.zeros(2), torch.zeros(2)), 2 * torch.tensor(2.0).log())


def test_reconstruction_losses_follow_the_networks(make_frames):
    frame, target = make_frames(2, seed=1), make_frames(2, seed=2)
    torch.manual_seed(0)
    discriminator, perceptual_loss = FrameDiscriminator(32, (8, 8, 8, 8)), SSIMPyramidLoss()
    assert set(reconstruction_losses(frame, target, None, None)) == {"l1"}
    assert set(reconstruction_losses(frame, target, perceptual_loss, None)) == {"l1", "perceptual"}
    assert set(reconstruction_losses(frame, target, None, discriminator)) == {"l1", "adversarial"}
    losses = reconstruction_losses(frame, target, perceptual_loss, discriminator)
    assert set(losses) == {"l1", "perceptual", "adversarial"}
    torch.testing.assert_close(losses["l1"], (frame - target).abs().mean())
    torch.testing.assert_close(losses["perceptual"], perceptual_loss(frame, target))
    torch.testing.assert_close(losses["adversarial"], -F.logsigmoid(discriminator(frame)).mean())
    assert all(loss.ndim == 0 for loss in losses.values())
    perfect = reconstruction_losses(target, target, perceptual_loss, None)
    torch.testing.assert_close(torch.stack(list(perfect.values())), torch.zeros(2), atol=1e-6, rtol=0)


def test_a_weight_counts_pixels_of_l1_alone(make_frames):
    frame, target = make_frames(2, seed=1), make_frames(2, seed=2)
    perceptual_loss = SSIMPyramidLoss()
    plain = reconstruction_losses(frame, target, perceptual_loss, None)
    weight = torch.ones(2, 1, 32, 32)
    torch.testing.assert_close(reconstruction_losses(frame, target, perceptual_loss, None, weight), plain)
    weight[1, :, 4:8, 20:32] = 5.0
    weighted = reconstruction_losses(frame, target, perceptual_loss, None, weight)
    more = 4 * (frame - target).abs()[1, :, 4:8, 20:32].sum() / frame.numel()
    torch.testing.assert_close(weighted["l1"], plain["l1"] + more)
    assert torch.equal(weighted["perceptual"], plain["perceptual"])


# --- motion denoising loss ---


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_loss_against_its_formula(make_unet, condition, prediction_type):
    unet, scheduler, codes = make_unet(condition), make_scheduler(prediction_type), make_codes()
    seen = Seen(unet)
    loss = motion_denoising_loss(unet, scheduler, codes, [1, 2, 3])

    start, end = codes[:, :1].double(), codes[:, -1].double()
    frames = {"none": codes, "start": codes[:, 1:], "start_end": codes[:, 1:-1]}[condition].double()
    origin = torch.tensor(MEAN).double() if condition == "none" else start
    clean = ((frames - origin) / torch.tensor(STD).double()).transpose(1, 2)  # (B, M, L')
    assert seen.sample.shape == clean.shape
    expected_conditions = {"start_motion_code": start[:, 0], "end_motion_code": end}
    for name in {"none": (), "start": ("start_motion_code",)}.get(condition, expected_conditions):
        assert torch.equal(seen.conditions.pop(name).double(), expected_conditions[name])
    assert not seen.conditions

    betas = torch.linspace(1e-4, 0.02, 1000).double()
    alpha_bar = (1 - betas).cumprod(dim=0)[seen.timesteps][:, None, None]
    noise = (seen.sample - alpha_bar.sqrt() * clean) / (1 - alpha_bar).sqrt()
    assert noise.mean().abs() < 0.2 and abs(noise.std() - 1) < 0.2
    target = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean,
    }[prediction_type]
    expected = (seen.output.double() - target).square().mean()
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)
    assert loss.ndim == 0 and loss.requires_grad


def test_timesteps_cover_the_schedule(make_unet):
    unet, codes, scheduler = make_unet("none"), make_codes(), make_scheduler(num_train_timesteps=4)
    seen, timesteps = Seen(unet), []
    with torch.no_grad():
        for seed in range(20):
            motion_denoising_loss(unet, scheduler, codes, [seed] * 3)
            assert len(set(seen.timesteps.tolist())) == 1  # the generators are alike
            motion_denoising_loss(unet, make_scheduler(num_train_timesteps=4), codes, range(seed, seed + 3))
            timesteps += seen.timesteps.tolist()
    assert set(timesteps) == {0, 1, 2, 3}


@pytest.mark.parametrize("condition", ["start", "start_end"])
def test_linear_motion_condition_denoises_residuals(make_unet, condition):
    unet, scheduler, codes = make_unet(condition), make_scheduler(), make_codes()
    shift = torch.linspace(-3, 3, MOTION_DIM)
    seen = Seen(unet)
    loss = motion_denoising_loss(unet, scheduler, codes, [1, 2, 3])
    sample, timesteps, start = seen.sample, seen.timesteps, seen.conditions["start_motion_code"]
    shifted_loss = motion_denoising_loss(unet, scheduler, codes + shift, [1, 2, 3])
    torch.testing.assert_close(seen.sample, sample, rtol=0, atol=1e-5)
    assert torch.equal(seen.timesteps, timesteps)
    torch.testing.assert_close(seen.conditions["start_motion_code"], start + shift)
    assert not torch.isclose(loss, shifted_loss, rtol=1e-3)  # but the condition reaches the output


def test_without_condition_the_codes_themselves_are_denoised(make_unet):
    unet, scheduler, codes = make_unet("none"), make_scheduler(), make_codes()
    seen = Seen(unet)
    motion_denoising_loss(unet, scheduler, codes, [1, 2, 3])
    sample = seen.sample
    motion_denoising_loss(unet, scheduler, codes + 1, [1, 2, 3])
    assert (seen.sample - sample).abs().max() > 0.1


class PerfectUNet(MotionUNet1DModel):
    """Knows the clean codes, and so what the noisy sample was made of."""

    def know(self, codes: torch.Tensor, scheduler: DDPMScheduler) -> "PerfectUNet":
        self.clean, self.scheduler = self.standardize(codes).double(), scheduler
        return self

    def forward(self, sample, timestep, start_motion_code=None, end_motion_code=None, return_dict=True):
        alpha_bar = self.scheduler.alphas_cumprod.double()[timestep][:, None, None]
        noise = (sample - alpha_bar.sqrt() * self.clean) / (1 - alpha_bar).sqrt()
        velocity = alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * self.clean
        answers = {"epsilon": noise, "sample": self.clean, "v_prediction": velocity}
        return (answers[self.scheduler.config.prediction_type].float(),)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_a_perfect_prediction_costs_nothing(condition, prediction_type):
    scheduler, codes = make_scheduler(prediction_type), make_codes()
    unet = PerfectUNet(
        motion_dim=MOTION_DIM,
        sequence_length=LENGTH,
        block_out_channels=(8,),
        attention_levels=(),
        condition=condition,
        motion_mean=MEAN,
        motion_std=STD,
    ).know(codes, scheduler)
    assert motion_denoising_loss(unet, scheduler, codes, [1, 2, 3]) < 1e-7
    assert motion_denoising_loss(unet, scheduler, codes, [1, 2, 3], snr_gamma=5.0) < 1e-7
    unet.know(codes + torch.randn(codes.shape), scheduler)
    assert motion_denoising_loss(unet, scheduler, codes, [1, 2, 3]) > 1e-3


@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_batch_costs_the_mean_of_its_samples(make_unet, condition):
    unet, scheduler, codes = make_unet(condition), make_scheduler(), make_codes()
    together = motion_denoising_loss(unet, scheduler, codes, [7, 8, 9], snr_gamma=5.0)
    alone = [motion_denoising_loss(unet, scheduler, codes[i : i + 1], [7 + i], snr_gamma=5.0) for i in range(BATCH)]
    torch.testing.assert_close(together, torch.stack(alone).mean(), rtol=1e-5, atol=0)


def test_gradients_reach_every_weight(make_unet):
    unet = make_unet("start_end")
    motion_denoising_loss(unet, make_scheduler(), make_codes(), [1, 2, 3]).backward()
    without = [name for name, parameter in unet.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_snr_weights_against_their_formulas(make_unet, prediction_type):
    unet, scheduler, codes, gamma = make_unet(), make_scheduler(prediction_type), make_codes(1), 5.0
    seen, ratios = Seen(unet), []
    for seed in range(12):
        plain = motion_denoising_loss(unet, scheduler, codes, [seed]).item()
        weighted = motion_denoising_loss(unet, scheduler, codes, [seed], snr_gamma=gamma).item()
        alpha_bar = scheduler.alphas_cumprod[seen.timesteps].item()
        snr = alpha_bar / (1 - alpha_bar)
        weight = {
            "epsilon": min(snr, gamma) / snr,
            "v_prediction": min(snr, gamma) / (snr + 1),
            "sample": min(snr, gamma),
        }[prediction_type]
        assert weighted == pytest.approx(weight * plain, rel=1e-4)
        ratios.append(snr > gamma)
    assert True in ratios and False in ratios  # both sides of the bend were seen


@pytest.mark.parametrize(("prediction_type", "weight"), [("epsilon", 1.0), ("v_prediction", 0.0), ("sample", 0.0)])
def test_pure_noise_has_a_finite_weight(make_unet, prediction_type, weight):
    scheduler = make_scheduler(prediction_type, num_train_timesteps=2, rescale_betas_zero_snr=True)
    unet, codes = make_unet(), make_codes(1)
    seen = Seen(unet)
    for seed in range(20):
        plain = motion_denoising_loss(unet, scheduler, codes, [seed])
        weighted = motion_denoising_loss(unet, scheduler, codes, [seed], snr_gamma=5.0)
        assert torch.isfinite(plain) and torch.isfinite(weighted)
        if seen.timesteps.item() == 1:
            break
    assert seen.timesteps.item() == 1
    assert weighted.item() == pytest.approx(weight * plain.item(), rel=1e-5, abs=1e-7)
    weighted.backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in unet.parameters())


# --- noise of samples ---


@pytest.mark.parametrize("shape", [(2, 3), (20, 63), (3, 128, 128)])
def test_noise_depends_on_seed_and_position_alone(shape):
    positions = torch.tensor([0, 1, 2, 5, 900, 10**9, 2**40 - 1])
    noise, timesteps = draw_noise(3, positions, shape, 1000)
    order = torch.randperm(len(positions))
    again = [draw_noise(3, positions[i : i + 1], shape, 1000) for i in order]
    assert torch.equal(torch.cat([one for one, _ in again]), noise[order])
    assert torch.equal(torch.cat([one for _, one in again]), timesteps[order])
    other, _ = draw_noise(4, positions, shape, 1000)
    firsts = torch.cat([noise, other]).flatten(1)[:, :2]
    assert len(firsts.unique(dim=0)) == 2 * len(positions)


def test_noise_is_normal_and_timesteps_are_even():
    noise, timesteps = draw_noise(0, torch.arange(5000), (20,), 10)
    assert noise.mean().abs() < 0.01 and abs(noise.std() - 1) < 0.01
    assert abs(noise[1:].flatten() @ noise[:-1].flatten()) / noise[1:].numel() < 0.01  # neighbours are independent
    assert (timesteps.bincount(minlength=10) / 500 - 1).abs().max() < 0.2


@pytest.mark.parametrize("seed", [0, 1, 2**24, 20240131, 2**32 - 1])
def test_every_seed_of_a_run_has_noise(seed):
    assert draw_noise(seed, torch.tensor([0, 5]), (4,), 1000)[0].isfinite().all()
