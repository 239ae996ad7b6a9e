"""Heads as convex hulls of ellipsoids, turned in depth and projected to the image.

Head frame: x to the viewer's right, y down, z towards the viewer; the unit is half the height of an average head, so
the crown lies near y = -1 and the chin near y = 1. The projection is orthographic.
"""

import numpy as np

from leo_diffusers.data.talking_head_identity import TalkingHeadIdentity
from leo_diffusers.data.talking_head_motion import MOTION_NAMES


# Pixels of the frame per head unit, as a share of the frame's height, and where the head's centre rests.
HEAD_UNIT = 0.37
HEAD_CENTRE = (0.5, 0.5)

# Heads turn about the top of the neck, not about their own centre.
_PIVOT = np.array([0.0, 0.6, -0.2])

_NUM_DIRECTIONS = 72
_ANGLES = np.linspace(0.0, 2.0 * np.pi, _NUM_DIRECTIONS, endpoint=False)
_DIRECTIONS = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)])  # (2, K)


def rotation_matrices(yaw: np.ndarray, pitch: np.ndarray, roll: np.ndarray) -> np.ndarray:
    r"""
    Rotations of the head frame: pitch first, then yaw, then roll in the image plane.

    Args:
        yaw (`np.ndarray` of shape `(F,)`): Degrees; positive turns the nose (+z) towards +x.
        pitch (`np.ndarray` of shape `(F,)`): Degrees; positive turns the nose up, towards -y.
        roll (`np.ndarray` of shape `(F,)`): Degrees; positive leans the crown (-y) towards +x.

    Returns:
        `np.ndarray` of shape `(F, 3, 3)`: Matrices that multiply columns.
    """
    yaw, pitch, roll = np.deg2rad(yaw), np.deg2rad(pitch), np.deg2rad(roll)
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)

    def matrix(*entries: np.ndarray) -> np.ndarray:
        return np.stack(entries, axis=-1).reshape(-1, 3, 3)

    about_x = matrix(one, zero, zero, zero, np.cos(pitch), -np.sin(pitch), zero, np.sin(pitch), np.cos(pitch))
    about_y = matrix(np.cos(yaw), zero, np.sin(yaw), zero, one, zero, -np.sin(yaw), zero, np.cos(yaw))
    about_z = matrix(np.cos(roll), -np.sin(roll), zero, np.sin(roll), np.cos(roll), zero, zero, zero, one)
    return np.einsum("fij,fjk,fkl->fil", about_z, about_y, about_x)


class HeadPose:
    r"""
    Where the head and the body are in every frame of a clip.

    Args:
        motion (`np.ndarray` of shape `(F, P)`): Columns as in `MOTION_NAMES`.
        size (`int`): Side of the canvas in pixels.
    """

    def __init__(self, motion: np.ndarray, size: int):
        self.motion = dict(zip(MOTION_NAMES, motion.astype(np.float64).T))
        self.size = size
        yaw, pitch, roll = (self.motion[name] for name in ("yaw", "pitch", "roll"))
        self.rotation = rotation_matrices(yaw, pitch, roll)  # (F, 3, 3)
        # Hanging hair follows a turn but stays closer to the vertical.
        self.hanging_rotation = rotation_matrices(0.75 * yaw, 0.2 * pitch, 0.35 * roll)
        self.unit = HEAD_UNIT * size * self.motion["scale"]  # (F,)
        shift = np.stack([self.motion["x"], self.motion["y"]], axis=1)
        self.centre = size * (np.array(HEAD_CENTRE) + shift)  # (F, 2)
        # The body leans after the head, but less.
        self.body_centre = size * (np.array(HEAD_CENTRE) + shift * np.array([0.7, 0.6]))

    @property
    def num_frames(self) -> int:
        """Number F of frames."""
        return len(self.unit)

    def project(self, points: np.ndarray, is_hanging: bool = False) -> np.ndarray:
        r"""
        Projects points of the head frame.

        Args:
            points (`np.ndarray` of shape `(N, 3)` or `(F, N, 3)`): Head units.
            is_hanging (`bool`): Whether the points hang from the head instead of being fixed to it.

        Returns:
            `np.ndarray` of shape `(F, N, 2)`: Pixels (x, y).
        """
        rotation = self.hanging_rotation if is_hanging else self.rotation
        x, y, z = np.moveaxis(points - _PIVOT, -1, 0)
        rows = rotation[:, :2, :, None]  # (F, 2, 3, 1)
        turned = [rows[:, i, 0] * x + rows[:, i, 1] * y + rows[:, i, 2] * z + _PIVOT[i] for i in range(2)]
        return np.stack(turned, axis=-1) * self.unit[:, None, None] + self.centre[:, None]

    def project_body(self, points: np.ndarray, depth: float = 0.0) -> np.ndarray:
        r"""
        Projects points of the body, which is upright and hardly turns.

        Args:
            points (`np.ndarray` of shape `(N, 2)`): Head units (x, y), measured from the resting head's centre.
            depth (`float`): How far the points stand out of the chest: 1 moves as much with the head's turn as the
                breast bone does.

        Returns:
            `np.ndarray` of shape `(F, N, 2)`: Pixels (x, y).
        """
        turn = np.sin(np.deg2rad(self.motion["yaw"]))
        shifted = points + np.stack([0.12 * depth * turn, np.zeros_like(turn)], axis=-1)[:, None]
        return shifted * self.unit[:, None, None] + self.body_centre[:, None]

    def depth(self, direction: tuple[float, float, float]) -> np.ndarray:
        r"""
        How far a direction of the head frame points towards the viewer.

        Args:
            direction (`tuple` of `float`): Unit vector (x, y, z).

        Returns:
            `np.ndarray` of shape `(F,)`: -1 (away) to 1 (at the viewer).
        """
        return (self.rotation[:, 2] * np.array(direction)).sum(axis=1)

    def hull(self, ellipsoids: np.ndarray, hanging: np.ndarray | None = None) -> np.ndarray:
        r"""
        The outline of the convex hull of ellipsoids. It is exact in every pose: the support point of an ellipsoid in
        a direction d of the image is c + A d / sqrt(d' A d), and the hull's is the one that reaches furthest.

        Args:
            ellipsoids (`np.ndarray` of shape `(E, 6)` or `(F, E, 6)`): Centre (x, y, z) and radii, head units.
            hanging (`np.ndarray` of shape `(H, 6)`, *optional*): More of them, that hang from the head.

        Returns:
            `np.ndarray` of shape `(F, K, 2)`: Pixels (x, y), clockwise from the rightmost point; the k-th point is
            the one furthest in the direction of angle 2 pi k / K.
        """
        reach, points = self._support(ellipsoids, is_hanging=False)
        if hanging is not None:
            more_reach, more_points = self._support(hanging, is_hanging=True)
            reach, points = np.concatenate([reach, more_reach], 1), np.concatenate([points, more_points], 1)
        furthest = reach.argmax(axis=1)[:, None, :, None]  # (F, 1, K, 1)
        return np.take_along_axis(points, furthest, axis=1)[:, 0]

    def _support(self, ellipsoids: np.ndarray, is_hanging: bool) -> tuple[np.ndarray, np.ndarray]:
        """Reach (F, E, K) and support points (F, E, K, 2) of each ellipsoid in each direction."""
        ellipsoids = np.broadcast_to(ellipsoids, (self.num_frames, *ellipsoids.shape[-2:]))
        centres = self.project(ellipsoids[..., :3], is_hanging)  # (F, E, 2)
        rotation = self.hanging_rotation if is_hanging else self.rotation
        axes = rotation[:, None, :2] * (ellipsoids[..., None, 3:] * self.unit[:, None, None, None])  # (F, E, 2, 3)
        weights = axes[:, :, 0, :, None] * _DIRECTIONS[0] + axes[:, :, 1, :, None] * _DIRECTIONS[1]  # (F, E, 3, K)
        lengths = np.sqrt((weights**2).sum(axis=2, keepdims=True))
        offsets = (axes[..., None] * (weights / lengths)[:, :, None]).sum(axis=3)  # (F, E, 2, K)
        points = np.moveaxis(centres[..., None] + offsets, 2, 3)
        reach = points[..., 0] * _DIRECTIONS[0] + points[..., 1] * _DIRECTIONS[1]
        return reach, points


def crescent(outline: np.ndarray, angle: float, width: np.ndarray) -> np.ndarray:
    r"""
    The part of a convex outline's inside that lies along one side: what light from the other side leaves dark.

    Args:
        outline (`np.ndarray` of shape `(F, K, 2)`): From `HeadPose.hull`.
        angle (`float`): Direction of the side, radians clockwise from right.
        width (`np.ndarray` of shape `(F,)`): Greatest width in pixels.

    Returns:
        `np.ndarray` of shape `(F, N, 2)`: Pixels (x, y).
    """
    start = round((angle - 0.5 * np.pi) / (2.0 * np.pi) * _NUM_DIRECTIONS)
    indices = np.arange(start, start + _NUM_DIRECTIONS // 2 + 1) % _NUM_DIRECTIONS
    rim = outline[:, indices]
    side = np.array([np.cos(angle), np.sin(angle)])
    # By place, not by direction: directions crowd at a pointed chin and would fold the inner edge there.
    outward = rim - outline.mean(axis=1, keepdims=True)
    facing = np.clip((outward * side).sum(axis=-1) / np.linalg.norm(outward, axis=-1), 0.0, None) ** 1.5
    inner = rim - side * (facing * width[:, None])[..., None]
    return np.concatenate([rim, inner[:, ::-1]], axis=1)


def outline_points(outline: np.ndarray, angles: np.ndarray) -> np.ndarray:
    r"""
    Points of a convex outline, seen from its middle.

    Args:
        outline (`np.ndarray` of shape `(F, K, 2)`): From `HeadPose.hull`.
        angles (`np.ndarray` of shape `(N,)`): Where to look, radians clockwise from right.

    Returns:
        `np.ndarray` of shape `(F, N, 2)`: Pixels (x, y).
    """
    middle = 0.5 * (outline.min(axis=1) + outline.max(axis=1))  # (F, 2)
    x, y = np.moveaxis(outline - middle[:, None], -1, 0)
    seen, distance = np.arctan2(y, x), np.hypot(x, y)
    rays = zip(seen, distance)
    reach = np.stack([np.interp(angles, a, d, period=2.0 * np.pi) for a, d in rays])  # (F, N)
    return middle[:, None] + reach[..., None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


class FaceShape:
    r"""
    The solid parts of one person's head.

    Args:
        identity (`TalkingHeadIdentity`): The person.
    """

    def __init__(self, identity: TalkingHeadIdentity):
        self.identity = identity
        width = identity.head_width
        self.cranium = np.array([0.0, -0.27, -0.12, 0.73 * width, 0.73, 0.86])
        self.face = np.array([0.0, 0.06, 0.12, 0.69 * width * identity.cheek_width, 0.86, 0.62])
        top = -0.66 - identity.hairline
        self.forehead = np.array([0.0, 0.5 * (top + 0.24), 0.10, 0.63 * width, 0.5 * (0.24 - top), 0.62])

    def lift(self, x: np.ndarray, y: np.ndarray, height: float | np.ndarray = 0.0) -> np.ndarray:
        r"""
        Puts flat features on the front of the face.

        Args:
            x (`np.ndarray`): Head units.
            y (`np.ndarray`): Head units, of a shape that broadcasts with `x`.
            height (`float` or `np.ndarray`): How far above the skin, head units.

        Returns:
            `np.ndarray` of shape `(..., 3)`: Points of the head frame.
        """
        centre, radii = self.face[:3], self.face[3:]
        x, y, height = np.broadcast_arrays(x, y, height)
        inside = 1.0 - ((x - centre[0]) / radii[0]) ** 2 - ((y - centre[1]) / radii[1]) ** 2
        z = centre[2] + radii[2] * np.sqrt(np.clip(inside, 0.02, None)) + height
        return np.stack([x, y, z], axis=-1)

    def jaw(self, mouth: np.ndarray, inflation: float = 1.0) -> np.ndarray:
        r"""
        The corners of the jaw and the chin, which drop as the mouth opens.

        Args:
            mouth (`np.ndarray` of shape `(F,)`): Opening, 0 to 1.
            inflation (`float`): Factor on the radii.

        Returns:
            `np.ndarray` of shape `(F, 3, 6)`: Ellipsoids: left corner, right corner, chin.
        """
        identity = self.identity
        side = 0.35 * identity.jaw_width * identity.head_width
        corner = [0.42, 0.08, 0.28, 0.38, 0.34]
        chin = [0.0, 0.74 + identity.chin_drop, 0.34, 0.27 * identity.chin_size, 0.24, 0.26]
        parts = np.array([[-side, *corner], [side, *corner], chin])
        parts[:, 3:] *= inflation
        drop = np.array([[0.0, 0.05, 0.0], [0.0, 0.05, 0.0], [0.0, 0.13, -0.05]])
        moved = np.repeat(parts[None], len(mouth), axis=0)
        moved[:, :, :3] += mouth[:, None, None] * drop
        return moved

    def skin_parts(self, mouth: np.ndarray) -> np.ndarray:
        r"""
        What is bare of hair: forehead, face, jaw and chin.

        Args:
            mouth (`np.ndarray` of shape `(F,)`): Opening, 0 to 1.

        Returns:
            `np.ndarray` of shape `(F, 5, 6)`: Ellipsoids.
        """
        still = np.repeat(np.stack([self.forehead, self.face])[None], len(mouth), axis=0)
        return np.concatenate([still, self.jaw(mouth)], axis=1)
