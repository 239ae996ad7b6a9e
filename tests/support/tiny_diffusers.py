"""Tiny random networks of the kinds that diffusers pipelines are made of."""

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline


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
