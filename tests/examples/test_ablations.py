"""The papers' ablations, each from clips to video by the scripts' flags alone."""

from functools import partial
from pathlib import Path

import pytest
import torch

from leo_diffusers import LEOPipeline
from leo_diffusers.video_io import read_video


ANIMATOR = (
    "--resolution 32 --block_out_channels 16 16 32 32 --motion_head_layers 2 --gan_weight 0 --perceptual_loss none"
)
MOTION = (
    "--sequence_length 8 --block_out_channels 16 32 --attention_levels 1 --layers_per_block 1 "
    "--num_validation_samples 2 --num_inference_steps 2"
)
slow = partial(pytest.param, marks=pytest.mark.slow)
BRIEFLY = "--max_train_steps 1 --train_batch_size 2 --report_to none"


@pytest.fixture
def trained(run_example, clips_folder, tmp_path):
    def train(animator_flags: str, motion_flags: str) -> Path:
        animator, codes, leo = (tmp_path / name for name in ("animator", "codes", "leo"))
        data = ["--train_data_dir", clips_folder]
        run_example("train_lia.py", *data, "--output_dir", animator, *f"{ANIMATOR} {BRIEFLY} {animator_flags}".split())
        inputs = ["--pretrained_model_name_or_path", animator]
        run_example("extract_motion_codes.py", *inputs, *data, "--output_dir", codes, "--min_frames", 8)
        inputs += ["--motion_codes_dir", codes]
        run_example("train_lmdm.py", *inputs, "--output_dir", leo, *f"{MOTION} {BRIEFLY} {motion_flags}".split())
        return leo

    return train


@pytest.mark.parametrize(
    ("basis", "num_directions", "latent_dim", "condition"),
    [
        slow("orthogonal", 5, 32, "start"),  # LIA Table VII: number of directions
        slow("orthogonal", 100, 128, "start"),
        slow("free", 10, 32, "start"),  # LIA Table VIII: random basis
        ("none", 32, 32, "start"),  # LIA Table VI: no dictionary
        slow("orthogonal", 20, 32, "none"),  # LEO Table 4: no Linear Motion Condition
    ],
)
def test_ablation(trained, clips_folder, basis, num_directions, latent_dim, condition):
    animator_flags = f"--motion_basis {basis} --motion_dim {num_directions} --latent_dim {latent_dim}"
    leo = LEOPipeline.from_pretrained(trained(animator_flags, f"--condition {condition}"))
    config = leo.animator.config
    assert (config.motion_basis, config.motion_dim, config.latent_dim) == (basis, num_directions, latent_dim)
    assert leo.motion_unet.config.condition == condition
    leo.set_progress_bar_config(disable=True)
    image = read_video(clips_folder / "a.mp4", num_frames=1)[0]
    # Without the condition motion cannot go on from a frame; its codes can be shown on one.
    codes = None if condition == "start" else torch.randn(8, num_directions)
    output = leo(image, num_frames=8, num_inference_steps=2, motion_codes=codes, output_type="pt")
    assert output.frames.shape == (1, 8, 3, 32, 32) and torch.isfinite(output.frames).all()
    assert output.motion_codes.shape == (1, 8, num_directions)
