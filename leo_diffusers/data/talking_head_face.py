"""The features of a synthetic face, each drawn as layers on the front of the head, and their keypoints."""

import numpy as np

from leo_diffusers.data.talking_head_geometry import FaceShape, HeadPose
from leo_diffusers.data.talking_head_layers import RGB, Layer, mix


BLACK, WHITE = (18, 14, 18), (255, 255, 255)
_EYE_HEIGHT = 0.05
_CIRCLE = np.linspace(0.0, 2.0 * np.pi, 20, endpoint=False)
_ACROSS = np.linspace(-1.0, 1.0, 17)  # from the viewer's left to right
_SIDES = {"left": -1.0, "right": 1.0}

# Positions in `_ACROSS` whose points become keypoints.
_LEFT_END, _LEFT_THIRD, _MIDDLE, _RIGHT_THIRD, _RIGHT_END = 0, 5, 8, 11, 16


class FaceSketch:
    r"""
    Collects the layers and keypoints of one face, features behind first.

    Args:
        pose (`HeadPose`): The head in every frame.
        shape (`FaceShape`): The person's head.
    """

    def __init__(self, pose: HeadPose, shape: FaceShape):
        self.pose = pose
        self.shape = shape
        self.identity = shape.identity
        self.motion = {name: column[:, None] for name, column in pose.motion.items()}  # (F, 1) each
        self.layers: list[Layer] = []
        self.keypoints: dict[str, np.ndarray] = {}

    def patch(
        self,
        x: np.ndarray,
        y: np.ndarray,
        color: tuple[int, ...],
        height: float | np.ndarray = 0.0,
        visible: np.ndarray | None = None,
    ) -> np.ndarray:
        r"""
        Adds a polygon that lies on the face.

        Args:
            x (`np.ndarray` of shape `(N,)` or `(F, N)`): Head units.
            y (`np.ndarray` of shape `(N,)` or `(F, N)`): Head units.
            color (`tuple` of `int`): RGB or RGBA.
            height (`float` or `np.ndarray`): How far above the skin, head units.
            visible (`np.ndarray` of shape `(F,)`, *optional*): Frames in which it is drawn.

        Returns:
            `np.ndarray` of shape `(F, N, 2)`: Its corners in pixels.
        """
        points = self.pose.project(self.shape.lift(x, y, height))
        self.layers.append(Layer(points, color, visible))
        return points

    def band(
        self, x: np.ndarray, top: np.ndarray, bottom: np.ndarray, color: tuple[int, ...], height: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""
        Adds the area between two curves over the same `x`.

        Args:
            x (`np.ndarray` of shape `(N,)` or `(F, N)`): Head units.
            top (`np.ndarray` of shape `(N,)` or `(F, N)`): Height of the upper curve.
            bottom (`np.ndarray` of shape `(N,)` or `(F, N)`): Height of the lower curve.
            color (`tuple` of `int`): RGB or RGBA.
            height (`float`): How far above the skin, head units.

        Returns:
            `tuple` of two `np.ndarray` of shape `(F, N, 2)`: Upper and lower curve in pixels, both as `x` runs.
        """
        x, top, bottom = np.broadcast_arrays(x, top, bottom)
        count = x.shape[-1]
        points = self.patch(
            np.concatenate([x, x[..., ::-1]], axis=-1),
            np.concatenate([top, bottom[..., ::-1]], axis=-1),
            color,
            height,
        )
        return points[:, :count], points[:, count:][:, ::-1]

    def spot(self, x: float, y: float, radius_x: float, radius_y: float, color: tuple, height: float = 0.0) -> None:
        r"""
        Adds an ellipse that lies on the face.

        Args:
            x (`float`): Centre, head units.
            y (`float`): Centre, head units.
            radius_x (`float`): Head units.
            radius_y (`float`): Head units.
            color (`tuple` of `int`): RGB or RGBA.
            height (`float`): How far above the skin, head units.
        """
        self.patch(x + radius_x * np.cos(_CIRCLE), y + radius_y * np.sin(_CIRCLE), color, height)


def draw_eye(sketch: FaceSketch, side_name: str) -> None:
    r"""
    Draws one eye; keypoints: left corner, upper lid (two), right corner, lower lid (two); and the iris.

    Args:
        sketch (`FaceSketch`): Where to draw.
        side_name (`str`): "left" or "right", as the viewer sees it.
    """
    identity, motion, side = sketch.identity, sketch.motion, _SIDES[side_name]
    half_width = 0.168 * identity.eye_size
    squint = 1.0 - 0.35 * np.clip(motion["smile"], 0.0, 1.0)
    rise = 0.112 * identity.eye_opening * identity.eye_size * (1.0 + 0.15 * motion["brows"])
    sink = 0.062 * identity.eye_opening * identity.eye_size * squint
    blink = motion["blink"]
    middle = side * identity.eye_spacing

    def slant(across: np.ndarray) -> np.ndarray:
        return _EYE_HEIGHT - identity.eye_tilt * side * across

    def lids(across: np.ndarray, closed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        bow = np.clip(1.0 - across**2, 0.0, None)
        meeting = 0.045 * bow
        upper = (1.0 - closed) * -rise * bow**0.62 + closed * meeting
        lower = (1.0 - closed) * sink * bow**0.8 + closed * meeting
        return upper + slant(across), lower + slant(across)

    x = middle + half_width * _ACROSS
    upper, lower = lids(_ACROSS, blink)
    open_upper, _ = lids(_ACROSS, 0.35 * blink)
    crease = open_upper - 0.055 * np.clip(1.0 - _ACROSS**2, 0.0, None) ** 0.5
    lid_color = identity.eyeshadow
    sketch.band(x, crease, upper, lid_color)
    sketch.band(x, crease - 0.006, crease + 0.012, mix(lid_color, BLACK, 0.35))
    top, bottom = sketch.band(x, upper, lower, mix((250, 248, 244), identity.skin, 0.1))

    def draw_disc(radius: float, color: RGB) -> np.ndarray:
        across = (0.42 * half_width * motion["gaze_x"] + radius * np.cos(_CIRCLE)) / half_width
        across = np.clip(across, -0.97, 0.97)
        roof, floor = lids(across, blink)
        height = _EYE_HEIGHT - 0.015 + 0.05 * motion["gaze_y"] + radius * np.sin(_CIRCLE)
        return sketch.patch(middle + half_width * across, np.clip(height, roof, floor), color)

    iris_radius = 0.1 * identity.eye_size
    outline = draw_disc(iris_radius, mix(identity.iris, BLACK, 0.55))
    draw_disc(0.8 * iris_radius, identity.iris)
    draw_disc(0.45 * iris_radius, BLACK)
    is_open = blink[:, 0] < 0.45
    glint = 0.42 * half_width * motion["gaze_x"] + middle - 0.035 + 0.026 * np.cos(_CIRCLE[::2])
    glint_y = _EYE_HEIGHT - 0.05 + 0.05 * motion["gaze_y"] + 0.026 * np.sin(_CIRCLE[::2])
    sketch.patch(glint, glint_y, WHITE, visible=is_open)
    sketch.band(x, upper, upper + 0.25 * (lower - upper), (30, 16, 30, 60))
    lash = 0.034 * identity.lashes * (0.55 + 0.45 * np.clip(1.0 - _ACROSS**2, 0.0, None))
    wing = 1.0 + 0.07 * identity.lashes * (side * _ACROSS > 0.9)
    sketch.band(middle + (x - middle) * wing, upper - 0.6 * lash, upper + 0.4 * lash, mix(identity.brow, BLACK, 0.75))
    sketch.band(x, lower, lower + 0.014, mix(identity.skin, (70, 30, 34), 0.45))

    corners = (top[:, _LEFT_END], top[:, _LEFT_THIRD], top[:, _RIGHT_THIRD], top[:, _RIGHT_END])
    lower_lid = (bottom[:, _RIGHT_THIRD], bottom[:, _LEFT_THIRD])
    sketch.keypoints[f"{side_name}_eye"] = np.stack([*corners, *lower_lid], axis=1)
    sketch.keypoints[f"{side_name}_iris"] = outline.mean(axis=1, keepdims=True)


def draw_brow(sketch: FaceSketch, side_name: str) -> None:
    r"""
    Draws one brow; keypoints: inner end, middle, outer end.

    Args:
        sketch (`FaceSketch`): Where to draw.
        side_name (`str`): "left" or "right", as the viewer sees it.
    """
    identity, side = sketch.identity, _SIDES[side_name]
    raised, lowered = np.clip(sketch.motion["brows"], 0.0, 1.0), np.clip(-sketch.motion["brows"], 0.0, 1.0)
    outward = np.linspace(0.0, 1.0, 9)
    inner, outer = identity.eye_spacing - 0.19 * identity.eye_size, identity.eye_spacing + 0.185 * identity.eye_size
    x = side * (inner - 0.03 * lowered * (1.0 - outward) + (outer - inner) * outward)
    y = -0.185 - identity.brow_arch * np.sin(np.pi * outward**1.3) - identity.brow_slant * outward
    y = y - 0.1 * raised * (0.75 + 0.25 * np.sin(np.pi * outward)) + 0.06 * lowered * (1.0 - 0.7 * outward)
    thickness = 0.033 * identity.brow_thickness * np.interp(outward, [0.0, 0.3, 1.0], [0.85, 1.0, 0.25])
    top, bottom = sketch.band(x, y - thickness, y + thickness, identity.brow, height=0.02)
    sketch.keypoints[f"{side_name}_brow"] = 0.5 * (top + bottom)[:, [0, 4, 8]]


def draw_nose(sketch: FaceSketch) -> None:
    r"""
    Draws the nose; keypoints: bridge, tip, left wing, right wing, base.

    Args:
        sketch (`FaceSketch`): Where to draw.
    """
    identity, shape, pose = sketch.identity, sketch.shape, sketch.pose
    tip_y, depth, wing = identity.nose_length, identity.nose_depth, 0.115 * identity.nose_width
    x = np.array([0.0, 0.0, -wing, wing, 0.0])
    y = np.array([0.0, tip_y, tip_y + 0.03, tip_y + 0.03, tip_y + 0.08])
    marks = shape.lift(x, y, np.array([0.04, depth, 0.05, 0.05, 0.08]))  # (5, 3)
    bridge, tip, left_wing, right_wing, base = marks
    radii = np.array([[0.05], [0.085 * identity.nose_width], [0.07], [0.07]]) * np.ones(3)
    balls = np.stack([bridge, tip - [0, 0, 0.05], left_wing, right_wing])
    balls[2:, 0] *= 0.75
    body = pose.hull(np.concatenate([balls, radii], axis=1))
    sketch.layers.append(Layer(body, mix(identity.skin, (190, 70, 60), 0.05)))

    side = np.sign(np.cos(identity.shadow_angle))
    flank = shape.lift(np.array([side * 0.1]), np.array([0.0]))[0]
    dark_wing = right_wing if side > 0 else left_wing
    shade = mix(identity.skin, (60, 18, 30), 0.6)
    sketch.layers.append(Layer(pose.project(np.stack([bridge, tip, dark_wing, flank])), (*shade, 70)))
    under = np.stack([left_wing, tip + [0, 0.04, 0.0], right_wing, base + [0.04, 0.015, 0], base + [-0.04, 0.015, 0]])
    sketch.layers.append(Layer(pose.project(under), (*shade, 120)))
    for sign in (-1.0, 1.0):
        nostril = 0.035 * np.cos(_CIRCLE[::2]), 0.02 * np.sin(_CIRCLE[::2])
        sketch.patch(sign * 0.55 * wing + nostril[0], tip_y + 0.055 + nostril[1], mix(shade, BLACK, 0.45), 0.09)
    ridge = np.array([[-0.02, 0.04], [0.02, 0.04], [0.03, tip_y - 0.03], [-0.03, tip_y - 0.03]])
    lit = np.linspace(0.05, depth, 2)[[0, 0, 1, 1]]
    light = mix(identity.skin, WHITE, 0.7)
    sketch.patch(ridge[:, 0] - 0.02 * side, ridge[:, 1], (*light, 75), lit)
    sketch.spot(-0.03 * side, tip_y - 0.015, 0.032, 0.026, (*light, 80), depth)
    sketch.keypoints["nose"] = pose.project(marks)


def _mouth_curves(sketch: FaceSketch) -> tuple[np.ndarray, ...]:
    """x and the heights of the lips' four edges, upper lip first, each (F, N)."""
    identity, motion = sketch.identity, sketch.motion
    smile, frown = np.clip(motion["smile"], 0.0, 1.0), np.clip(-motion["smile"], 0.0, 1.0)
    opening, pucker = 0.3 * motion["mouth"], motion["pucker"]
    half_width = 0.245 * identity.mouth_width * (1.0 + 0.26 * smile - 0.06 * frown - 0.42 * pucker)
    half_width = half_width * (1.0 - 0.14 * motion["mouth"])
    bow = np.clip(1.0 - _ACROSS**2, 0.0, None)
    middle = identity.mouth_height + 0.02 * smile - 0.015 * frown
    rest = middle - 0.1 * smile * _ACROSS**2 + 0.075 * frown * _ACROSS**2
    inner_top = rest - 0.22 * opening * bow**0.5
    inner_bottom = rest + 0.78 * opening * bow**0.45
    fullness = identity.lip_fullness * (1.0 + 0.45 * pucker - 0.2 * smile)
    cupid = 1.0 - 0.22 * np.exp(-((_ACROSS / 0.2) ** 2))
    outer_top = inner_top - 0.062 * fullness * cupid * bow**0.75
    outer_bottom = inner_bottom + 0.078 * fullness * bow**0.65
    return half_width * _ACROSS, outer_top, inner_top, inner_bottom, outer_bottom


def draw_mouth(sketch: FaceSketch) -> None:
    r"""
    Draws lips, teeth and tongue, and the lines a smile leaves beside them; keypoints: eight around the lips' outer
    edge from the left corner clockwise, then the middle of the inner edge, above and below.

    Args:
        sketch (`FaceSketch`): Where to draw.
    """
    identity, motion = sketch.identity, sketch.motion
    x, outer_top, inner_top, inner_bottom, outer_bottom = _mouth_curves(sketch)
    bow = np.clip(1.0 - _ACROSS**2, 0.0, None)
    # Pursed lips come forward.
    height = 0.04 + 0.08 * motion["pucker"] * (1.0 - np.concatenate([_ACROSS, _ACROSS[::-1]]) ** 2)
    hollow = outer_bottom[:, 4:13] + 0.02
    sketch.band(x[:, 4:13], hollow, hollow + 0.06 * bow[4:13], (60, 20, 30, 40), 0.03)
    inner_upper, inner_lower = sketch.band(x, inner_top, inner_bottom, (70, 18, 28), height)
    gap = inner_bottom - inner_top
    tongue = inner_bottom - 0.42 * gap * np.clip(1.0 - (_ACROSS / 0.75) ** 2, 0.0, None)
    sketch.band(x, tongue, inner_bottom, (196, 84, 92), height)
    teeth = np.minimum(0.085 * bow**0.5, 0.6 * gap)
    sketch.band(0.92 * x, inner_top, inner_top + teeth, (246, 243, 236), height)
    upper_edge, _ = sketch.band(x, outer_top, inner_top, mix(identity.lips, (90, 20, 40), 0.18), height)
    _, lower_edge = sketch.band(x, inner_bottom, outer_bottom, identity.lips, height)
    shine = (inner_bottom + 0.35 * (outer_bottom - inner_bottom))[:, 5:12]
    sketch.band(x[:, 5:12], shine, shine + 0.02, (255, 240, 240, 70), 0.05)
    line = 0.009 + 0.006 * bow
    sketch.band(1.04 * x, inner_top - line, inner_top + line, mix(identity.lips, (40, 6, 16), 0.7), height)

    around = [*upper_edge[:, [0, 4, 8, 12, 16]].swapaxes(0, 1), *lower_edge[:, [12, 8, 4]].swapaxes(0, 1)]
    inner = (inner_upper[:, _MIDDLE], inner_lower[:, _MIDDLE])
    sketch.keypoints["mouth"] = np.stack([*around, *inner], axis=1)


def draw_cheeks(sketch: FaceSketch) -> None:
    r"""
    Draws blush, freckles and the lines from nose to mouth.

    Args:
        sketch (`FaceSketch`): Where to draw.
    """
    identity, smile = sketch.identity, np.clip(sketch.motion["smile"], 0.0, 1.0)
    down = np.linspace(0.0, 1.0, 6)
    shade = mix(identity.skin, (70, 24, 34), 0.6)
    for side in (-1.0, 1.0):
        sketch.spot(side * 0.42, 0.33, 0.15, 0.11, (226, 84, 84, round(60 * identity.blush)))
        start, end = 0.2, 0.33 * identity.mouth_width + 0.05 * smile
        x = side * (start + (end - start) * down**0.8)
        y = identity.nose_length + 0.06 + (0.18 - 0.04 * smile) * down
        width = 0.022 * np.sin(np.pi * np.clip(down, 0.05, 0.95)) * np.clip(identity.age - 0.4 + smile, 0.0, 1.0)
        outline = np.concatenate([x - width, (x + width)[..., ::-1]], axis=-1)
        sketch.patch(outline, np.concatenate([y, y[..., ::-1]], axis=-1), (*shade, 60))
        for index in range(6 if identity.freckles else 0):
            x, y = side * (0.19 + 0.05 * index), 0.23 + 0.045 * ((5 * index) % 4)
            sketch.spot(x, y, 0.016, 0.014, (*shade, 60))


def draw_moustache(sketch: FaceSketch, color: RGB) -> None:
    r"""
    Draws hair between nose and mouth, which rides on the upper lip.

    Args:
        sketch (`FaceSketch`): Where to draw.
        color (`tuple` of `int`): RGB.
    """
    x, outer_top, *_ = _mouth_curves(sketch)
    thickness = 0.035 + 0.06 * np.clip(1.0 - _ACROSS**2, 0.0, None) ** 0.7
    sag = 0.05 * _ACROSS**4
    sketch.band(1.12 * x, outer_top - thickness + sag, outer_top + 0.015 + sag, color, 0.05)


def draw_glasses(sketch: FaceSketch) -> None:
    r"""
    Draws glasses that stand off the face; the arm on the far side vanishes as the head turns.

    Args:
        sketch (`FaceSketch`): Where to draw.
    """
    identity, shape, pose = sketch.identity, sketch.shape, sketch.pose
    radius_x, radius_y, power = {"round": (0.2, 0.2, 1.0), "square": (0.225, 0.165, 0.5), "oval": (0.225, 0.16, 0.8)}[
        identity.glasses
    ]
    circle = np.linspace(0.0, 2.0 * np.pi, 33)
    cosine, sine = (np.sign(wave) * np.abs(wave) ** power for wave in (np.cos(circle), np.sin(circle)))
    middle_y, rim, height = _EYE_HEIGHT + 0.01, 0.026, 0.11
    for side in (-1.0, 1.0):
        middle = side * (identity.eye_spacing + 0.005)
        sketch.patch(middle + radius_x * cosine, middle_y + radius_y * sine, (235, 245, 255, 28), height)
        x = np.concatenate([(radius_x + rim) * cosine, (radius_x - rim * 0.4) * cosine[::-1]])
        y = np.concatenate([(radius_y + rim) * sine, (radius_y - rim * 0.4) * sine[::-1]])
        sketch.patch(middle + x, middle_y + y, identity.glasses_color, height)
        hinge = shape.lift(side * (identity.eye_spacing + radius_x + 0.02), middle_y - 0.04, height)
        ear = np.array([side * shape.face[3], 0.0, -0.05])
        drop = np.array([0.0, 0.022, 0.0])
        arm = pose.project(np.stack([hinge - drop, ear - drop, ear + drop, hinge + drop]))
        is_near = side * (arm[:, 1, 0] - arm[:, 0, 0]) > 0
        sketch.layers.append(Layer(arm, identity.glasses_color, is_near))
    gap = identity.eye_spacing - radius_x
    bridge_x = gap * np.array([-1.0, 0.0, 1.0, 1.0, 0.0, -1.0])
    bridge_y = middle_y - 0.03 + np.array([-0.02, -0.045, -0.02, 0.02, 0.0, 0.02])
    sketch.patch(bridge_x, bridge_y, identity.glasses_color, height)
