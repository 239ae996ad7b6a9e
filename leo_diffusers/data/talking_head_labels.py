"""The labels of a synthetic talking head: what a network can be asked to read off its frames."""

import numpy as np

from leo_diffusers.data.frame_labels import FrameLabels
from leo_diffusers.data.talking_head_identity import FRINGES, OUTFITS, TalkingHeadIdentity
from leo_diffusers.data.talking_head_motion import MOTION_NAMES
from leo_diffusers.data.talking_heads import KEYPOINT_GROUPS, TalkingHeadClip


_COLORS = ("skin", "hair", "iris", "lips", "cloth")
_KINDS = {
    "hair_style": tuple(FRINGES),
    "facial_hair": ("none", "moustache", "goatee", "beard", "stubble"),
    "glasses": ("none", "round", "square", "oval"),
    "outfit": OUTFITS,
}


def identity_attributes(identity: TalkingHeadIdentity) -> dict[str, float]:
    r"""
    Args:
        identity (`TalkingHeadIdentity`): The person.

    Returns:
        `dict[str, float]`: Numbers in [0, 1] by name: colours as "skin.red", kinds as "glasses=round" (1 for the kind
        that it is, 0 for the others). The same names for everyone.
    """
    colors = {name: getattr(identity, name) for name in _COLORS}
    colors |= {"backdrop": identity.backdrop[0], "backdrop_end": identity.backdrop[1]}
    attributes = {
        f"{name}.{channel}": value / 255
        for name, color in colors.items()
        for channel, value in zip(("red", "green", "blue"), color)
    }
    for kind, values in _KINDS.items():
        attributes |= {f"{kind}={value}": float(getattr(identity, kind) == value) for value in values}
    return attributes | {"earring": float(identity.earring is not None), "freckles": float(identity.freckles)}


def label_clip(clip: TalkingHeadClip, motion_id: str = "") -> FrameLabels:
    r"""
    Args:
        clip (`TalkingHeadClip`): A rendered clip.
        motion_id (`str`): The same for clips of the same motion.

    Returns:
        `FrameLabels`: Its keypoints, its motion and the person's attributes.
    """
    attributes = identity_attributes(clip.identity)
    return FrameLabels(
        keypoints=clip.keypoints / clip.frames.shape[1],
        motion=clip.motion,
        attributes=np.array(list(attributes.values()), np.float32),
        keypoint_groups=KEYPOINT_GROUPS,
        motion_names=list(MOTION_NAMES),
        attribute_names=list(attributes),
        motion_id=motion_id,
    )
