"""Neck, clothes and background of synthetic talking heads."""

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from leo_diffusers.data.talking_head_geometry import HeadPose
from leo_diffusers.data.talking_head_identity import TalkingHeadIdentity
from leo_diffusers.data.talking_head_layers import Layer, mix


DARK = (20, 14, 26)
_ACROSS = np.linspace(-1.0, 1.0, 17)
_BOTTOM = 2.9  # below the frame even when the head is small and high


def _shoulder(identity: TalkingHeadIdentity) -> np.ndarray:
    """Right half of the body's outline from neck to hip, (N, 2), head units."""
    corners = np.array([[0.3, 1.06], [0.46, 1.36], [1.2, 1.2], [1.34, 1.78]])
    t = np.linspace(0.0, 1.0, 14)[:, None]
    curve = (1 - t) ** 3 * corners[0] + 3 * t * (1 - t) ** 2 * corners[1]
    curve = curve + 3 * t**2 * (1 - t) * corners[2] + t**3 * corners[3]
    outline = np.concatenate([curve, [[1.42, _BOTTOM]]])
    return outline * [identity.shoulder_width, 1.0]


def _mirrored(right: np.ndarray) -> np.ndarray:
    return np.concatenate([right, right[::-1] * [-1.0, 1.0]])


def _neckline(identity: TalkingHeadIdentity, depth: float, power: float, width: float = 0.4) -> np.ndarray:
    """Lower edge of the bare neck from right to left, (N, 2), head units."""
    x = -width * identity.neck_width * _ACROSS
    return np.stack([x, 1.14 + depth * (1.0 - np.abs(_ACROSS) ** power)], axis=1)


def _neck_layers(pose: HeadPose, identity: TalkingHeadIdentity, neckline: np.ndarray) -> list[Layer]:
    half_width = 0.37 * identity.neck_width
    top = pose.project(np.array([[-half_width, 0.5, -0.2], [half_width, 0.5, -0.2]]))
    bottom = pose.project_body(neckline)
    color = mix(identity.skin, (120, 50, 40), 0.12)
    if identity.hair_style == "headscarf":
        color = mix(identity.hair, DARK, 0.22)
    skin = Layer(np.concatenate([top, bottom], axis=1), color)
    # The shadow of the chin: from the jaw down the upper neck.
    left, right = bottom[:, -1], bottom[:, 0]
    lowest = 0.5 * (left + right) + 0.14 * pose.unit[:, None] * np.array([0.0, 1.0])
    corners = [top[:, 0], top[:, 1], 0.1 * top[:, 1] + 0.9 * right, lowest, 0.1 * top[:, 0] + 0.9 * left]
    return [skin, Layer(np.stack(corners, axis=1), (50, 16, 36, 80))]


def _collar_layers(pose: HeadPose, identity: TalkingHeadIdentity, color: tuple[int, ...]) -> list[Layer]:
    flap = np.array([[0.36, 1.0], [0.46, 1.2], [0.3, 1.5], [0.02, 1.42], [0.28, 1.2]]) * [identity.neck_width, 1.0]
    return [Layer(pose.project_body(flap * [sign, 1.0]), color) for sign in (-1.0, 1.0)]


def _suit_layers(pose: HeadPose, identity: TalkingHeadIdentity) -> list[Layer]:
    shirt = np.array([[-0.38, 1.1], [0.38, 1.1], [0.3, 1.6], [0.06, _BOTTOM], [-0.06, _BOTTOM], [-0.3, 1.6]])
    lapel = np.array([[0.34, 1.06], [0.62, 1.24], [0.56, 1.6], [0.12, _BOTTOM], [0.05, _BOTTOM], [0.26, 1.55]])
    tie = np.array([[-0.07, 1.4], [0.07, 1.4], [0.05, 1.5], [0.12, _BOTTOM], [-0.12, _BOTTOM], [-0.05, 1.5]])
    layers = [Layer(pose.project_body(shirt), (244, 243, 240))]
    neckline = _neckline(identity, 0.3, 1.2, 0.36)
    layers += _neck_layers(pose, identity, neckline)
    layers.append(Layer(pose.project_body(tie, 0.6), mix(identity.accent, identity.cloth, 0.15)))
    layers += _collar_layers(pose, identity, (252, 251, 248))
    dark = mix(identity.cloth, DARK, 0.3)
    layers += [Layer(pose.project_body(lapel * [sign, 1.0], 0.3), dark) for sign in (-1.0, 1.0)]
    return layers


def _stripe_layers(pose: HeadPose, identity: TalkingHeadIdentity) -> list[Layer]:
    shoulder = _shoulder(identity)
    layers = []
    for top in np.arange(1.42, 2.4, 0.17):
        heights = np.array([top, top + 0.075])
        width = np.interp(heights, shoulder[3:, 1], shoulder[3:, 0])
        band = np.array([[width[0], heights[0]], [width[1], heights[1]]])
        layers.append(Layer(pose.project_body(_mirrored(band)), identity.accent))
    return layers


def body_layers(pose: HeadPose, identity: TalkingHeadIdentity) -> list[Layer]:
    r"""
    Draws shoulders, neck and clothes, with the chin's shadow on them.

    Args:
        pose (`HeadPose`): Head and body in every frame.
        identity (`TalkingHeadIdentity`): The person.

    Returns:
        `list` of `Layer`: In drawing order.
    """
    cloth, outfit = identity.cloth, identity.outfit
    dark = mix(cloth, DARK, 0.3)
    shoulder = _shoulder(identity)
    torso = pose.project_body(_mirrored(shoulder))
    layers = []
    if outfit == "hoodie":
        hood = np.stack([0.78 * _ACROSS, 1.28 - 0.5 * np.sqrt(1.0 - _ACROSS**2)], axis=1)
        layers.append(Layer(pose.project_body(hood), dark))
    layers.append(Layer(torso, identity.skin if outfit == "tank" else cloth))
    side = np.sign(np.cos(identity.shadow_angle))
    shaded = np.concatenate([shoulder[2:], shoulder[2:][::-1] * [0.72, 1.0] + [0.0, 0.1]]) * [side, 1.0]
    layers.append(Layer(pose.project_body(shaded), (20, 10, 30, round(50 * identity.shadow_strength))))
    if outfit == "suit":
        return layers + _suit_layers(pose, identity)
    if outfit == "stripes":
        layers += _stripe_layers(pose, identity)
    if outfit == "tank":
        top = np.array([[0.2, 1.62], [0.42, 1.5], [0.52, 1.2], [0.72, 1.24], [0.84, 1.62], [1.0, _BOTTOM]])
        layers.append(Layer(pose.project_body(_mirrored(top)), cloth))
        return layers + _neck_layers(pose, identity, _neckline(identity, 0.2, 2.0))
    depth, power = {"vneck": (0.44, 1.15), "shirt": (0.36, 1.1), "hoodie": (0.26, 2.0)}.get(outfit, (0.2, 2.2))
    neckline = _neckline(identity, depth, power)
    if outfit in ("tee", "stripes", "vneck", "hoodie"):
        rim = (neckline - [0.0, 1.14]) * [1.13, 1.0] + [0.0, 1.14 + 0.06]
        rim = np.concatenate([neckline - [0.0, 0.1], rim[::-1]])
        layers.append(Layer(pose.project_body(rim), identity.accent if outfit == "stripes" else dark))
    layers += _neck_layers(pose, identity, neckline)
    if outfit == "shirt":
        placket = np.array([[-0.012, 1.5], [0.012, 1.5], [0.012, _BOTTOM], [-0.012, _BOTTOM]])
        layers.append(Layer(pose.project_body(placket, 0.6), dark))
        layers += _collar_layers(pose, identity, mix(cloth, (255, 255, 255), 0.3))
    if outfit == "hoodie":
        for sign in (-1.0, 1.0):
            cord = np.array([[0.2, 1.38], [0.235, 1.38], [0.23, 1.75], [0.195, 1.75]]) * [sign, 1.0]
            layers.append(Layer(pose.project_body(cord, 0.4), (240, 238, 232)))
    if outfit == "turtleneck":
        roll = np.array([[0.42, 0.98], [0.46, 1.12], [0.44, 1.3]]) * [identity.neck_width, 1.0]
        layers.append(Layer(pose.project_body(_mirrored(roll)), mix(cloth, (255, 255, 255), 0.08)))
        fold = np.array([[0.44, 1.24], [0.44, 1.3], [0.2, 1.36], [0.2, 1.3]]) * [identity.neck_width, 1.0]
        layers.append(Layer(pose.project_body(_mirrored(fold)), dark))
    return layers


def shoulder_keypoints(pose: HeadPose, identity: TalkingHeadIdentity) -> np.ndarray:
    r"""
    Four points of each shoulder's outline, from the neck outwards, right then left.

    Args:
        pose (`HeadPose`): Head and body in every frame.
        identity (`TalkingHeadIdentity`): The person.

    Returns:
        `np.ndarray` of shape `(F, 8, 2)`: Pixels (x, y).
    """
    right = _shoulder(identity)[[1, 4, 7, 10]]
    return pose.project_body(np.concatenate([right, right * [-1.0, 1.0]]))


def draw_background(identity: TalkingHeadIdentity, size: int) -> Image.Image:
    r"""
    Draws what lies behind the person: a gradient and blurred shapes. It stands still.

    Args:
        identity (`TalkingHeadIdentity`): The person.
        size (`int`): Side in pixels.

    Returns:
        `PIL.Image.Image`: RGB, `size` pixels a side.
    """
    # Nothing here is sharp, so it is drawn small and enlarged.
    small = 96
    place = (np.arange(small) + 0.5) / small - 0.5
    ramp = np.cos(identity.backdrop_angle) * place + np.sin(identity.backdrop_angle) * place[:, None]
    ramp = np.clip(0.5 + ramp / 1.3, 0.0, 1.0)[..., None]
    first, second = np.array(identity.backdrop, dtype=np.float64)
    image = Image.fromarray(np.round(first + (second - first) * ramp).astype(np.uint8))
    draw = ImageDraw.Draw(image, "RGBA")
    for shape in identity.backdrop_shapes:
        x, y, radius = small * shape.x, small * shape.y, small * shape.radius
        if shape.is_disc:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=shape.color)
        else:
            draw.rectangle((x - radius, y - 1.6 * radius, x + radius, y + 1.6 * radius), fill=shape.color)
    return image.filter(ImageFilter.GaussianBlur(1.5)).resize((size, size), Image.Resampling.BICUBIC)
