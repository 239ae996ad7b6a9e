"""Synthetic talking heads: clips of drawn people who turn, blink, look about and talk, with exact keypoints.

Free of rights and of real faces, made from two seeds on the fly: who is seen, and how they move.
"""

from dataclasses import dataclass

import numpy as np

from leo_diffusers.data.talking_head_body import body_layers, draw_background, shoulder_keypoints
from leo_diffusers.data.talking_head_checks import check_integer
from leo_diffusers.data.talking_head_face import (
    FaceSketch,
    draw_brow,
    draw_cheeks,
    draw_eye,
    draw_glasses,
    draw_moustache,
    draw_mouth,
    draw_nose,
)
from leo_diffusers.data.talking_head_geometry import FaceShape, HeadPose, crescent, outline_points
from leo_diffusers.data.talking_head_hair import (
    EAR_HIDING_STYLES,
    HAIR_SHADOW,
    HairVolumes,
    fringe_layers,
    hair_keypoints,
    hair_layer,
    hair_volumes,
    hanging_keypoints,
)
from leo_diffusers.data.talking_head_identity import TalkingHeadIdentity, sample_identity
from leo_diffusers.data.talking_head_layers import Layer, mix, paint, supersampling
from leo_diffusers.data.talking_head_motion import FRAME_RATE, MOTION_NAMES, MOTION_RANGES, sample_motion


__all__ = [
    "FIRST_HELD_OUT_SEED",
    "FRAME_RATE",
    "KEYPOINT_GROUPS",
    "MOTION_NAMES",
    "MOTION_RANGES",
    "TalkingHeadClip",
    "TalkingHeadIdentity",
    "render_clip",
    "render_frame",
    "render_motion",
    "sample_identity",
    "sample_motion",
]

# Seeds from here on, of identities and of motions, are for evaluation: nothing is ever trained on them.
FIRST_HELD_OUT_SEED = 1_000_000

# Points per group, in the order of the keypoints. "Left" is the viewer's left; the draw functions of
# talking_head_face.py say which point is which. The jaw runs from the right temple down around the chin. Where no hair
# hangs, its points lie on the shoulders.
_GROUP_SIZES = {
    "mouth": 10,
    "left_eye": 6,
    "right_eye": 6,
    "left_iris": 1,
    "right_iris": 1,
    "left_brow": 3,
    "right_brow": 3,
    "nose": 5,
    "jaw": 9,
    "hair": 9,
    "fringe": 5,
    "hanging_hair": 6,
    "shoulders": 8,
}
_GROUP_ENDS = np.cumsum(list(_GROUP_SIZES.values()))
KEYPOINT_GROUPS = {
    name: list(range(int(end) - count, int(end))) for (name, count), end in zip(_GROUP_SIZES.items(), _GROUP_ENDS)
}

# Long clips are laid out in pieces, to bound the memory that the outlines take.
_FRAMES_PER_PIECE = 64


@dataclass(frozen=True, eq=False)
class TalkingHeadClip:
    r"""
    A rendered clip.

    Args:
        frames (`np.ndarray` of shape `(F, H, W, 3)`): RGB, uint8.
        keypoints (`np.ndarray` of shape `(F, K, 2)`): Pixels (x, y), float32, grouped by `KEYPOINT_GROUPS`; the
            centre of the top left pixel is at (0.5, 0.5).
        motion (`np.ndarray` of shape `(F, P)`): Columns as in `MOTION_NAMES`, float32.
        identity (`TalkingHeadIdentity`): The person.
    """

    frames: np.ndarray
    keypoints: np.ndarray
    motion: np.ndarray
    identity: TalkingHeadIdentity


def _ear_layers(pose: HeadPose, shape: FaceShape, side: float) -> list[Layer]:
    identity = shape.identity
    bend = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 13)
    layers = []
    for scale, color in ((1.0, identity.skin), (0.6, mix(identity.skin, (120, 40, 40), 0.35))):
        outward = 0.24 * scale * identity.ear_size * np.cos(bend)
        height = 0.08 + 0.21 * scale * identity.ear_size * (np.sin(bend) - 0.12 * np.cos(bend) ** 2)
        x = side * (shape.face[3] - 0.02 + 0.5 * outward)
        layers.append(Layer(pose.project(np.stack([x, height, -0.06 - 0.85 * outward], axis=1)), color))
    if identity.earring is not None:
        lobe = np.array([[side * (shape.face[3] + 0.01), 0.33, -0.1, 0.055, 0.055, 0.055]])
        layers.append(Layer(pose.hull(lobe), identity.earring))
    return layers


def _skin_layers(pose: HeadPose, shape: FaceShape) -> tuple[list[Layer], np.ndarray]:
    """The face without features, and its outline (F, K, 2)."""
    identity, mouth = shape.identity, pose.motion["mouth"]
    outline = pose.hull(shape.skin_parts(mouth))
    skin = Layer(outline, identity.skin)
    if identity.facial_hair not in ("beard", "stubble"):
        return [skin], outline
    is_full = identity.facial_hair == "beard"
    color = identity.brow if is_full else mix(identity.skin, identity.brow, 0.3)
    parts = shape.skin_parts(mouth)
    parts[:, 2:] = shape.jaw(mouth, inflation=1.1 if is_full else 1.0)
    # What a beard leaves bare: a bowl from the temples to below the nose.
    cheeks = shape.face * [1.0, 1.0, 1.0, 0.97, 0.0, 0.98] + [0.0, -0.09, 0.0, 0.0, 0.56, 0.0]
    bare = pose.hull(np.stack([shape.forehead, cheeks]))
    outline = pose.hull(parts)
    return [Layer(outline, color), Layer(bare, identity.skin)], outline


def _shading_layers(pose: HeadPose, shape: FaceShape, outline: np.ndarray) -> list[Layer]:
    identity = shape.identity
    layers = []
    for width in (0.08, 0.17, 0.27, 0.38, 0.5):
        strength = round(20 * identity.shadow_strength)
        layers.append(Layer(crescent(outline, identity.shadow_angle, width * pose.unit), (50, 10, 40, strength)))
    if identity.hair_style != "bald":
        layers.append(Layer(crescent(outline, -0.5 * np.pi, 0.09 * pose.unit), (50, 16, 30, 60)))
    light = crescent(outline, identity.shadow_angle + np.pi, 0.2 * pose.unit)
    layers.append(Layer(light, (255, 244, 225, 26)))
    return layers


def _draw_features(pose: HeadPose, shape: FaceShape) -> FaceSketch:
    identity = shape.identity
    sketch = FaceSketch(pose, shape)
    draw_cheeks(sketch)
    if identity.facial_hair == "goatee":
        chin = shape.jaw(pose.motion["mouth"], inflation=1.08)[:, 2:]
        lip = np.array([0.0, identity.mouth_height + 0.12, 0.5, 0.2, 0.12, 0.16])
        lip = np.repeat(lip[None, None], pose.num_frames, axis=0)
        lip[:, 0, 1] += 0.1 * pose.motion["mouth"]
        sketch.layers.append(Layer(pose.hull(np.concatenate([chin, lip], axis=1)), identity.brow))
    for side_name in ("left", "right"):
        draw_eye(sketch, side_name)
        draw_brow(sketch, side_name)
    if identity.facial_hair in ("moustache", "goatee", "beard"):
        draw_moustache(sketch, mix(identity.brow, (0, 0, 0), 0.12))
    draw_mouth(sketch)
    draw_nose(sketch)
    return sketch


def _head_layers(pose: HeadPose, shape: FaceShape, hair: HairVolumes) -> tuple[list[Layer], np.ndarray]:
    identity = shape.identity
    skin, outline = _skin_layers(pose, shape)
    skull = crescent(pose.hull(hair.cap.fixed), identity.shadow_angle, 0.14 * pose.unit)
    layers = [hair_layer(pose, identity, hair.cap), Layer(skull, HAIR_SHADOW)]
    has_ears = identity.hair_style not in EAR_HIDING_STYLES
    near_ears = []
    for side in (-1.0, 1.0) if has_ears else ():
        is_near = pose.depth((side, 0.0, 0.0)) > 0
        ear = _ear_layers(pose, shape, side)
        layers += [Layer(part.points, part.color, ~is_near) for part in ear]
        near_ears += [Layer(part.points, part.color, is_near) for part in ear]
    sketch = _draw_features(pose, shape)
    layers += skin + _shading_layers(pose, shape, outline) + near_ears + sketch.layers
    layers += fringe_layers(pose, identity, hair.cap)
    if identity.glasses != "none":
        glasses = FaceSketch(pose, shape)
        draw_glasses(glasses)
        layers += glasses.layers
    shoulders, hanging = shoulder_keypoints(pose, identity), hanging_keypoints(pose, hair)
    sketch.keypoints |= {
        "jaw": outline_points(outline, np.linspace(0.0, np.pi, _GROUP_SIZES["jaw"])),
        **hair_keypoints(pose, identity, hair),
        "hanging_hair": shoulders[:, :6] if hanging is None else hanging,
        "shoulders": shoulders,
    }
    return layers, np.concatenate([sketch.keypoints[name] for name in KEYPOINT_GROUPS], axis=1)


def _render_piece(identity: TalkingHeadIdentity, motion: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    factor = supersampling(size)
    pose, shape = HeadPose(motion, size * factor), FaceShape(identity)
    hair = hair_volumes(identity, shape)
    layers = [hair_layer(pose, identity, volume) for volume in hair.behind]
    layers += body_layers(pose, identity)
    layers += [hair_layer(pose, identity, volume) for volume in hair.beside]
    head_layers, keypoints = _head_layers(pose, shape, hair)
    frames = paint(layers + head_layers, draw_background(identity, size * factor), len(motion), size)
    return frames, (keypoints / factor).astype(np.float32)


def render_motion(identity: TalkingHeadIdentity, motion: np.ndarray, size: int = 128) -> tuple[np.ndarray, np.ndarray]:
    r"""
    Draws one person through one motion.

    Args:
        identity (`TalkingHeadIdentity`): The person.
        motion (`np.ndarray` of shape `(F, P)`): Columns as in `MOTION_NAMES`, normally within `MOTION_RANGES`.
        size (`int`): Side of the frames in pixels, at least 16.

    Returns:
        `tuple` of `np.ndarray`: Frames of shape `(F, size, size, 3)`, uint8, RGB; keypoints of shape `(F, K, 2)`,
        float32, pixels (x, y).
    """
    check_integer("size", size, 16, "a smaller face shows no features; render larger and reduce.")
    motion = np.asarray(motion)
    if motion.ndim != 2 or motion.shape[1] != len(MOTION_NAMES) or len(motion) == 0:
        expected = f"(F, {len(MOTION_NAMES)})"
        raise ValueError(
            f"`motion` must have shape {expected}, got {motion.shape}: one column per MOTION_NAMES entry."
        )
    starts = range(0, len(motion), _FRAMES_PER_PIECE)
    pieces = [_render_piece(identity, motion[start : start + _FRAMES_PER_PIECE], size) for start in starts]
    frames, keypoints = zip(*pieces)
    return np.concatenate(frames), np.concatenate(keypoints)


def render_frame(
    identity: TalkingHeadIdentity, motion_row: np.ndarray, size: int = 128
) -> tuple[np.ndarray, np.ndarray]:
    r"""
    Draws one person in one pose.

    Args:
        identity (`TalkingHeadIdentity`): The person.
        motion_row (`np.ndarray` of shape `(P,)`): Entries as in `MOTION_NAMES`, normally within `MOTION_RANGES`.
        size (`int`): Side of the frame in pixels, at least 16.

    Returns:
        `tuple` of `np.ndarray`: The frame of shape `(size, size, 3)`, uint8, RGB; keypoints of shape `(K, 2)`,
        float32, pixels (x, y).
    """
    motion_row = np.asarray(motion_row)
    if motion_row.shape != (len(MOTION_NAMES),):
        expected = f"({len(MOTION_NAMES)},)"
        raise ValueError(f"`motion_row` must have shape {expected}, got {motion_row.shape}: pass one row of a motion.")
    frames, keypoints = render_motion(identity, motion_row[None], size)
    return frames[0], keypoints[0]


def render_clip(identity_seed: int, motion_seed: int, num_frames: int = 64, size: int = 128) -> TalkingHeadClip:
    r"""
    Renders a clip of a synthetic talking head at 25 frames per second. The same arguments give the same bytes, and a
    shorter clip is the beginning of a longer one.

    Args:
        identity_seed (`int`): Who is seen, at least 0; from `FIRST_HELD_OUT_SEED` on never trained on.
        motion_seed (`int`): How they move, at least 0; from `FIRST_HELD_OUT_SEED` on never trained on.
        num_frames (`int`): Number F of frames, at least 1.
        size (`int`): Side of the frames in pixels, at least 16.

    Returns:
        `TalkingHeadClip`: Frames, keypoints, motion and identity.

    Examples:
        ```py
        >>> from leo_diffusers.data.talking_heads import KEYPOINT_GROUPS, render_clip
        >>> from leo_diffusers.video_io import write_video

        >>> clip = render_clip(identity_seed=0, motion_seed=1, num_frames=8)
        >>> clip.frames.shape
        (8, 128, 128, 3)
        >>> mouth = clip.keypoints[:, KEYPOINT_GROUPS["mouth"]]  # (F, K, 2)
        >>> write_video("person.mp4", clip.frames, frames_per_second=25)
        ```
    """
    identity, motion = sample_identity(identity_seed), sample_motion(motion_seed, num_frames)
    frames, keypoints = render_motion(identity, motion, size)
    return TalkingHeadClip(frames, keypoints, motion, identity)
