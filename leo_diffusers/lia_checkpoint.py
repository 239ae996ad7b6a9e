"""LIA's released checkpoint files -> LIAModel: the key map, and what a file says about its own architecture."""

import re
from pathlib import Path

import torch

from .models.lia import LIAModel


# Released key -> ours. "{n}" counts the encoder's blocks from the frame's size down, "{k}" the motion head's layers
# and "{m}" the generator's scales from 8 pixels up, whose two styled convolutions are number "{even}" and "{odd}".
KEY_MAP = {
    "enc.net_app.convs.0.0.weight": "appearance_encoder.from_rgb.weight",
    "enc.net_app.convs.0.1.bias": "appearance_encoder.from_rgb.bias",
    "enc.net_app.convs.{n+1}.conv1.0.weight": "appearance_encoder.blocks.{n}.conv1.weight",
    "enc.net_app.convs.{n+1}.conv1.1.bias": "appearance_encoder.blocks.{n}.conv1.bias",
    "enc.net_app.convs.{n+1}.conv2.1.weight": "appearance_encoder.blocks.{n}.conv2.weight",
    "enc.net_app.convs.{n+1}.conv2.2.bias": "appearance_encoder.blocks.{n}.conv2.bias",
    "enc.net_app.convs.{n+1}.skip.1.weight": "appearance_encoder.blocks.{n}.skip.weight",
    "enc.net_app.convs.{last}.weight": "appearance_encoder.to_latent.weight",
    "enc.fc.{k}.weight": "motion_head.layers.{k}.weight",
    "enc.fc.{k}.bias": "motion_head.layers.{k}.bias",
    "dec.direction.weight": "motion_dictionary.directions",
    "dec.input.input": "flow_generator.constant",
    "dec.conv1.conv.weight": "flow_generator.conv_in.weight",
    "dec.conv1.conv.modulation.weight": "flow_generator.conv_in.modulation.weight",
    "dec.conv1.conv.modulation.bias": "flow_generator.conv_in.modulation.bias",
    "dec.conv1.activate.bias": "flow_generator.conv_in.bias",
    "dec.convs.{even}.conv.weight": "flow_generator.blocks.{m}.upsample_conv.weight",
    "dec.convs.{even}.conv.modulation.weight": "flow_generator.blocks.{m}.upsample_conv.modulation.weight",
    "dec.convs.{even}.conv.modulation.bias": "flow_generator.blocks.{m}.upsample_conv.modulation.bias",
    "dec.convs.{even}.activate.bias": "flow_generator.blocks.{m}.upsample_conv.bias",
    "dec.convs.{odd}.conv.weight": "flow_generator.blocks.{m}.conv.weight",
    "dec.convs.{odd}.conv.modulation.weight": "flow_generator.blocks.{m}.conv.modulation.weight",
    "dec.convs.{odd}.conv.modulation.bias": "flow_generator.blocks.{m}.conv.modulation.bias",
    "dec.convs.{odd}.activate.bias": "flow_generator.blocks.{m}.conv.bias",
    "dec.to_flows.{m}.bias": "flow_generator.blocks.{m}.flow_head.bias",
    "dec.to_flows.{m}.conv.weight": "flow_generator.blocks.{m}.flow_head.weight",
    "dec.to_flows.{m}.conv.modulation.weight": "flow_generator.blocks.{m}.flow_head.modulation.weight",
    "dec.to_flows.{m}.conv.modulation.bias": "flow_generator.blocks.{m}.flow_head.modulation.bias",
    "dec.to_rgbs.{m}.bias": "flow_generator.blocks.{m}.rgb_head.bias",
    "dec.to_rgbs.{m}.conv.0.weight": "flow_generator.blocks.{m}.rgb_head.conv.weight",
    "dec.to_rgbs.{m}.conv.1.bias": "flow_generator.blocks.{m}.rgb_head.conv.bias",
}

# In the files and without effect: blur kernels are constants, noise and the RGB head at 4 pixels are never used.
UNUSED_KEYS = re.compile(r".*\.kernel|dec\..*noise\.weight|dec\.to_rgb1\..*")
MAX_LISTED = 8  # keys that an error message names


def expand_key_map(num_blocks: int, num_layers: int) -> dict[str, str]:
    r"""
    Writes [`KEY_MAP`] out for one architecture.

    Args:
        num_blocks (`int`): Residual blocks of the encoder, as many as scales of the generator.
        num_layers (`int`): Layers of the motion head.

    Returns:
        `dict[str, str]`: Every released key that is used to our key, each once.
    """
    numbers = [
        {"n": i, "n+1": i + 1, "m": i, "even": 2 * i, "odd": 2 * i + 1, "last": num_blocks + 1}
        for i in range(num_blocks)
    ]
    layers = [{"k": k} for k in range(num_layers)]
    key_map = {}
    for theirs, ours in KEY_MAP.items():
        for fields in layers if "{k}" in theirs else numbers:
            key_map[theirs.format_map(fields)] = ours.format_map(fields)
    return key_map


def infer_config(state_dict: dict[str, torch.Tensor]) -> dict[str, int | tuple[int, ...]]:
    r"""
    Reads the architecture off a released state dict.

    Args:
        state_dict (`dict[str, torch.Tensor]`): What the key `gen` of the file holds.

    Returns:
        `dict`: Arguments of [`LIAModel`].

    Raises:
        KeyError: Where a key that tells a size is missing.
    """

    def count(pattern: str) -> int:
        return sum(re.fullmatch(pattern, key) is not None for key in state_dict)

    num_blocks = count(r"enc\.net_app\.convs\.\d+\.skip\.1\.weight")
    channels = [state_dict["enc.net_app.convs.0.0.weight"].shape[0]]
    channels += [state_dict[f"enc.net_app.convs.{n + 1}.skip.1.weight"].shape[0] for n in range(num_blocks)]
    latent_dim, motion_dim = state_dict["dec.direction.weight"].shape
    return {
        "frame_size": 4 * 2**num_blocks,
        "latent_dim": latent_dim,
        "motion_dim": motion_dim,
        "block_out_channels": tuple(channels),
        "motion_head_layers": count(r"enc\.fc\.\d+\.weight"),
    }


def read_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    r"""
    Reads `torch.save({"gen": state_dict}, path)` without running any code that the file may hold.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where the file is not of that form.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint file {path}.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what torch raises on foreign bytes has no common base; no code of the file is run
        raise ValueError(
            f"{path} is not a LIA checkpoint: it cannot be read as a PyTorch file of plain tensors."
        ) from error
    state_dict = checkpoint.get("gen") if isinstance(checkpoint, dict) else None
    are_tensors = isinstance(state_dict, dict) and all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state_dict.items()
    )
    if not are_tensors:
        raise ValueError(f'{path} is not a LIA checkpoint: the key "gen" with the generator\'s tensors is missing.')
    return state_dict


def load_lia_checkpoint(path: str | Path) -> LIAModel:
    r"""
    Loads a checkpoint in LIA's released format, such as vox.pt, taichi.pt or ted.pt.

    Args:
        path (`str` or `Path`): The file. Its frame size and widths are read from its tensors.

    Returns:
        [`LIAModel`]: With the file's weights, float32, in evaluation mode.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where the file is not a LIA checkpoint; unknown, missing and misshapen keys are listed.
    """
    state_dict = read_state_dict(path)
    try:
        model = LIAModel(**infer_config(state_dict))
    except KeyError as error:
        raise ValueError(f"{path} is not a LIA checkpoint: the key {error} is missing.") from error
    except (ValueError, IndexError) as error:
        raise ValueError(f"{path} is not a LIA checkpoint: its shapes fit no such network ({error}).") from error
    key_map = expand_key_map(len(model.appearance_encoder.blocks), len(model.motion_head.layers))
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    # The files keep singleton axes that ours do without: (1, out, in, 3, 3) weights, (1, C, 1, 1) biases.
    misshapen = [
        f"{theirs} {tuple(state_dict[theirs].shape)}"
        for theirs, ours in key_map.items()
        if theirs in state_dict
        and [n for n in state_dict[theirs].shape if n > 1] != [n for n in shapes[ours] if n > 1]
    ]
    problems = {
        "unknown": [key for key in state_dict if key not in key_map and not UNUSED_KEYS.fullmatch(key)],
        "missing": [key for key in key_map if key not in state_dict],
        "misshapen": misshapen,
    }
    if any(problems.values()):
        listed = [
            f"{len(keys)} {kind}: {', '.join(keys[:MAX_LISTED])}{', ...' if len(keys) > MAX_LISTED else ''}"
            for kind, keys in problems.items()
            if keys
        ]
        raise ValueError(f"{path} does not hold the weights of a LIA generator; keys {'; '.join(listed)}.")
    model.load_state_dict({ours: state_dict[theirs].reshape(shapes[ours]).float() for theirs, ours in key_map.items()})
    return model.eval()
