import collections
import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from leo_diffusers import LIAModel
from leo_diffusers.lia_checkpoint import KEY_MAP, expand_key_map, infer_config, load_lia_checkpoint, read_state_dict


NO_EFFECT = re.compile(r".*kernel|.*noise\.weight|dec\.to_rgb1\..*")


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


# --- what a good file becomes ---


def test_the_made_up_keys_are_the_released_ones(shared_dir, make_released_state_dict):
    released = json.loads((shared_dir / "reference" / "lia_state_dict_shapes.json").read_text())["64"]
    made_up = make_released_state_dict(frame_size=64, num_fc=5)
    assert set(made_up) == set(released)
    for key, tensor in made_up.items():
        assert tensor.ndim == len(released[key]), key
        assert [n == 1 for n in tensor.shape] == [n == 1 for n in released[key]], key


def test_the_architecture_is_read_off_the_tensors(released_checkpoint):
    model = load_lia_checkpoint(released_checkpoint)
    config = {name: model.config[name] for name in ("frame_size", "latent_dim", "motion_dim", "motion_head_layers")}
    assert config == {"frame_size": 32, "latent_dim": 10, "motion_dim": 4, "motion_head_layers": 2}
    assert tuple(model.config.block_out_channels) == (6, 8, 10, 12)
    assert not model.config.align_corners and not model.config.warp_source_image
    assert model.config.motion_basis == "orthogonal"
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("config", [{"frame_size": 64}, {"frame_size": 128, "num_fc": 5}, {"motion_dim": 7}])
def test_other_architectures(tmp_path, make_released_state_dict, config):
    path = save(tmp_path / "other.pt", {"gen": make_released_state_dict(**config)})
    size = config.get("frame_size", 32)
    model = load_lia_checkpoint(path)
    assert model.config.frame_size == size and model.config.motion_dim == config.get("motion_dim", 4)
    with torch.no_grad():
        assert torch.isfinite(model(torch.zeros(1, 3, size, size), torch.zeros(1, 3, size, size)).sample).all()


def test_every_key_is_used_once(released_checkpoint, make_released_state_dict):
    state_dict, model = make_released_state_dict(), load_lia_checkpoint(released_checkpoint)
    key_map = expand_key_map(num_blocks=3, num_layers=2)
    assert set(key_map) == {key for key in state_dict if not NO_EFFECT.fullmatch(key)}
    assert collections.Counter(key_map.values()) == collections.Counter(model.state_dict().keys())
    for theirs, ours in key_map.items():
        # Every made-up tensor is different, so that one in another's place would show.
        assert torch.equal(model.state_dict()[ours].flatten(), state_dict[theirs].flatten()), theirs


def test_a_few_keys_by_hand(released_checkpoint, make_released_state_dict):
    theirs, model = make_released_state_dict(), load_lia_checkpoint(released_checkpoint)
    pairs = {
        "enc.net_app.convs.0.0.weight": model.appearance_encoder.from_rgb.weight,
        "enc.net_app.convs.4.weight": model.appearance_encoder.to_latent.weight,
        "enc.net_app.convs.2.skip.1.weight": model.appearance_encoder.blocks[1].skip.weight,
        "enc.fc.1.bias": model.motion_head.layers[1].bias,
        "dec.direction.weight": model.motion_dictionary.directions,
        "dec.input.input": model.flow_generator.constant,
        "dec.conv1.activate.bias": model.flow_generator.conv_in.bias,
        "dec.convs.0.conv.weight": model.flow_generator.blocks[0].upsample_conv.weight,
        "dec.convs.5.conv.modulation.bias": model.flow_generator.blocks[2].conv.modulation.bias,
        "dec.to_flows.2.conv.weight": model.flow_generator.blocks[2].flow_head.weight,
        "dec.to_rgbs.1.conv.1.bias": model.flow_generator.blocks[1].rgb_head.conv.bias,
        "dec.to_rgbs.1.bias": model.flow_generator.blocks[1].rgb_head.bias,
    }
    for key, parameter in pairs.items():
        assert torch.equal(parameter.flatten(), theirs[key].flatten()), key


def test_the_key_map_needs_no_file():
    assert len(KEY_MAP) == len(set(KEY_MAP.values()))
    with torch.device("meta"):
        names = set(LIAModel().state_dict())
    assert set(expand_key_map(num_blocks=6, num_layers=5).values()) == names


def test_keys_without_effect_may_be_absent_or_anything(tmp_path, released_checkpoint, make_released_state_dict):
    expected = load_lia_checkpoint(released_checkpoint).state_dict()
    state_dict = make_released_state_dict()
    bare = {key: tensor for key, tensor in state_dict.items() if not NO_EFFECT.fullmatch(key)}
    odd = {key: torch.full((7,), torch.nan) if NO_EFFECT.fullmatch(key) else t for key, t in state_dict.items()}
    for content in (bare, odd):
        loaded = load_lia_checkpoint(save(tmp_path / "other.pt", {"gen": content})).state_dict()
        assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_other_top_level_keys_are_ignored(tmp_path, released_checkpoint, make_released_state_dict):
    content = {
        "gen": make_released_state_dict(),
        "dis": {"convs.0.weight": torch.zeros(3)},
        "g_optim": {"state": {}, "param_groups": [{"lr": 0.002}]},
        "start_iter": 800_000,
    }
    loaded = load_lia_checkpoint(save(tmp_path / "training.pt", content)).state_dict()
    expected = load_lia_checkpoint(released_checkpoint).state_dict()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)


def test_half_precision_files_become_float32(tmp_path, make_released_state_dict):
    state_dict = {key: tensor.half() for key, tensor in make_released_state_dict().items()}
    model = load_lia_checkpoint(save(tmp_path / "half.pt", {"gen": state_dict}))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_ordered_dicts_and_the_old_file_format(tmp_path, make_released_state_dict):
    state_dict = collections.OrderedDict(make_released_state_dict())
    path = tmp_path / "old.pt"
    torch.save({"gen": state_dict}, path, _use_new_zipfile_serialization=False)
    assert load_lia_checkpoint(str(path)).config.frame_size == 32
    assert list(read_state_dict(path)) == list(state_dict)


def test_infer_config(make_released_state_dict):
    assert LIAModel(**infer_config(make_released_state_dict())).config.frame_size == 32


def test_recorded_images_at_64(shared_dir, reference_checkpoint):
    recorded = load_file(shared_dir / "reference" / "lia_64.safetensors")
    model = load_lia_checkpoint(reference_checkpoint(64))
    with torch.no_grad():
        frame = model(recorded["source"], recorded["driving"]).sample
    torch.testing.assert_close(frame, recorded["image_absolute"], rtol=0, atol=5e-4)


# --- what a bad file says ---


def test_one_error_lists_unknown_missing_and_misshapen_keys(tmp_path, make_released_state_dict):
    state_dict = make_released_state_dict()
    state_dict["dec.mapping.weight"] = torch.zeros(3)
    state_dict["enc.fc.0.gain"] = torch.zeros(1)
    del state_dict["dec.to_flows.1.bias"]
    state_dict["dec.input.input"] = torch.zeros(1, 12, 8, 8)
    state_dict["dec.convs.0.conv.modulation.weight"] = torch.zeros(10, 12)  # transposed
    path = save(tmp_path / "bad.pt", {"gen": state_dict})
    with pytest.raises(ValueError) as error:
        load_lia_checkpoint(path)
    message = str(error.value)
    assert "\n" not in message and str(path) in message
    assert "2 unknown: dec.mapping.weight, enc.fc.0.gain" in message
    assert "1 missing: dec.to_flows.1.bias" in message
    assert "2 misshapen: " in message
    assert "dec.input.input (1, 12, 8, 8)" in message
    assert "dec.convs.0.conv.modulation.weight (10, 12)" in message


def test_a_long_list_is_cut(tmp_path, make_released_state_dict):
    state_dict = make_released_state_dict() | {f"extra.{i}": torch.zeros(1) for i in range(50)}
    with pytest.raises(ValueError, match="50 unknown: extra.0, .*, \\.\\.\\.") as error:
        load_lia_checkpoint(save(tmp_path / "long.pt", {"gen": state_dict}))
    assert len(str(error.value)) < 1000 and "extra.20" not in str(error.value)


def test_weights_of_data_parallel_training_are_unknown_keys(tmp_path, make_released_state_dict):
    state_dict = {f"module.{key}": tensor for key, tensor in make_released_state_dict().items()}
    with pytest.raises(ValueError, match="is not a LIA checkpoint|does not hold the weights of a LIA generator"):
        load_lia_checkpoint(save(tmp_path / "parallel.pt", {"gen": state_dict}))


@pytest.mark.parametrize("key", ["enc.net_app.convs.0.0.weight", "enc.net_app.convs.2.skip.1.weight"])
@pytest.mark.parametrize("tensor", [None, torch.tensor(1.0), torch.zeros(3), torch.zeros(2, 2, 2, 2)])
def test_keys_that_tell_sizes_may_be_wrong_too(tmp_path, make_released_state_dict, key, tensor):
    state_dict = make_released_state_dict()
    if tensor is None:
        del state_dict[key]
    else:
        state_dict[key] = tensor
    with pytest.raises(ValueError, match=r"bad\.pt (is not a LIA checkpoint|does not hold)"):
        load_lia_checkpoint(save(tmp_path / "bad.pt", {"gen": state_dict}))


@pytest.mark.parametrize("tensor", [None, torch.tensor(1.0), torch.zeros(3), torch.zeros(4, 10), torch.zeros(2, 2, 2)])
def test_the_dictionary_may_be_wrong_too(tmp_path, make_released_state_dict, tensor):
    state_dict = make_released_state_dict()
    if tensor is None:
        del state_dict["dec.direction.weight"]
    else:
        state_dict["dec.direction.weight"] = tensor
    with pytest.raises(ValueError, match=r"bad\.pt (is not a LIA checkpoint|does not hold)"):
        load_lia_checkpoint(save(tmp_path / "bad.pt", {"gen": state_dict}))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"this is text, not a checkpoint\n",
        b"a letter that means something to pickle\n",
        b"Readme of a model\n",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
        b"<!DOCTYPE html><html><body>Quota exceeded</body></html>",
        b"PK\x03\x04 cut off",
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        b"\x00" * 1000,
        b"\x80",
        b"GIF89a",
        bytes(range(256)),
        bytes(reversed(range(256))),
    ],
)
def test_files_that_are_no_checkpoint(tmp_path, content):
    path = tmp_path / "vox.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"vox\.pt is not a LIA checkpoint: it cannot be read as a PyTorch file"):
        load_lia_checkpoint(path)


def test_a_file_that_is_cut_off(tmp_path, released_checkpoint):
    content = released_checkpoint.read_bytes()
    for length in (10, 100, len(content) // 2, len(content) - 10):
        path = tmp_path / "cut.pt"
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut\.pt is not a LIA checkpoint"):
            load_lia_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        torch.zeros(3),
        [torch.zeros(3)],
        {},
        {"state_dict": {"a": torch.zeros(3)}},
        {"enc.fc.0.bias": torch.zeros(3)},
        {"gen": torch.zeros(3)},
        {"gen": None},
        {"gen": {}},
        {"gen": {"epoch": 3}},
        {"gen": {1: torch.zeros(3)}},
        {"gen": {"enc.fc.0.bias": torch.zeros(3)}},
    ],
    ids=repr,
)
def test_checkpoints_of_something_else(tmp_path, content):
    with pytest.raises(ValueError, match=r"other\.pt (is not a LIA checkpoint|does not hold the weights)"):
        load_lia_checkpoint(save(tmp_path / "other.pt", content))


class Payload:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["alone", "beside the weights", "in an old file"])
def test_no_code_of_a_file_is_executed(tmp_path, make_released_state_dict, place):
    target, path = tmp_path / "executed", tmp_path / "evil.pt"
    if place == "alone":
        path.write_bytes(pickle.dumps(Payload(target)))
    else:
        content = {"gen": make_released_state_dict(), "args": Payload(target)}
        torch.save(content, path, _use_new_zipfile_serialization=place == "beside the weights")
    with pytest.raises(ValueError, match=r"evil\.pt is not a LIA checkpoint: .* plain tensors"):
        load_lia_checkpoint(path)
    assert not target.exists()


def test_no_file(tmp_path):
    for path in (tmp_path / "nowhere.pt", tmp_path):
        with pytest.raises(FileNotFoundError, match="There is no checkpoint file"):
            load_lia_checkpoint(path)
