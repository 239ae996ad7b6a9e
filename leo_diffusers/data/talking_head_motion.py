"""How a synthetic talking head moves: one row of `MOTION_NAMES` per frame, from a seed alone."""

from collections.abc import Iterator

import numpy as np

from leo_diffusers.data.talking_head_checks import check_integer


FRAME_RATE = 25

# Name -> (smallest, largest) value. "Left" and "right" are the viewer's.
MOTION_RANGES = {
    "yaw": (-40.0, 40.0),  # degrees; positive turns the nose to the right of the image
    "pitch": (-20.0, 20.0),  # degrees; positive looks up
    "roll": (-15.0, 15.0),  # degrees; positive leans the crown to the right of the image (clockwise)
    "x": (-0.12, 0.12),  # shift of the head in frame widths; positive is right
    "y": (-0.06, 0.06),  # shift of the head in frame heights; positive is down
    "scale": (0.9, 1.1),  # size of the head; 1 fills about 70% of the frame's height
    "blink": (0.0, 1.0),  # 0 open, 1 closed
    "gaze_x": (-1.0, 1.0),  # iris in the eye; positive is right, 0 looks along the nose
    "gaze_y": (-1.0, 1.0),  # positive is down
    "mouth": (0.0, 1.0),  # 0 lips closed, 1 jaw fully dropped
    "smile": (-1.0, 1.0),  # -1 corners down, 0 neutral, 1 broad smile
    "brows": (-1.0, 1.0),  # -1 frown, 0 neutral, 1 raised
    "pucker": (0.0, 1.0),  # 0 relaxed, 1 lips drawn together as for "oo"
}
MOTION_NAMES = tuple(MOTION_RANGES)

# Keeps the streams of a motion seed apart from those of the same identity seed.
_MOTION_STREAM = 1


def _smoothstep(value: np.ndarray) -> np.ndarray:
    value = np.clip(value, 0.0, 1.0)
    return value * value * (3.0 - 2.0 * value)


def slow_curve(
    rng: np.random.Generator, time: np.ndarray, lowest: float = 0.07, highest: float = 0.42, num_waves: int = 4
) -> np.ndarray:
    r"""
    A smooth random curve: a few sines, squashed so that it visits its extremes now and then.

    Args:
        rng (`np.random.Generator`): Source of frequencies and phases; the draws do not depend on `time`.
        time (`np.ndarray` of shape `(F,)`): Seconds.
        lowest (`float`): Lowest frequency, Hz.
        highest (`float`): Highest frequency, Hz.
        num_waves (`int`): Number of sines.

    Returns:
        `np.ndarray` of shape `(F,)`: Values in [-1, 1].
    """
    frequencies = np.exp(rng.uniform(np.log(lowest), np.log(highest), num_waves))
    phases = rng.uniform(0.0, 2.0 * np.pi, num_waves)
    weights = frequencies**-0.8
    waves = np.sin(2.0 * np.pi * frequencies * time[:, None] + phases)
    return np.tanh(1.7 * (waves * weights).sum(axis=1) / weights.sum()) / np.tanh(1.7)


def _paced_time(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    """Time that now and then nearly stands still, so that heads hold a pose before they move on."""
    pace = 0.04 + 1.1 * _smoothstep(0.75 + 0.9 * slow_curve(rng, time, 0.15, 0.5))
    return np.cumsum(pace) / FRAME_RATE


def _blinks(rng: np.random.Generator) -> Iterator[tuple[float, float]]:
    """Start and length in seconds of one blink after another, more often and longer than people's, to be learned."""
    start = rng.uniform(0.1, 1.6)
    while True:
        # The lid rests closed for longer than one frame lasts, so every blink shows one fully closed frame.
        rest = rng.uniform(0.05, 0.12) if rng.random() < 0.75 else rng.uniform(0.2, 0.6)
        yield start, rest
        is_double = rng.random() < 0.15
        start += rest + (rng.uniform(0.35, 0.5) if is_double else rng.uniform(0.8, 2.8))


def _blink_curve(rng: np.random.Generator, time: np.ndarray) -> np.ndarray:
    blink = np.zeros_like(time)
    for start, rest in _blinks(rng):
        if start > time[-1]:
            return blink
        elapsed = time - start
        closing, opening = _smoothstep(elapsed / 0.09), _smoothstep((elapsed - 0.09 - rest) / 0.16)
        blink = np.maximum(blink, closing - opening)
    return blink


def _syllables(rng: np.random.Generator) -> Iterator[tuple[float, float, float, float]]:
    """Start and length in seconds, opening and pucker in [0, 1], of one syllable after another."""
    loudness = rng.uniform(0.75, 1.1)
    clock = rng.uniform(-0.6, 0.0) if rng.random() < 0.65 else rng.uniform(0.2, 0.8)
    while True:
        burst_end = clock + rng.uniform(0.9, 2.8)
        while clock < burst_end:
            length = 1.0 / rng.uniform(3.0, 6.0)
            opening = loudness * rng.uniform(0.4, 1.0)
            pucker = rng.uniform(0.5, 1.0) if rng.random() < 0.25 else 0.0
            yield clock, length, opening * (1.0 - 0.45 * pucker), pucker
            clock += length
        clock += rng.uniform(0.3, 1.1)


def _speech_curves(rng: np.random.Generator, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mouth, pucker = np.zeros_like(time), np.zeros_like(time)
    for start, length, opening, rounding in _syllables(rng):
        if start > time[-1]:
            return np.clip(mouth, 0.0, 1.0), np.clip(pucker, 0.0, 1.0)
        # Neighbours overlap by a third: lips seldom meet between two syllables.
        phase = np.clip((time - start) / (1.35 * length), 0.0, 1.0)
        bump = np.sin(np.pi * phase) ** 2
        mouth += opening * bump
        pucker += rounding * bump
    return mouth, pucker


def _gaze_targets(rng: np.random.Generator) -> Iterator[tuple[float, float, float, float]]:
    """Start in seconds, where to look (x, y), and how much of the head's turn the eyes undo (1 = to the camera)."""
    clock = 0.0
    while True:
        if rng.random() < 0.5:
            yield clock, rng.uniform(-0.15, 0.15), rng.uniform(-0.1, 0.1), 1.0
        else:
            yield clock, rng.uniform(-1.0, 1.0), rng.uniform(-0.7, 0.7), 0.3
        clock += rng.uniform(0.35, 1.5)


def _gaze_curves(
    rng: np.random.Generator, time: np.ndarray, yaw: np.ndarray, pitch: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    target_x, target_y, undone = np.zeros_like(time), np.zeros_like(time), np.zeros_like(time)
    for start, new_x, new_y, new_undone in _gaze_targets(rng):
        if start > time[-1]:
            break
        # A saccade takes about two frames.
        progress = _smoothstep((time - start) / 0.08 + 0.5)
        target_x += progress * (new_x - target_x)
        target_y += progress * (new_y - target_y)
        undone += progress * (new_undone - undone)
    return target_x - undone * yaw / 45.0, target_y + undone * pitch / 40.0


def sample_motion(motion_seed: int, num_frames: int = 64) -> np.ndarray:
    r"""
    Draws the motion of a head that turns, blinks, looks about and talks, at 25 frames per second.

    A shorter clip is the beginning of a longer one of the same seed.

    Args:
        motion_seed (`int`): Seed, at least 0. The same seed gives the same motion on every identity.
        num_frames (`int`): Number F of frames, at least 1.

    Returns:
        `np.ndarray` of shape `(F, P)` and type float32: One column per entry of `MOTION_NAMES`, within
        `MOTION_RANGES`, which also holds the units and signs.
    """
    check_integer("motion_seed", motion_seed, 0, "seeds count from 0.")
    check_integer("num_frames", num_frames, 1, "a clip holds at least one frame.")

    # Each curve owns a generator, so that the number of events in one cannot shift the draws of another.
    def stream(index: int) -> np.random.Generator:
        return np.random.default_rng([motion_seed, _MOTION_STREAM, index])

    time = np.arange(num_frames) / FRAME_RATE
    paced_time = _paced_time(stream(0), time)
    style = stream(1)
    energy, smile_level = style.uniform(0.4, 1.0), style.uniform(-0.15, 0.6)

    def curve(index: int, **options: float) -> np.ndarray:
        return slow_curve(stream(index), paced_time, **options)

    mouth, pucker = _speech_curves(stream(2), time)
    nods = curve(3, lowest=0.7, highest=1.5) * np.minimum(1.0, 2.0 * mouth)
    columns = {"yaw": 40.0 * energy * curve(4), "pitch": 17.0 * energy * curve(5) + 1.5 * nods}
    columns["roll"] = 13.0 * energy * curve(6) + 0.05 * columns["yaw"]
    columns["x"] = 0.075 * curve(7) + 0.04 * columns["yaw"] / 40.0
    columns["y"] = 0.04 * curve(8)
    columns["scale"] = 1.0 + 0.08 * curve(9)
    columns["blink"] = _blink_curve(stream(10), time)
    columns["gaze_x"], columns["gaze_y"] = _gaze_curves(stream(11), time, columns["yaw"], columns["pitch"])
    columns["mouth"], columns["pucker"] = mouth, pucker
    columns["smile"] = smile_level + 0.55 * slow_curve(stream(12), time, 0.1, 0.5)
    columns["brows"] = 0.9 * slow_curve(stream(13), time, 0.2, 0.9) + 0.15
    return np.stack([np.clip(columns[name], *MOTION_RANGES[name]) for name in MOTION_NAMES], axis=1).astype(np.float32)
