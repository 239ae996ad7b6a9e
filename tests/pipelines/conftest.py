from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers import DiffusionPipeline
from diffusers.callbacks import PipelineCallback
from PIL import Image, ImageFilter, ImageOps

from leo_diffusers import LEOPipeline
from tests.conftest import build_leo_pipeline
from tests.support.tiny_diffusers import (
    HIDDEN,
    LETTERS,
    autoencoder,
    clip_text_encoder,
    clip_tokenizer,
    controlnet,
    speak_up,
    stable_diffusion,
    unet,
)


XL_CONFIG = {
    "attention_head_dim": (2, 4),
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "cross_attention_dim": 2 * HIDDEN,
    "projection_class_embeddings_input_dim": 6 * 8 + HIDDEN,
}
SD3_CONFIG = {
    "sample_size": 32,
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 2 * HIDDEN,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 2 * HIDDEN,
    "out_channels": 4,
}
FLUX_CONFIG = {
    "in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": HIDDEN,
    "pooled_projection_dim": HIDDEN,
    "axes_dims_rope": (4, 4, 8),
}


def stable_diffusion_xl(name: str) -> DiffusionPipeline:
    components = {
        "unet": unet(**XL_CONFIG),
        "vae": autoencoder(),
        "text_encoder": clip_text_encoder(),
        "text_encoder_2": clip_text_encoder(transformers.CLIPTextModelWithProjection),
        "tokenizer": clip_tokenizer(),
        "tokenizer_2": clip_tokenizer(),
        "scheduler": diffusers.EulerDiscreteScheduler(),
        "add_watermarker": False,
    }
    if "ControlNet" in name:
        components["controlnet"] = controlnet(**XL_CONFIG)
    return getattr(diffusers, name)(**components)


def t5_parts(width: int = HIDDEN) -> tuple[torch.nn.Module, transformers.T5Tokenizer]:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -2.0), ("▁", -1.0), *((letter, -1.0) for letter in LETTERS)]
    config = transformers.T5Config(
        vocab_size=len(pieces), d_model=width, d_kv=8, d_ff=HIDDEN, num_layers=1, num_heads=4
    )
    return transformers.T5EncoderModel(config), transformers.T5Tokenizer(vocab=pieces, extra_ids=0)


def flux(name: str) -> DiffusionPipeline:
    text_encoder_2, tokenizer_2 = t5_parts()
    components = {
        "transformer": diffusers.FluxTransformer2DModel(**FLUX_CONFIG),
        "vae": autoencoder(latent_channels=1),
        "text_encoder": clip_text_encoder(),
        "text_encoder_2": text_encoder_2,
        "tokenizer": clip_tokenizer(),
        "tokenizer_2": tokenizer_2,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
    }
    if "ControlNet" in name:
        components["controlnet"] = speak_up(diffusers.FluxControlNetModel(**FLUX_CONFIG))
    return getattr(diffusers, name)(**components)


def stable_diffusion_3(name: str) -> DiffusionPipeline:
    text_encoder_3, tokenizer_3 = t5_parts(2 * HIDDEN)
    components = {
        "transformer": diffusers.SD3Transformer2DModel(**SD3_CONFIG),
        "vae": autoencoder(),
        "text_encoder": clip_text_encoder(transformers.CLIPTextModelWithProjection),
        "text_encoder_2": clip_text_encoder(transformers.CLIPTextModelWithProjection),
        "text_encoder_3": text_encoder_3,
        "tokenizer": clip_tokenizer(),
        "tokenizer_2": clip_tokenizer(),
        "tokenizer_3": tokenizer_3,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(),
    }
    if "ControlNet" in name:
        components["controlnet"] = speak_up(diffusers.SD3ControlNetModel(**SD3_CONFIG))
    return getattr(diffusers, name)(**components)


def build_image_pipeline(name: str) -> DiffusionPipeline:
    """A real pipeline of diffusers with tiny random networks, by its class name."""
    torch.manual_seed(0)
    families = {"Flux": flux, "Diffusion3": stable_diffusion_3, "XL": stable_diffusion_xl, "": stable_diffusion}
    pipeline = next(build for mark, build in families.items() if mark in name)(name)
    pipeline.set_progress_bar_config(disable=True)
    for network in pipeline.components.values():
        if isinstance(network, torch.nn.Module):
            network.eval()
    return pipeline


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def code_of(pipeline: LEOPipeline, image: Image.Image) -> torch.Tensor:
    with torch.no_grad():
        return pipeline.animator.encode_source(pipeline.preprocess(image)).motion_code


def painted(color: str = "red", size: tuple[int, int] = (20, 20)) -> Image.Image:
    return Image.new("RGB", size, color)


class StepRecorder(PipelineCallback):
    """A callback object of diffusers that keeps the steps it was called after."""

    tensor_inputs = ["latents"]

    def __init__(self):
        super().__init__()
        self.steps = []

    def callback_fn(self, pipeline, step_index, timestep, callback_kwargs):
        self.steps.append(step_index)
        return callback_kwargs


class Inverter:
    """An editor that needs no networks: a negative, kept in a list."""

    def __init__(self):
        self.seen = []

    def __call__(self, image: Image.Image, prompt: str) -> Image.Image:
        self.seen.append((image, prompt))
        return ImageOps.invert(image)


@pytest.fixture
def make_leo_pipeline():
    return build_leo_pipeline


@pytest.fixture
def leo_pipeline() -> LEOPipeline:
    return build_leo_pipeline()


@pytest.fixture
def inverter() -> Inverter:
    return Inverter()


@pytest.fixture
def edited_frame(clip_frames) -> Image.Image:
    """The clip's first frame, edited as `inverter` would."""
    return ImageOps.invert(Image.fromarray(clip_frames[0]))


@pytest.fixture
def other_photo(photo) -> Image.Image:
    return photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


@pytest.fixture
def picture() -> Image.Image:
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((40, 40))


@pytest.fixture
def make_image_pipeline():
    return build_image_pipeline


@pytest.fixture(scope="session")
def instruct_pix2pix_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("editors") / "instruct-pix2pix"
    build_image_pipeline("StableDiffusionInstructPix2PixPipeline").save_pretrained(folder)
    return folder


@pytest.fixture
def edges():
    """A detector that needs no package."""

    def detect(image: Image.Image) -> Image.Image:
        return image.convert("L").filter(ImageFilter.FIND_EDGES)

    return detect
