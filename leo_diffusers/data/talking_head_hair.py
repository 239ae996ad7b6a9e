"""Hair of synthetic talking heads: volumes behind, beside and on the skull, and the fringe in front."""

from dataclasses import dataclass, field

import numpy as np

from leo_diffusers.data.talking_head_geometry import FaceShape, HeadPose, outline_points
from leo_diffusers.data.talking_head_identity import TalkingHeadIdentity
from leo_diffusers.data.talking_head_layers import RGB, Layer, mix


# Lies on the side of the hair that light does not reach; RGBA.
HAIR_SHADOW = (20, 8, 30, 45)

# How far the cap of hair stands off the skull.
_CAP_SCALE = {
    "bald": 1.0,
    "buzz": 1.015,
    "short": 1.07,
    "side_part": 1.08,
    "quiff": 1.05,
    "curly": 1.16,
    "afro": 1.1,
    "bob": 1.1,
    "long": 1.08,
    "wavy": 1.1,
    "bun": 1.05,
    "ponytail": 1.05,
    "space_buns": 1.06,
    "headscarf": 1.09,
}
_CURL_DEPTH = {"curly": 0.05, "afro": 0.03, "wavy": 0.025}
_HANGING_STYLES = ("bob", "long", "wavy")

EAR_HIDING_STYLES = (*_HANGING_STYLES, "headscarf")


@dataclass(eq=False)
class HairVolume:
    r"""
    One convex mass of hair.

    Args:
        fixed (`np.ndarray` of shape `(E, 6)`): Ellipsoids that turn with the head.
        hanging (`np.ndarray` of shape `(H, 6)`, *optional*): Ellipsoids that hang from it.
        darkness (`float`): 0 for the hair's colour to 1, which lies halfway to the shadow's.
    """

    fixed: np.ndarray
    hanging: np.ndarray | None = None
    darkness: float = 0.0


@dataclass
class HairVolumes:
    r"""
    All masses of hair, by when they are drawn.

    Args:
        cap (`HairVolume`): On the skull, before the face.
        behind (`list` of `HairVolume`): Before neck and body.
        beside (`list` of `HairVolume`): After the body, before the cap.
    """

    cap: HairVolume
    behind: list[HairVolume] = field(default_factory=list)
    beside: list[HairVolume] = field(default_factory=list)


def _cap(identity: TalkingHeadIdentity, shape: FaceShape) -> HairVolume:
    cap = shape.cranium.copy()
    scale = 1.0 + (_CAP_SCALE[identity.hair_style] - 1.0) * identity.hair_volume
    cap[3:] *= scale
    parts, side = [cap], identity.part_side
    if identity.hair_style == "quiff":
        parts.append(np.array([0.05 * side, -0.85, 0.25, 0.5, 0.24 * identity.hair_volume, 0.36]))
    if identity.hair_style == "side_part":
        parts.append(np.array([-0.2 * side, -0.74, 0.12, 0.56, 0.34 * identity.hair_volume, 0.5]))
    if identity.hair_style == "afro":
        parts.append(np.array([0.0, -0.42, -0.12, 0.98, 0.84, 0.95]) * [1, 1, 1, *[identity.hair_volume] * 3])
    if identity.hair_style == "headscarf":
        parts.append(np.array([0.0, 0.3, 0.0, 0.74 * identity.head_width, 0.76, 0.58]))
    return HairVolume(np.stack(parts))


def hair_volumes(identity: TalkingHeadIdentity, shape: FaceShape) -> HairVolumes:
    r"""
    Builds a person's hair.

    Args:
        identity (`TalkingHeadIdentity`): The person.
        shape (`FaceShape`): Their head.

    Returns:
        `HairVolumes`: Ellipsoids in the head frame.
    """
    style, side, volume = identity.hair_style, identity.part_side, identity.hair_volume
    volumes = HairVolumes(_cap(identity, shape))
    width = shape.cranium[3]
    if style in _HANGING_STYLES:
        bottom = 0.55 if style == "bob" else identity.hair_length
        spread = 0.1 if style == "bob" else 0.16
        back = np.array([[0.0, -0.2, -0.2, 0.8 * width / 0.73 * volume, 0.7, 0.75]])
        ends = np.array([[sign * spread * 4.4, bottom, -0.35, 0.28 * volume, 0.3, 0.25] for sign in (-1, 1)])
        volumes.behind.append(HairVolume(back, ends, darkness=0.6))
        for sign in (-1.0, 1.0):
            top = np.array([[sign * width * 0.86, -0.3, 0.0, 0.2 * volume, 0.34, 0.34]])
            end = np.array([[sign * (width * 0.93 + 0.3 * spread), bottom - 0.05, 0.0, 0.14 * volume, 0.26, 0.24]])
            volumes.beside.append(HairVolume(top, end, darkness=0.12))
    if style == "bun":
        volumes.behind.append(
            HairVolume(np.array([[0.0, -1.05, -0.2, 0.27 * volume, 0.25 * volume, 0.27]]), darkness=0.2)
        )
    if style == "space_buns":
        for sign in (-1.0, 1.0):
            bun = np.array([[sign * 0.52, -0.9, -0.1, 0.25 * volume, 0.24 * volume, 0.25]])
            volumes.behind.append(HairVolume(bun, darkness=0.15))
    if style == "ponytail":
        root = np.array([[0.0, -0.55, -0.9, 0.22, 0.22, 0.2]])
        end = np.array([[0.45 * side, identity.hair_length - 0.4, -0.75, 0.2 * volume, 0.3, 0.2]])
        volumes.behind.append(HairVolume(root, end, darkness=0.4))
    return volumes


def _curl(outline: np.ndarray, depth: float, unit: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Pushes a smooth outline out into curls that turn with the head."""
    count = outline.shape[1]
    # Twice the points: with fewer, curls would alias into spikes.
    fine = np.linspace(0.0, count, 2 * count, endpoint=False)
    low = fine.astype(int)
    share = (fine - low)[:, None]
    dense = (1.0 - share) * outline[:, low] + share * outline[:, (low + 1) % count]
    centre = dense.mean(axis=1, keepdims=True)
    outward = dense - centre
    angle = np.arctan2(outward[..., 1], outward[..., 0]) - np.deg2rad(roll)[:, None]
    bump = depth * unit[:, None] * np.abs(np.sin(10.0 * angle))
    return dense + outward / np.linalg.norm(outward, axis=-1, keepdims=True) * bump[..., None]


def _hair_color(identity: TalkingHeadIdentity) -> RGB:
    cover = {"bald": 1.0, "buzz": 0.35}.get(identity.hair_style, 0.0)
    return mix(identity.hair, identity.skin, cover)


def hair_layer(pose: HeadPose, identity: TalkingHeadIdentity, volume: HairVolume) -> Layer:
    r"""
    Draws one mass of hair.

    Args:
        pose (`HeadPose`): The head in every frame.
        identity (`TalkingHeadIdentity`): The person.
        volume (`HairVolume`): The mass.

    Returns:
        `Layer`: Its outline in the hair's colour; for a bald head in the skin's.
    """
    outline = pose.hull(volume.fixed, volume.hanging)
    if identity.hair_style in _CURL_DEPTH:
        outline = _curl(outline, _CURL_DEPTH[identity.hair_style], pose.unit, pose.motion["roll"])
    return Layer(outline, mix(_hair_color(identity), HAIR_SHADOW[:3], 0.5 * volume.darkness))


def hair_keypoints(pose: HeadPose, identity: TalkingHeadIdentity, volumes: HairVolumes) -> dict[str, np.ndarray]:
    r"""
    Points of the hair: "hair", nine around the cap from the left temple over the crown to the right one, and "fringe",
    five along its edge on the forehead, which a turn hides behind the visible rim.

    Args:
        pose (`HeadPose`): The head in every frame.
        identity (`TalkingHeadIdentity`): The person.
        volumes (`HairVolumes`): Their hair.

    Returns:
        `dict` of `np.ndarray` of shape `(F, N, 2)`: Pixels (x, y).
    """
    crown = outline_points(pose.hull(volumes.cap.fixed), np.linspace(-np.pi, 0.0, 9))
    azimuth = np.linspace(-50.0, 50.0, 5)
    edge = np.full(5, 35.0) if identity.fringe == "none" else _fringe_edge(identity, azimuth)
    return {"hair": crown, "fringe": _on_cap(pose, volumes.cap.fixed[0], azimuth, edge)}


def hanging_keypoints(pose: HeadPose, volumes: HairVolumes) -> np.ndarray | None:
    r"""
    Three points down the outer edge of the hair beside the face, on the left and on the right.

    Args:
        pose (`HeadPose`): The head in every frame.
        volumes (`HairVolumes`): The person's hair.

    Returns:
        `np.ndarray` of shape `(F, 6, 2)`: Pixels (x, y); None where no hair hangs.
    """
    if not volumes.beside:
        return None
    points = []
    for sign, volume in zip((-1.0, 1.0), volumes.beside):
        ends = [pose.project(volume.fixed[:, :3]), pose.project(volume.hanging[:, :3], is_hanging=True)]
        widths = [volume.fixed[:, 3], volume.hanging[:, 3]]
        for end, width in zip(ends, widths):
            end[..., 0] += sign * width * pose.unit[:, None]
        top, bottom = ends
        points += [top, 0.5 * (top + bottom), bottom]
    return np.concatenate(points, axis=1)


def _fringe_edge(identity: TalkingHeadIdentity, azimuth: np.ndarray) -> np.ndarray:
    """Elevation in degrees above the middle of the skull at which the fringe ends."""
    side = identity.part_side * azimuth
    edge = {
        "straight": 8.0 + 2.0 * np.cos(azimuth / 9.0),
        "sweep": np.interp(side, [-70.0, -20.0, 28.0, 34.0, 70.0], [2.0, 15.0, 34.0, 35.0, 8.0]),
        "curtain": np.interp(np.abs(azimuth), [0.0, 12.0, 40.0, 65.0], [37.0, 33.0, 16.0, -4.0]),
        "spiky": 22.0 - 9.0 * np.abs(np.sin(azimuth / 9.0)),
        "peak": np.interp(np.abs(azimuth), [0.0, 8.0, 16.0, 38.0, 58.0], [25.0, 29.0, 33.0, 34.0, 22.0]),
        "curls": 24.0 - 7.0 * np.abs(np.sin(azimuth / 13.0)),
    }[identity.fringe]
    # Towards the temples every fringe runs down into the sideburns.
    return edge - 12.0 * np.clip((np.abs(azimuth) - 56.0) / 18.0, 0.0, 1.0)


def _on_cap(pose: HeadPose, cap: np.ndarray, azimuth: np.ndarray, elevation: np.ndarray) -> np.ndarray:
    """Pixels (F, N, 2) of points on the hair; those that the turn hides wait on the visible rim."""
    yaw = np.deg2rad(pose.motion["yaw"])[:, None]
    right_rim = np.arctan2(cap[3] * np.cos(yaw), cap[5] * np.sin(yaw))
    left_rim = np.arctan2(cap[3] * np.cos(yaw), cap[5] * -np.sin(yaw))
    azimuth, elevation = np.deg2rad(azimuth), np.deg2rad(elevation)
    azimuth = np.clip(azimuth, -left_rim, right_rim)  # (F, N)
    directions = np.stack([np.sin(azimuth), np.zeros_like(azimuth), np.cos(azimuth)], axis=-1)
    directions = directions * np.cos(elevation)[..., None]
    directions[..., 1] = -np.sin(elevation)
    return pose.project(cap[:3] + cap[3:] * directions)


def _fringe_outline(pose: HeadPose, identity: TalkingHeadIdentity, cap: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    edge = _fringe_edge(identity, azimuth)
    crown = np.maximum(68.0 * np.cos(np.deg2rad(0.45 * azimuth)), edge + 1.0)
    there_and_back = np.concatenate([azimuth, azimuth[..., ::-1]], axis=-1)
    return _on_cap(pose, cap, there_and_back, np.concatenate([edge, crown[..., ::-1]], axis=-1))


def fringe_layers(pose: HeadPose, identity: TalkingHeadIdentity, cap: HairVolume) -> list[Layer]:
    r"""
    Draws what hair falls over the forehead, and the light on the hair.

    Args:
        pose (`HeadPose`): The head in every frame.
        identity (`TalkingHeadIdentity`): The person.
        cap (`HairVolume`): The hair on the skull.

    Returns:
        `list` of `Layer`: In drawing order.
    """
    skull = cap.fixed[0]
    shadow_side = np.sign(np.cos(identity.shadow_angle))
    layers = []
    if identity.fringe != "none":
        azimuth = np.linspace(-135.0, 135.0, 101)
        layers.append(Layer(_fringe_outline(pose, identity, skull, azimuth), _hair_color(identity)))
        # The shadow stays where the light puts it, so on the head it moves against the turn.
        first = shadow_side * (55.0 - shadow_side * pose.motion["yaw"][:, None])
        shaded = shadow_side * np.maximum(shadow_side * azimuth, shadow_side * first)
        layers.append(Layer(_fringe_outline(pose, identity, skull, shaded), HAIR_SHADOW))
    strength = {"bald": 55, "buzz": 0, "headscarf": 35, "afro": 20, "curly": 30}.get(identity.hair_style, 50)
    azimuth = -shadow_side * np.linspace(-12.0, 52.0, 15)
    width = 5.5 * np.sin(np.pi * np.linspace(0.03, 0.97, 15))
    there_and_back = np.concatenate([azimuth, azimuth[::-1]])
    shine = _on_cap(pose, skull, there_and_back, 54.0 + np.concatenate([width, -width[::-1]]))
    layers.append(Layer(shine, (255, 248, 235, strength)))
    return layers
