import copy
import hashlib

import numpy as np
import pytest
import torch
import torch.nn as nn
from PIL import Image

from leo_diffusers.metrics.extractors import (
    BodyEmbeddings,
    FaceEmbeddings,
    I3DExtractor,
    I3DFeatures,
    I3DTorchscriptFeatures,
    RandomI3DFeatures,
    VideoFIDFeatures,
)
from leo_diffusers.metrics.i3d import I3D
from leo_diffusers.metrics.inception_resnet import InceptionResnetV1
from leo_diffusers.metrics.resnet import BottleneckResNet50, ResNet50
from leo_diffusers.metrics.resnext_3d import ResNeXt3D


MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


class Recorder(nn.Module):
    """Stands where the network was and keeps what it was given."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.inputs = inputs
        return inputs.flatten(1).mean(dim=1, keepdim=True)


class Script(nn.Module):
    """What a TorchScript file of I3D is from outside."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False):
        assert x.dtype == torch.uint8 and rescale and resize and return_features
        return x.float().mean(dim=[1, 3, 4])[:, :1].expand(x.shape[0], self.width)  # of the first frame


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def as_float(frames: torch.Tensor) -> torch.Tensor:
    return frames.float() / 127.5 - 1


@pytest.fixture(scope="module")
def files(tmp_path_factory, constant_weights) -> dict:
    """By extractor a small file of weights as its project has it, with what is ignored there."""
    folder = tmp_path_factory.mktemp("weights")
    face = constant_weights(InceptionResnetV1()) | {"logits.weight": torch.zeros(1), "logits.bias": torch.zeros(1)}
    body = {f"model.{key}": tensor for key, tensor in constant_weights(ResNet50()).items()}
    body |= {"model.fc.weight": torch.zeros(1), "classifier.add_block.0.weight": torch.zeros(1)}
    video = {f"module.{key}": tensor for key, tensor in constant_weights(ResNeXt3D()).items()}
    video = {key: tensor for key, tensor in video.items() if "num_batches_tracked" not in key}  # a file of 2017
    video = {"epoch": 9, "state_dict": video | {"module.fc.bias": torch.zeros(1)}}
    contents = {I3DFeatures: constant_weights(I3D()), FaceEmbeddings: face, BodyEmbeddings: body}
    paths = {}
    for kind, content in (contents | {VideoFIDFeatures: video}).items():
        paths[kind] = folder / f"{kind.__name__}.pt"
        torch.save(content, paths[kind])
    assert all(path.stat().st_size < 2**20 for path in paths.values())
    return paths


@pytest.fixture
def script_file(tmp_path):
    torch.jit.script(Script(400)).save(tmp_path / "script.pt")
    return tmp_path / "script.pt"


EXTRACTORS = [I3DFeatures, FaceEmbeddings, BodyEmbeddings, VideoFIDFeatures]
CLIP_EXTRACTORS = [I3DFeatures, VideoFIDFeatures]


@pytest.fixture(scope="module")
def recording(files) -> dict:
    """By class an extractor that keeps the frames as it has prepared them."""
    extractors = {kind: kind(weights=files[kind]) for kind in EXTRACTORS}
    for extractor in extractors.values():
        extractor.network = Recorder()
    return extractors


# --- weights ---


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_weights_are_loaded_and_frozen(files, kind):
    extractor = kind(weights=files[kind])
    assert extractor.weights_hash == hashlib.sha256(files[kind].read_bytes()).hexdigest()
    values = [tensor.flatten()[0].item() for tensor in extractor.network.parameters()]
    assert min(values) >= 1 and len(set(values)) == len(values)  # the file's, each its own
    assert not any(parameter.requires_grad for parameter in extractor.parameters())
    assert not any(module.training for module in extractor.train().network.modules())


@pytest.mark.parametrize("kind", [*EXTRACTORS, I3DTorchscriptFeatures])
def test_without_weights_the_error_says_what_to_get(kind):
    with pytest.raises(ValueError, match=r"cannot be measured without .* Get .* from .* and name it with `weights=`"):
        kind()
    with pytest.raises(FileNotFoundError, match=r"`weights` must name a file, got no\.pt\. Get "):
        kind(weights="no.pt")


@pytest.mark.parametrize("kind", [BodyEmbeddings, VideoFIDFeatures])
def test_what_has_no_address_is_not_downloaded(kind):
    with pytest.raises(ValueError, match=r"Get .* from .*Google Drive.* and name it with `weights=`\.$"):
        kind(download=True)


@pytest.mark.parametrize(
    "kind, other, message",
    [
        (I3DFeatures, FaceEmbeddings, "I3D of Kinetics-400: Conv3d_1a_7x7.conv3d.weight is missing"),
        (FaceEmbeddings, I3DFeatures, "InceptionResnetV1 of VGGFace2: conv2d_1a.conv.weight is missing"),
        (BodyEmbeddings, FaceEmbeddings, "a ResNet-50 of Market-1501 .*: model.conv1.weight is missing"),
        (VideoFIDFeatures, BodyEmbeddings, "the 3-D ResNeXt-101 of Kinetics-400: no tensors by name are below"),
        (I3DTorchscriptFeatures, I3DFeatures, "is not a TorchScript file. For i3d_pretrained_400.pt take I3DFeatures"),
    ],
)
def test_other_networks_are_refused(files, kind, other, message):
    with pytest.raises(ValueError, match=message):
        kind(weights=files[other])


def test_a_script_is_no_file_of_tensors(script_file):
    with pytest.raises(ValueError, match="cannot be read as a PyTorch file of plain tensors"):
        I3DFeatures(weights=script_file)


def test_random_weights_say_so():
    extractor = RandomI3DFeatures(seed=3, protocol="digan")
    assert extractor.weights_hash == "random:3" and extractor.protocol == "digan"
    assert torch.equal(extractor.network.logits.conv3d.weight, I3D.random(3).logits.conv3d.weight)


# --- what is refused ---


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_bad_frames_are_refused(recording, kind):
    extractor = recording[kind]
    name, shape = ("clips", (1, 9, 3, 128, 128)) if kind in CLIP_EXTRACTORS else ("frames", (2, 3, 128, 128))
    with pytest.raises(ValueError, match=rf"`{name}` must have the shape"):
        extractor(torch.zeros(shape)[0])
    with pytest.raises(ValueError, match=rf"`{name}` must have the shape .*128, 128, 3\)"):
        extractor(torch.zeros(shape).movedim(-3, -1))
    with pytest.raises(ValueError, match=rf"`{name}` must be 8-bit \(uint8\) or floats in \[-1, 1\], got torch.int64"):
        extractor(torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(ValueError, match=rf"`{name}` must lie in \[-1, 1\] where they are floats, got 0 to 255"):
        extractor(torch.linspace(0, 255, torch.Size(shape).numel()).reshape(shape))
    frames = torch.zeros(shape)
    frames.flatten()[7] = torch.nan
    with pytest.raises(ValueError, match=rf"`{name}` must lie in \[-1, 1\] where they are floats, got nan"):
        extractor(frames)
    with pytest.raises(ValueError, match=rf"`{name}` must have the shape"):
        extractor(torch.zeros(0, *shape[1:]))


def test_bad_options_are_refused(files):
    with pytest.raises(ValueError, match="`protocol` must be one of stylegan_v, digan, got 'fvd'"):
        I3DFeatures(weights=files[I3DFeatures], protocol="fvd")
    with pytest.raises(ValueError, match="`input_norm` must be one of kinetics_255, kinetics_unit, got 'imagenet'"):
        VideoFIDFeatures(weights=files[VideoFIDFeatures], input_norm="imagenet")
    with pytest.raises(ValueError, match="`clips` must have 9 frames or more for I3D, got 8"):
        I3DFeatures(weights=files[I3DFeatures])(torch.zeros(1, 8, 3, 16, 16))
    with pytest.raises(ValueError, match="`last_stride` must be 1 or 2, got 4"):
        BodyEmbeddings(weights=files[BodyEmbeddings], last_stride=4)


@pytest.mark.parametrize("size", [(200, 200), (128, 256), (64, 64)])
def test_faces_of_other_sizes_are_refused(recording, size):
    with pytest.raises(ValueError, match=f"must be square, of a multiple of 128 pixels, got {size[0]} x {size[1]}"):
        recording[FaceEmbeddings](torch.zeros(1, 3, *size))


# --- how frames are prepared ---


def bilinear(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Frames (..., H, W) looked up between pixel centres, without anti-aliasing, axis by axis."""
    for axis, size in ((-2, height), (-1, width)):
        old = frames.shape[axis]
        place = ((np.arange(size) + 0.5) * old / size - 0.5).clip(0, old - 1)
        low = np.floor(place).astype(int)
        share = (place - low).reshape([-1, 1] if axis == -2 else [-1])
        high = np.minimum(low + 1, old - 1)
        frames = np.take(frames, low, axis) * (1 - share) + np.take(frames, high, axis) * share
    return frames


def test_stylegan_v_stretches_frames():
    extractor = I3DExtractor(Recorder(), "none", "stylegan_v")
    clips = noise(2, 9, 3, 30, 46)
    extractor(clips)
    expected = bilinear(clips.numpy() / 127.5 - 1, 224, 224)
    assert extractor.network.inputs.shape == (2, 3, 9, 224, 224)
    np.testing.assert_allclose(extractor.network.inputs.numpy(), expected.transpose(0, 2, 1, 3, 4), atol=1e-4)


@pytest.mark.parametrize("shape", [(30, 46), (46, 30)])
def test_digan_cuts_the_middle_out(shape):
    extractor = I3DExtractor(Recorder(), "none", "digan")
    clips = noise(1, 9, 3, *shape)
    extractor(clips)
    # 46 * 224 / 30 = 343.5, rounded up; 60 of the 120 that are too many go first
    resized = bilinear((clips.numpy() / 255 - 0.5) * 2, *(224 if side == 30 else 344 for side in shape))
    expected = resized[..., :, 60:284] if shape[1] == 46 else resized[..., 60:284, :]
    np.testing.assert_allclose(extractor.network.inputs.numpy(), expected.transpose(0, 2, 1, 3, 4), atol=1e-4)


def test_both_protocols_agree_on_square_frames():
    clips = noise(1, 9, 3, 40, 40)
    inputs = []
    for protocol in ("stylegan_v", "digan"):
        extractor = I3DExtractor(Recorder(), "none", protocol)
        extractor(clips)
        inputs.append(extractor.network.inputs)
    torch.testing.assert_close(*inputs)


@pytest.mark.parametrize("kind", EXTRACTORS)
def test_8bit_frames_and_floats_are_the_same(recording, kind):
    extractor = recording[kind]
    frames = noise(1, 9, 3, 128, 128) if kind in CLIP_EXTRACTORS else noise(2, 3, 128, 128)
    extractor(frames)
    expected = extractor.network.inputs
    for same in (as_float(frames), as_float(frames).numpy(), frames.numpy()):
        extractor(same)
        torch.testing.assert_close(extractor.network.inputs, expected, atol=1e-5, rtol=0)


def test_torchscript_resizes_by_itself(script_file, tmp_path):
    extractor = I3DTorchscriptFeatures(weights=script_file)
    assert extractor.weights_hash == hashlib.sha256(script_file.read_bytes()).hexdigest()
    clips = noise(2, 9, 3, 20, 30)
    expected = clips[:, 0].float().mean(dim=(1, 2, 3))
    for same in (clips, as_float(clips)):
        features = extractor(same)
        assert features.shape == (2, 400)
        torch.testing.assert_close(features[:, 5], expected)
    torch.jit.script(Script(1024)).save(tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"`weights` must give features of the shape \(2, 400\), got \(2, 1024\)"):
        I3DTorchscriptFeatures(weights=tmp_path / "other.pt")(clips)


@pytest.mark.parametrize("size", [128, 256, 384])
def test_faces_are_averaged_down(recording, size):
    extractor = recording[FaceEmbeddings]
    frames = noise(2, 3, size, size)
    extractor(frames)
    factor = size // 128
    blocks = (frames.numpy() / 127.5 - 1).reshape(2, 3, 128, factor, 128, factor)
    np.testing.assert_allclose(extractor.network.inputs.numpy(), blocks.mean(axis=(3, 5)), atol=1e-5)


def resized_by_pillow(frames: torch.Tensor, size: tuple[int, int], resampling: Image.Resampling) -> np.ndarray:
    """Frames (F, 3, H, W) -> (F, H, W, 3), 8-bit; the size as Pillow has it, width first."""
    images = [Image.fromarray(frame.permute(1, 2, 0).numpy()).resize(size, resampling) for frame in frames]
    return np.stack([np.array(image) for image in images])


def test_bodies_are_resized_as_pillow_does(recording):
    extractor = recording[BodyEmbeddings]
    frames = noise(2, 3, 100, 60)
    extractor(frames)
    pixels = resized_by_pillow(frames, (144, 288), Image.Resampling.BICUBIC) / 255
    expected = ((pixels - MEAN) / STD).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(extractor.network.inputs.numpy(), expected, atol=1e-5)


def test_compatible_bodies_repeat_both_mistakes(files, randomize):
    extractor = BodyEmbeddings(weights=files[BodyEmbeddings], compat=True)
    network = randomize(ResNet50())
    extractor.network.load_state_dict(network.state_dict())
    frames = noise(2, 3, 64, 64)
    features = extractor(frames)
    pixels = resized_by_pillow(frames, (144, 288), Image.Resampling.BICUBIC) / 255 / 255
    inputs = torch.from_numpy(((pixels - MEAN) / STD).transpose(0, 3, 1, 2)).float()
    reference = copy.deepcopy(network).train()
    with torch.no_grad():
        expected = torch.cat([reference(inputs[:1]), reference(inputs[1:])])
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3)
    for key, tensor in extractor.network.state_dict().items():
        assert "num_batches_tracked" in key or torch.equal(tensor, network.state_dict()[key])


def test_layers_of_bodies(tmp_path, randomize):
    network = randomize(BottleneckResNet50())
    weights = network.state_dict() | {"model.fc.weight": torch.zeros(1)}
    torch.save(weights | {"classifier.classifier.0.weight": torch.zeros(1)}, tmp_path / "net_last.pth")
    pooled, bottleneck = (BodyEmbeddings(tmp_path / "net_last.pth", layer=layer) for layer in ("pooled", "bottleneck"))
    of_length_1 = BodyEmbeddings(tmp_path / "net_last.pth", layer="bottleneck", normalize=True)
    frames = noise(1, 3, 64, 64)
    features = bottleneck(frames)
    assert pooled(frames).shape == (1, 2048) and features.shape == (1, 512)
    torch.testing.assert_close(network.classifier["add_block"](pooled(frames)), features)
    torch.testing.assert_close(of_length_1(frames), features / features.norm(dim=1, keepdim=True))
    assert len({extractor.name for extractor in (pooled, bottleneck, of_length_1)}) == 3  # results tell them apart
    assert of_length_1.name == "BodyEmbeddings(layer='bottleneck', normalize=True, last_stride=2, compat=False)"


def test_bad_layers_of_bodies_are_refused(files):
    with pytest.raises(ValueError, match="a ResNet-50 of .*: classifier.add_block.0.bias is missing"):
        BodyEmbeddings(weights=files[BodyEmbeddings], layer="bottleneck")
    with pytest.raises(ValueError, match='`layer` must be "pooled" or "bottleneck", got \'fc\''):
        BodyEmbeddings(weights=files[BodyEmbeddings], layer="fc")
    with pytest.raises(ValueError, match='`compat` must be False where `layer` is "bottleneck"'):
        BodyEmbeddings(weights=files[BodyEmbeddings], layer="bottleneck", compat=True)


@pytest.mark.parametrize("input_norm", ["kinetics_255", "kinetics_unit"])
def test_clips_of_the_video_fid(files, input_norm):
    extractor = VideoFIDFeatures(weights=files[VideoFIDFeatures], input_norm=input_norm)
    extractor.network = Recorder()
    clips = noise(2, 4, 3, 130, 90)
    extractor(clips)
    pixels = resized_by_pillow(clips.flatten(0, 1), (112, 112), Image.Resampling.BILINEAR).astype(float)
    if input_norm == "kinetics_255":
        pixels = pixels - [114.7748, 107.7354, 99.4750]
    else:
        pixels = (pixels / 255 - [0.4345, 0.4051, 0.3775]) / [0.2768, 0.2713, 0.2737]
    expected = pixels.reshape(2, 4, 112, 112, 3).transpose(0, 4, 1, 2, 3)
    np.testing.assert_allclose(extractor.network.inputs.numpy(), expected, atol=1e-4)
