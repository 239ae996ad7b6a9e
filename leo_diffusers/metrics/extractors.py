"""Frames and clips -> features of pretrained networks, prepared as the papers' own code prepares them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from PIL import Image

from .feature_extractor import FeatureExtractor, normalize, pillow_resize, resize_and_crop, to_8bit, to_signed
from .i3d import FRAME_SIZE as I3D_FRAME_SIZE
from .i3d import I3D
from .inception_resnet import InceptionResnetV1
from .protocols import DIGAN, PROTOCOLS, STYLEGAN_V
from .resnet import BottleneckResNet50, ResNet50
from .resnext_3d import ResNeXt3D
from .weights import WeightsFile, file_hash


I3D_WEIGHTS = WeightsFile(
    name="i3d_pretrained_400.pt",
    contents="I3D of Kinetics-400",
    used_for="FVD and KVD",
    origin="https://github.com/songweige/TATS, folder tats/fvd",
    # The same file where its checksum is known: GitHub tells none.
    url=(
        "https://huggingface.co/spaces/LanguageBind/Open-Sora-Plan-v1.0.0/resolve/"
        "810fa8c4bdb3a4c8eec9bd57375c29bde6fb46de/opensora/eval/fvd/videogpt/i3d_pretrained_400.pt"
    ),
    sha256="55095f049e706479d48e221adcdb145b2b9dc930ba28b081ed72367ffaa32343",
)
I3D_TORCHSCRIPT_WEIGHTS = WeightsFile(
    name="i3d_torchscript.pt",
    contents="StyleGAN-V's I3D in TorchScript",
    used_for="FVD as StyleGAN-V has it",
    origin="https://huggingface.co/flateon/FVD-I3D-torchscript",
    url="https://huggingface.co/flateon/FVD-I3D-torchscript/resolve/main/i3d_torchscript.pt",
    sha256="bec6519f66ea534e953026b4ae2c65553c17bf105611c746d904657e5860a5e2",
)
FACE_WEIGHTS = WeightsFile(
    name="20180402-114759-vggface2.pt",
    contents="InceptionResnetV1 of VGGFace2",
    used_for="Identities of faces (ACD)",
    origin="https://github.com/timesler/facenet-pytorch, release v2.2.9",
    url="https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt",
    sha256="281cebca8662831adb987a874bdcb36e73f5b1c6dc5ee5878f305e985625d99b",
    ignored=("logits.",),
)
BODY_WEIGHTS = WeightsFile(
    name="net_last.pth",
    contents="a ResNet-50 of Market-1501 (ft_net)",
    used_for="Identities of bodies (ACD, AED)",
    origin="the Google Drive that the README of https://github.com/layumi/Person_reID_baseline_pytorch links",
    prefix="model.",
    ignored=("fc.", "classifier."),
)
BOTTLENECK_WEIGHTS = replace(BODY_WEIGHTS, prefix="", ignored=("model.fc.", "classifier.classifier."))
VIDEO_FID_WEIGHTS = WeightsFile(
    name="resnext-101-kinetics.pth",
    contents="the 3-D ResNeXt-101 of Kinetics-400",
    used_for="Video FID",
    origin=(
        "the Google Drive folder 1zvl89AgFAApbH0At-gMuZSeQB_LpNP-M of https://github.com/kenshohara/3D-ResNets-PyTorch"
    ),
    nested_in="state_dict",
    prefix="module.",
    ignored=("fc.",),
)

FACE_SIZE = 128  # pixels (MoCoGAN-HD)
BODY_SIZE = (288, 144)  # height and width, pixels (Person_reID_baseline_pytorch)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VIDEO_FID_SIZE = 112  # pixels
# By name the scale, mean and standard deviation of Kinetics: G3AN's code since February 2021, and what it had before.
VIDEO_FID_NORMS = {
    "kinetics_255": (1, (114.7748, 107.7354, 99.4750), (1.0, 1.0, 1.0)),
    "kinetics_unit": (255, (0.4345, 0.4051, 0.3775), (0.2768, 0.2713, 0.2737)),
}


class I3DExtractor(FeatureExtractor):
    r"""
    Clips -> logits of an I3D. [`I3DFeatures`] has pretrained weights, [`RandomI3DFeatures`] random ones.

    Args:
        network ([`I3D`]): The network.
        weights_hash (`str`): What results name its weights by.
        protocol (`str`): "stylegan_v": frames are stretched to 224 pixels; "digan": their shorter side is made 224
            pixels and the middle cut out. Square frames come out the same.

    Raises:
        ValueError: For another protocol.
    """

    def __init__(self, network: I3D, weights_hash: str, protocol: str):
        if protocol not in PROTOCOLS:
            raise ValueError(f"`protocol` must be one of {', '.join(PROTOCOLS)}, got {protocol!r}.")
        super().__init__(network, weights_hash)
        self.protocol = protocol
        self.name = f"{type(self).__name__}({protocol})"

    def prepare(self, frames: torch.Tensor) -> torch.Tensor:
        r"""Frames (F, 3, H, W) of `read_frames` -> (F, 3, 224, 224) in [-1, 1]."""
        if self.protocol == DIGAN.name:
            return resize_and_crop(to_signed(frames), I3D_FRAME_SIZE)
        size = (I3D_FRAME_SIZE, I3D_FRAME_SIZE)
        return F.interpolate(to_signed(frames), size, mode="bilinear", align_corners=False)

    @torch.no_grad()
    def forward(self, clips: torch.Tensor | np.ndarray) -> torch.Tensor:
        r"""
        Args:
            clips (`torch.Tensor` or `np.ndarray` of shape `(B, F, 3, H, W)`): RGB, 8-bit or floats in [-1, 1], of 9
                frames or more.

        Returns:
            `torch.Tensor` of shape `(B, 400)`.

        Raises:
            ValueError: For another shape, type or range, NaN, or fewer frames.
        """
        clips = self.read("clips", clips, "(B, F, 3, H, W)")
        frames = self.prepare(clips.flatten(0, 1)).unflatten(0, clips.shape[:2])
        return self.network(frames.transpose(1, 2))


class I3DFeatures(I3DExtractor):
    r"""
    Clips (B, F, 3, H, W) -> features (B, 400) for FVD and KVD.

    Args:
        weights (`str` or `Path`, *optional*): i3d_pretrained_400.pt.
        protocol (`str`): "stylegan_v" or "digan", as of [`I3DExtractor`].
        download (`bool`): Whether the weights may be fetched into torch's hub cache.

    Raises:
        OSError: Where there is no such file or the download fails.
        ValueError: Where no weights are given, or another network's.

    Examples:
        ```py
        >>> from leo_diffusers.metrics import I3DFeatures
        >>> from leo_diffusers.video_io import read_video

        >>> extractor = I3DFeatures(weights="i3d_pretrained_400.pt")
        >>> extractor(read_video("video.mp4")[None]).shape
        torch.Size([1, 400])
        ```
    """

    def __init__(
        self, weights: str | Path | None = None, protocol: str = STYLEGAN_V.name, download: bool = False
    ) -> None:
        super().__init__(*I3D_WEIGHTS.load(I3D, weights, download), protocol)


class RandomI3DFeatures(I3DExtractor):
    r"""
    Clips (B, F, 3, H, W) -> features (B, 400) of [`I3D.random`]: for comparing variants with each other where no
    pretrained weights can be had. No number made of them can be held against a published one.

    Args:
        seed (`int`): Of the weights.
        protocol (`str`): "stylegan_v" or "digan", as of [`I3DExtractor`].

    Examples:
        ```py
        >>> from leo_diffusers.metrics import RandomI3DFeatures
        >>> from leo_diffusers.video_io import read_video

        >>> extractor = RandomI3DFeatures(seed=0)
        >>> extractor(read_video("video.mp4")[None]).shape
        torch.Size([1, 400])
        ```
    """

    def __init__(self, seed: int = 0, protocol: str = STYLEGAN_V.name):
        super().__init__(I3D.random(seed), f"random:{seed}", protocol)


class I3DTorchscriptFeatures(FeatureExtractor):
    r"""
    Clips (B, F, 3, H, W) -> features (B, 400) of StyleGAN-V's own file, which rescales and resizes by itself.

    A TorchScript file is a program: name only one that you trust. The `weights_hash` of the known one is
    `I3D_TORCHSCRIPT_WEIGHTS.sha256`.

    Args:
        weights (`str` or `Path`, *optional*): i3d_torchscript.pt.
        download (`bool`): Whether it may be fetched into torch's hub cache.

    Raises:
        OSError: Where there is no such file or the download fails.
        ValueError: Where no weights are given, or a file of another kind.

    Examples:
        ```py
        >>> from leo_diffusers.metrics import I3DTorchscriptFeatures
        >>> from leo_diffusers.video_io import read_video

        >>> extractor = I3DTorchscriptFeatures(weights="i3d_torchscript.pt")
        >>> extractor(read_video("video.mp4")[None]).shape
        torch.Size([1, 400])
        ```
    """

    def __init__(self, weights: str | Path | None = None, download: bool = False):
        path = I3D_TORCHSCRIPT_WEIGHTS.find(weights, download)
        try:
            network = torch.jit.load(path, map_location="cpu")
        except RuntimeError as error:
            raise ValueError(
                f"{path} is not a TorchScript file. For i3d_pretrained_400.pt take I3DFeatures. "
                f"{I3D_TORCHSCRIPT_WEIGHTS.advice}"
            ) from error
        super().__init__(network, file_hash(path))

    @torch.no_grad()
    def forward(self, clips: torch.Tensor | np.ndarray) -> torch.Tensor:
        r"""
        Args:
            clips (`torch.Tensor` or `np.ndarray` of shape `(B, F, 3, H, W)`): RGB, 8-bit or floats in [-1, 1].

        Returns:
            `torch.Tensor` of shape `(B, 400)`.

        Raises:
            ValueError: For another shape, type or range, NaN, or where the file does not give 400 numbers.
        """
        clips = to_8bit(self.read("clips", clips, "(B, F, 3, H, W)")).transpose(1, 2)
        features = self.network(clips, rescale=True, resize=True, return_features=True)
        if features.shape != (len(clips), 400):
            raise ValueError(
                f"`weights` must give features of the shape ({len(clips)}, 400), got {tuple(features.shape)}: they "
                "are not those of i3d_torchscript.pt."
            )
        return features


class FaceEmbeddings(FeatureExtractor):
    r"""
    Frames (F, 3, H, W) -> embeddings (F, 512) of length 1 for ACD: whole frames, no face is looked for (MoCoGAN-HD).

    Args:
        weights (`str` or `Path`, *optional*): 20180402-114759-vggface2.pt of facenet-pytorch.
        download (`bool`): Whether it may be fetched into torch's hub cache.

    Raises:
        OSError: Where there is no such file or the download fails.
        ValueError: Where no weights are given, or another network's.

    Examples:
        ```py
        >>> from leo_diffusers.metrics import FaceEmbeddings
        >>> from leo_diffusers.video_io import read_video

        >>> extractor = FaceEmbeddings(weights="20180402-114759-vggface2.pt")
        >>> extractor(read_video("video.mp4", num_frames=4)).shape
        torch.Size([4, 512])
        ```
    """

    def __init__(self, weights: str | Path | None = None, download: bool = False):
        super().__init__(*FACE_WEIGHTS.load(InceptionResnetV1, weights, download))

    @torch.no_grad()
    def forward(self, frames: torch.Tensor | np.ndarray) -> torch.Tensor:
        r"""
        Args:
            frames (`torch.Tensor` or `np.ndarray` of shape `(F, 3, H, W)`): RGB, 8-bit or floats in [-1, 1], H = W = a
                multiple of 128 pixels; larger ones than 128 are averaged down, 256 by 2 x 2.

        Returns:
            `torch.Tensor` of shape `(F, 512)`.

        Raises:
            ValueError: For another shape, size, type or range, or NaN.
        """
        frames = self.read("frames", frames, "(F, 3, H, W)")
        height, width = frames.shape[-2:]
        if height != width or height % FACE_SIZE:
            raise ValueError(f"`frames` must be square, of a multiple of {FACE_SIZE} pixels, got {height} x {width}.")
        return self.network(F.avg_pool2d(to_signed(frames), height // FACE_SIZE))


class BodyEmbeddings(FeatureExtractor):
    r"""
    Frames (F, 3, H, W) -> features (F, D) of a person re-identification network, for ACD and AED. LEO does not say
    which of its features it takes for ACD: its numbers are too large for normalised ones.

    Args:
        weights (`str` or `Path`, *optional*): Of an `ft_net` with a ResNet-50 of Person_reID_baseline_pytorch.
        download (`bool`): There is no address to fetch it from: the error says where to get it.
        last_stride (`int`): With which the network was trained: 2, or 1 (`--stride 1`).
        compat (`bool`): Whether to repeat two mistakes of pose-evaluation that are in published AED: colours are
            divided by 255 twice, and each frame is normalised by its own statistics instead of the training's.
        layer (`str`): "pooled": 2048 numbers, as of pose-evaluation; "bottleneck": the 512 that the network's own
            tests compare, of a network without a rectifier there, as its project makes them now.
        normalize (`bool`): Whether features are made of length 1.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where no weights are given, or another network's; for another `layer`, and for `compat` of the
            bottleneck.

    Examples:
        ```py
        >>> from leo_diffusers.metrics import BodyEmbeddings
        >>> from leo_diffusers.video_io import read_video

        >>> extractor = BodyEmbeddings(weights="net_last.pth")
        >>> extractor(read_video("video.mp4", num_frames=4)).shape
        torch.Size([4, 2048])
        ```
    """

    def __init__(
        self,
        weights: str | Path | None = None,
        download: bool = False,
        last_stride: int = 2,
        compat: bool = False,
        layer: str = "pooled",
        normalize: bool = False,
    ):
        if layer not in ("pooled", "bottleneck"):
            raise ValueError(f'`layer` must be "pooled" or "bottleneck", got {layer!r}.')
        if compat and layer == "bottleneck":
            raise ValueError('`compat` must be False where `layer` is "bottleneck": pose-evaluation takes "pooled".')
        file, build = (BODY_WEIGHTS, ResNet50) if layer == "pooled" else (BOTTLENECK_WEIGHTS, BottleneckResNet50)
        super().__init__(*file.load(lambda: build(last_stride), weights, download))
        self.compat = compat
        self.normalize = normalize
        # For results: everything that a number depends on.
        self.name = f"BodyEmbeddings({layer=}, {normalize=}, {last_stride=}, {compat=})"
        if compat:
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.momentum = 0.0  # the stored statistics stay as they are
                    module.train()

    @torch.no_grad()
    def forward(self, frames: torch.Tensor | np.ndarray) -> torch.Tensor:
        r"""
        Args:
            frames (`torch.Tensor` or `np.ndarray` of shape `(F, 3, H, W)`): RGB, 8-bit or floats in [-1, 1].

        Returns:
            `torch.Tensor` of shape `(F, 2048)`, or `(F, 512)` of the bottleneck.

        Raises:
            ValueError: For another shape, type or range, or NaN.
        """
        frames = to_8bit(self.read("frames", frames, "(F, 3, H, W)"))
        pixels = pillow_resize(frames, BODY_SIZE, Image.Resampling.BICUBIC).float() / 255
        features = self.network_features(pixels)
        return F.normalize(features) if self.normalize else features

    def network_features(self, pixels: torch.Tensor) -> torch.Tensor:
        r"""Frames (F, 3, 288, 144) in [0, 1] -> features (F, D)."""
        if not self.compat:
            return self.network(normalize(pixels, IMAGENET_MEAN, IMAGENET_STD))
        pixels = normalize(pixels / 255, IMAGENET_MEAN, IMAGENET_STD)
        return torch.cat([self.network(frame) for frame in pixels.split(1)])


class VideoFIDFeatures(FeatureExtractor):
    r"""
    Clips (B, F, 3, H, W) -> features (B, 2048) for the video FID of G3AN and LIA.

    Args:
        weights (`str` or `Path`, *optional*): resnext-101-kinetics.pth of 3D-ResNets-PyTorch.
        download (`bool`): There is no address to fetch it from: the error says where to get it.
        input_norm (`str`): "kinetics_255": colours from 0 to 255 less their mean, as in G3AN's code since it was
            mended; "kinetics_unit": from 0 to 1, standardised, as before, which the size of LIA's numbers suggests.

    Raises:
        FileNotFoundError: Where there is no such file.
        ValueError: Where no weights are given, or another network's, and for another `input_norm`.

    Examples:
        ```py
        >>> from leo_diffusers.metrics import VideoFIDFeatures
        >>> from leo_diffusers.video_io import read_video

        >>> extractor = VideoFIDFeatures(weights="resnext-101-kinetics.pth")
        >>> extractor(read_video("video.mp4")[None]).shape
        torch.Size([1, 2048])
        ```
    """

    def __init__(
        self, weights: str | Path | None = None, download: bool = False, input_norm: str = "kinetics_255"
    ) -> None:
        if input_norm not in VIDEO_FID_NORMS:
            raise ValueError(f"`input_norm` must be one of {', '.join(VIDEO_FID_NORMS)}, got {input_norm!r}.")
        super().__init__(*VIDEO_FID_WEIGHTS.load(ResNeXt3D, weights, download))
        self.input_norm = input_norm
        self.name = f"{type(self).__name__}({input_norm})"  # in results: their numbers are not each other's

    @torch.no_grad()
    def forward(self, clips: torch.Tensor | np.ndarray) -> torch.Tensor:
        r"""
        Args:
            clips (`torch.Tensor` or `np.ndarray` of shape `(B, F, 3, H, W)`): RGB, 8-bit or floats in [-1, 1]; the
                middle 16 frames of a video in G3AN, its first 100 in LIA.

        Returns:
            `torch.Tensor` of shape `(B, 2048)`.

        Raises:
            ValueError: For another shape, type or range, or NaN.
        """
        clips = to_8bit(self.read("clips", clips, "(B, F, 3, H, W)"))
        size = (VIDEO_FID_SIZE, VIDEO_FID_SIZE)
        pixels = pillow_resize(clips.flatten(0, 1), size, Image.Resampling.BILINEAR).float()
        scale, mean, std = VIDEO_FID_NORMS[self.input_norm]
        frames = normalize(pixels / scale, mean, std).unflatten(0, clips.shape[:2])
        return self.network(frames.transpose(1, 2))
