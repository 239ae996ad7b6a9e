"""Who a synthetic talking head is: everything about its looks that motion leaves alone, from a seed alone."""

import colorsys
from dataclasses import dataclass

import numpy as np

from leo_diffusers.data.talking_head_checks import check_integer
from leo_diffusers.data.talking_head_layers import RGB, mix


SKIN_TONES = (
    (252, 226, 205),
    (245, 208, 180),
    (238, 193, 158),
    (224, 172, 131),
    (206, 150, 108),
    (182, 125, 86),
    (152, 99, 67),
    (124, 79, 54),
    (98, 62, 44),
    (76, 48, 36),
)
NATURAL_HAIR = (
    (28, 24, 26),
    (45, 32, 28),
    (70, 46, 34),
    (98, 63, 40),
    (132, 88, 52),
    (168, 120, 68),
    (208, 166, 98),
    (232, 204, 142),
    (160, 74, 38),
    (126, 50, 32),
)
GREY_HAIR = ((120, 120, 122), (170, 170, 172), (222, 220, 216))
IRIS_COLORS = (
    (62, 40, 26),
    (88, 58, 34),
    (120, 84, 44),
    (96, 112, 60),
    (70, 120, 96),
    (74, 118, 160),
    (110, 130, 146),
)

LONG_STYLES = ("bob", "long", "long", "wavy", "wavy", "bun", "ponytail", "space_buns", "curly", "afro", "headscarf")
SHORT_STYLES = ("buzz", "short", "short", "side_part", "side_part", "quiff", "curly", "afro", "bald", "bun")
FRINGES = {
    "bob": ("straight", "sweep", "curtain"),
    "long": ("straight", "sweep", "curtain", "curtain", "none"),
    "wavy": ("sweep", "curtain", "curtain", "none"),
    "bun": ("none", "none", "sweep", "curtain"),
    "ponytail": ("none", "straight", "sweep"),
    "space_buns": ("curtain", "straight"),
    "curly": ("curls",),
    "afro": ("curls", "none"),
    "buzz": ("none", "peak"),
    "short": ("spiky", "straight", "peak", "sweep"),
    "side_part": ("sweep",),
    "quiff": ("none", "peak"),
    "bald": ("none",),
    "headscarf": ("none",),
}
OUTFITS = ("tee", "vneck", "shirt", "suit", "hoodie", "turtleneck", "stripes", "tank")

# Keeps the stream of an identity seed apart from those of the same motion seed.
_IDENTITY_STREAM = 0


@dataclass(frozen=True)
class BackdropShape:
    r"""
    A soft disc or upright bar in the background.

    Args:
        is_disc (`bool`): Disc if true, else bar.
        x (`float`): Centre in frame widths.
        y (`float`): Centre in frame heights.
        radius (`float`): In frame widths.
        color (`tuple` of `int`): RGBA, 0 to 255.
    """

    is_disc: bool
    x: float
    y: float
    radius: float
    color: tuple[int, int, int, int]


@dataclass(frozen=True)
class TalkingHeadIdentity:
    r"""
    The looks of one synthetic person and the place around them. Colours are RGB, 0 to 255; lengths are in head units
    (half the height of the head) or factors on the average face (1 = average).

    Args:
        skin (`tuple` of `int`): Colour of the skin in even light.
        lips (`tuple` of `int`): Colour of the lips.
        hair (`tuple` of `int`): Colour of the hair, or of the cloth of a headscarf.
        brow (`tuple` of `int`): Colour of brows and beard.
        iris (`tuple` of `int`): Colour of the irises.
        lashes (`float`): Thickness of the lash line, factor.
        eyeshadow (`tuple` of `int`): Colour of the upper lid.
        head_width (`float`): Factor.
        cheek_width (`float`): Factor.
        jaw_width (`float`): Factor.
        chin_size (`float`): Factor.
        chin_drop (`float`): How far the chin lies below the average one, head units.
        hairline (`float`): How far the hairline lies above the average one, head units.
        hair_style (`str`): A key of `FRINGES`.
        fringe (`str`): One of the values of `FRINGES`.
        part_side (`int`): -1 or 1, the side of the parting; 1 is the viewer's right.
        hair_volume (`float`): Factor.
        hair_length (`float`): Where long hair ends below the centre of the head, head units.
        eye_size (`float`): Factor.
        eye_opening (`float`): Height of the open eye, factor.
        eye_spacing (`float`): Distance of an eye from the middle of the face, head units.
        eye_tilt (`float`): How far the outer corner lies above the inner one, head units.
        brow_thickness (`float`): Factor.
        brow_arch (`float`): Rise of the brow's middle, head units.
        brow_slant (`float`): How far the outer end lies above the inner one, head units.
        nose_length (`float`): Height of the tip below the centre of the head, head units.
        nose_width (`float`): Factor.
        nose_depth (`float`): How far the tip stands out of the face, head units.
        mouth_width (`float`): Factor.
        lip_fullness (`float`): Factor.
        mouth_height (`float`): Position below the centre of the head, head units.
        facial_hair (`str`): "none", "moustache", "goatee", "beard" or "stubble".
        glasses (`str`): "none", "round", "square" or "oval".
        glasses_color (`tuple` of `int`): Colour of the frame.
        ear_size (`float`): Factor.
        earring (`tuple` of `int`, *optional*): Colour, if any are worn.
        freckles (`bool`): Whether nose and cheeks carry freckles.
        age (`float`): 0 young to 1 old: depth of the lines beside the mouth.
        blush (`float`): Strength of the cheeks' red, 0 to 1.
        outfit (`str`): One of `OUTFITS`.
        cloth (`tuple` of `int`): Main colour of the clothes.
        accent (`tuple` of `int`): Second colour of the clothes.
        shoulder_width (`float`): Factor.
        neck_width (`float`): Factor.
        backdrop (`tuple`): The two ends of the background's gradient.
        backdrop_angle (`float`): Direction of the gradient, radians.
        backdrop_shapes (`tuple` of `BackdropShape`): Drawn on the gradient.
        shadow_angle (`float`): Direction in the image, radians clockwise from right, that light does not reach.
        shadow_strength (`float`): 0 to 1.
    """

    skin: RGB
    lips: RGB
    hair: RGB
    brow: RGB
    iris: RGB
    lashes: float
    eyeshadow: RGB
    head_width: float
    cheek_width: float
    jaw_width: float
    chin_size: float
    chin_drop: float
    hairline: float
    hair_style: str
    fringe: str
    part_side: int
    hair_volume: float
    hair_length: float
    eye_size: float
    eye_opening: float
    eye_spacing: float
    eye_tilt: float
    brow_thickness: float
    brow_arch: float
    brow_slant: float
    nose_length: float
    nose_width: float
    nose_depth: float
    mouth_width: float
    lip_fullness: float
    mouth_height: float
    facial_hair: str
    glasses: str
    glasses_color: RGB
    ear_size: float
    earring: RGB | None
    freckles: bool
    age: float
    blush: float
    outfit: str
    cloth: RGB
    accent: RGB
    shoulder_width: float
    neck_width: float
    backdrop: tuple[RGB, RGB]
    backdrop_angle: float
    backdrop_shapes: tuple[BackdropShape, ...]
    shadow_angle: float
    shadow_strength: float


def _pick(rng: np.random.Generator, options: tuple) -> object:
    return options[rng.integers(len(options))]


def _hsv(hue: float, saturation: float, value: float) -> RGB:
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(hue % 1.0, saturation, value))


def _skin_and_hair(rng: np.random.Generator, is_feminine: bool, age: float) -> dict[str, RGB]:
    tone = rng.uniform(0.0, len(SKIN_TONES) - 1.001)
    skin = mix(SKIN_TONES[int(tone)], SKIN_TONES[int(tone) + 1], tone % 1.0)
    darkness = tone / (len(SKIN_TONES) - 1)
    # Light hair and eyes grow rarer with darker skin.
    num_hair = len(NATURAL_HAIR) if darkness < 0.35 else 5 if darkness < 0.6 else 3
    brow = _pick(rng, NATURAL_HAIR[:num_hair])
    if age > 0.72:
        brow = _pick(rng, GREY_HAIR)
    is_dyed = rng.random() < 0.1
    hair = _hsv(rng.random(), rng.uniform(0.45, 0.7), rng.uniform(0.55, 0.9)) if is_dyed else brow
    iris = _pick(rng, IRIS_COLORS if darkness < 0.4 else IRIS_COLORS[:3])
    natural_lips = mix(skin, (170, 52, 60), 0.42)
    lipstick = mix(natural_lips, _hsv(rng.uniform(0.92, 1.02), 0.75, 0.72), rng.uniform(0.4, 0.9))
    wears_makeup = is_feminine and rng.random() < 0.55
    shadow = mix(skin, _hsv(rng.random(), 0.45, 0.5), 0.35) if wears_makeup else mix(skin, (110, 52, 48), 0.2)
    return {
        "skin": skin,
        "hair": hair,
        "brow": mix(brow, (40, 28, 26), 0.3),
        "iris": iris,
        "lips": lipstick if wears_makeup else natural_lips,
        "eyeshadow": shadow,
    }


def _face_shape(rng: np.random.Generator, is_feminine: bool) -> dict[str, float]:
    softness = 0.06 if is_feminine else 0.0
    return {
        "head_width": rng.uniform(0.93, 1.06),
        "cheek_width": rng.uniform(0.96, 1.06),
        "jaw_width": rng.uniform(0.84, 1.1) - softness,
        "chin_size": rng.uniform(0.75, 1.3) - 2.0 * softness,
        "chin_drop": rng.uniform(-0.06, 0.07) - 0.5 * softness,
        "eye_size": rng.uniform(1.0, 1.18) + softness,
        "eye_opening": rng.uniform(0.82, 1.15) + softness,
        "eye_spacing": rng.uniform(0.295, 0.33),
        "eye_tilt": rng.uniform(-0.02, 0.04),
        "brow_thickness": rng.uniform(0.8, 1.4) - 4.0 * softness,
        "brow_arch": rng.uniform(0.01, 0.06),
        "brow_slant": rng.uniform(-0.05, 0.02),
        "nose_length": rng.uniform(0.27, 0.37),
        "nose_width": rng.uniform(0.8, 1.3),
        "nose_depth": rng.uniform(0.16, 0.25) - 0.3 * softness,
        "mouth_width": rng.uniform(0.94, 1.2),
        "lip_fullness": rng.uniform(0.7, 1.25) + 2.0 * softness,
        "mouth_height": rng.uniform(0.575, 0.63),
        "ear_size": rng.uniform(0.85, 1.15),
        "shoulder_width": rng.uniform(0.95, 1.12) - softness,
        "neck_width": rng.uniform(0.95, 1.12) - 2.0 * softness,
    }


def _hair_cut(rng: np.random.Generator, is_feminine: bool, age: float) -> dict[str, object]:
    style = _pick(rng, LONG_STYLES if is_feminine else SHORT_STYLES)
    hairline = rng.uniform(-0.04, 0.06) + (0.08 * age if not is_feminine else 0.0)
    return {
        "hair_style": style,
        "fringe": _pick(rng, FRINGES[style]),
        "part_side": int(_pick(rng, (-1, 1))),
        "hair_volume": rng.uniform(0.92, 1.1),
        "hair_length": rng.uniform(1.1, 1.75),
        "hairline": hairline,
    }


def _accessories(rng: np.random.Generator, is_feminine: bool) -> dict[str, object]:
    facial_hair = _pick(rng, ("none", "none", "none", "moustache", "goatee", "beard", "beard", "stubble", "stubble"))
    glasses_color = _pick(
        rng, ((34, 30, 32), (34, 30, 32), (96, 54, 34), (150, 44, 52), (186, 152, 84), (60, 84, 130))
    )
    earring = _pick(rng, ((236, 196, 92), (225, 228, 232), (200, 60, 80), (80, 170, 180)))
    return {
        "facial_hair": "none" if is_feminine else facial_hair,
        "glasses": _pick(rng, ("round", "square", "oval")) if rng.random() < 0.25 else "none",
        "glasses_color": glasses_color,
        "earring": earring if rng.random() < (0.5 if is_feminine else 0.08) else None,
        "freckles": bool(rng.random() < 0.12),
        "blush": rng.uniform(0.2, 0.9) if is_feminine else rng.uniform(0.0, 0.5),
        "lashes": rng.uniform(1.1, 1.6) if is_feminine else rng.uniform(0.7, 1.0),
    }


def _surroundings(rng: np.random.Generator) -> dict[str, object]:
    hue = rng.random()
    light, dark = rng.uniform(0.6, 0.95), rng.uniform(0.3, 0.6)
    first = _hsv(hue, rng.uniform(0.1, 0.45), light)
    second = _hsv(hue + rng.uniform(-0.12, 0.12), rng.uniform(0.2, 0.5), dark)
    shapes = []
    for _ in range(rng.integers(0, 5)):
        color = _hsv(hue + rng.uniform(-0.2, 0.2), rng.uniform(0.15, 0.5), rng.uniform(0.4, 0.95))
        x, y, radius = rng.uniform(0.0, 1.0), rng.uniform(0.0, 0.7), rng.uniform(0.06, 0.2)
        shapes.append(BackdropShape(bool(rng.random() < 0.65), x, y, radius, (*color, int(rng.integers(70, 150)))))
    cloth = _hsv(rng.random(), rng.uniform(0.1, 0.75), rng.uniform(0.25, 0.9))
    accent = _pick(rng, ((245, 243, 238), (40, 42, 50), _hsv(rng.random(), 0.6, 0.8)))
    shadow_side = _pick(rng, (0.0, np.pi))
    return {
        "backdrop": (first, second),
        "backdrop_angle": rng.uniform(0.0, 2.0 * np.pi),
        "backdrop_shapes": tuple(shapes),
        "outfit": _pick(rng, OUTFITS),
        "cloth": cloth,
        "accent": accent,
        # Light comes from above one shoulder, so the shadow lies to the other side and a little down.
        "shadow_angle": float(shadow_side + (1.0 if shadow_side == 0.0 else -1.0) * rng.uniform(0.1, 0.7)),
        "shadow_strength": rng.uniform(0.4, 1.0),
    }


def sample_identity(identity_seed: int) -> TalkingHeadIdentity:
    r"""
    Draws one synthetic person.

    Args:
        identity_seed (`int`): Seed, at least 0. The same seed gives the same person in every motion.

    Returns:
        `TalkingHeadIdentity`: The person, their clothes, the light and the background.
    """
    check_integer("identity_seed", identity_seed, 0, "seeds count from 0.")
    rng = np.random.default_rng([identity_seed, _IDENTITY_STREAM])
    is_feminine = bool(rng.random() < 0.5)
    age = rng.random()
    return TalkingHeadIdentity(
        age=age,
        **_skin_and_hair(rng, is_feminine, age),
        **_face_shape(rng, is_feminine),
        **_hair_cut(rng, is_feminine, age),
        **_accessories(rng, is_feminine),
        **_surroundings(rng),
    )
