from importlib.util import find_spec
from pathlib import Path

import diffusers
import pytest
import torch
import transformers
from diffusers import DiffusionPipeline
from PIL import Image, ImageFilter

from leo_diffusers.pipelines.image_editor import load_detector


LETTERS = "abcdefghijklmnopqrstuvwxyz ,."
HIDDEN = 32  # width of every text encoder


def clip_tokenizer() -> transformers.CLIPTokenizer:
    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    return transformers.CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)


def clip_text_encoder(kind=transformers.CLIPTextModel) -> torch.nn.Module:
    config = transformers.CLIPTextConfig(
        vocab_size=2 + 2 * len(LETTERS),
        hidden_size=HIDDEN,
        projection_dim=HIDDEN,
        intermediate_size=HIDDEN,
        num_attention_heads=4,
        num_hidden_layers=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return kind(config)


def autoencoder(latent_channels: int = 4) -> diffusers.AutoencoderKL:
    """Halves the sides once."""
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=latent_channels,
        norm_num_groups=2,
        sample_size=64,
        shift_factor=0.0,
    )


UNET_CONFIG = {
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "cross_attention_dim": HIDDEN,
    "norm_num_groups": 1,
}
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


def unet(in_channels: int = 4, **config) -> diffusers.UNet2DConditionModel:
    up_blocks = ("CrossAttnUpBlock2D", "UpBlock2D")
    sizes = {"in_channels": in_channels, "out_channels": 4, "sample_size": 32}
    return diffusers.UNet2DConditionModel(**{**UNET_CONFIG, **sizes, "up_block_types": up_blocks, **config})


def controlnet(**config) -> diffusers.ControlNetModel:
    network = diffusers.ControlNetModel(
        **{**UNET_CONFIG, "in_channels": 4, "conditioning_embedding_out_channels": (2, 4), **config}
    )
    return speak_up(network)


def speak_up(network: torch.nn.Module) -> torch.nn.Module:
    """ControlNets start at zero: they would not be heard."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "controlnet" in name:
                parameter.add_(torch.randn(parameter.shape))
    return network


def stable_diffusion(name: str) -> DiffusionPipeline:
    components = {
        "unet": unet(in_channels=8 if "InstructPix2Pix" in name else 4),
        "vae": autoencoder(),
        "text_encoder": clip_text_encoder(),
        "tokenizer": clip_tokenizer(),
        "scheduler": diffusers.DDIMScheduler(clip_sample=False, steps_offset=1, set_alpha_to_one=False),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    if "ControlNet" in name:
        components["controlnet"] = controlnet()
    return getattr(diffusers, name)(**components)


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


@pytest.fixture
def make_image_pipeline():
    return build_image_pipeline


@pytest.fixture(scope="session")
def stable_diffusion_folder(tmp_path_factory) -> Path:
    """A saved text-to-image pipeline, as most models of the Hub are."""
    folder = tmp_path_factory.mktemp("editors") / "stable-diffusion"
    build_image_pipeline("StableDiffusionPipeline").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def controlnet_folder(tmp_path_factory) -> Path:
    """A saved ControlNet alone."""
    folder = tmp_path_factory.mktemp("editors") / "controlnet"
    torch.manual_seed(1)
    controlnet().save_pretrained(folder)
    return folder


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


@pytest.fixture
def detectors() -> None:
    """For tests of controlnet-aux, which `pip install .[test]` brings along."""
    if find_spec("controlnet_aux") is None:
        pytest.skip('controlnet-aux is not installed: `pip install ".[test]"`')
    load_detector("canny")  # its import is silent, unlike one in a test
