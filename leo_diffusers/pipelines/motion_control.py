"""MotionControl: smooths, scales and replaces motion before it is rendered."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Real

import torch


SMOOTHING_REACH = 3  # standard deviations; 0.3% of a Gaussian lie beyond
MAX_SMOOTHING = 100.0  # frames; far above it a stream would hold hours back, and no motion is left


def check_number(name: str, number: float) -> None:
    r"""Refuses what is no number, or not finite in float32."""
    if isinstance(number, bool) or not isinstance(number, Real):
        raise TypeError(f"`{name}` must hold numbers, got {number!r}.")
    if not torch.isfinite(torch.tensor(number, dtype=torch.float32)):
        raise ValueError(f"`{name}` must hold finite numbers, got {number}.")


def check_direction(name: str, direction: int, motion_dim: int) -> None:
    r"""Refuses a motion direction that a model with `motion_dim` of them does not have."""
    if isinstance(direction, bool) or not isinstance(direction, int) or not 0 <= direction < motion_dim:
        raise ValueError(
            f"`{name}` must be indices from 0 to {motion_dim - 1}, the model's motion directions, got {direction!r}."
        )


def to_curve(direction: int, value: float | Sequence[float] | torch.Tensor) -> torch.Tensor:
    r"""What replaces the motion along a direction: one amount, of shape (), or one per frame, (F,); float32."""
    try:
        curve = torch.as_tensor(value, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"`values` must hold numbers or curves of them, got {value!r} for {direction}.") from None
    if curve.ndim > 1 or curve.numel() == 0:
        raise ValueError(
            f"`values` must hold a number, or a curve of one number per frame, got the shape {tuple(curve.shape)} for "
            f"{direction}."
        )
    if not torch.isfinite(curve).all():
        raise ValueError(f"`values` holds NaN or infinite values for {direction}: no frame can be rendered from them.")
    return curve


@dataclass(frozen=True)
class MotionControl:
    r"""
    Changes motion codes on their way to the animator: smooths them, then scales the motion, then replaces that along
    single directions. Motion is what a code adds to the origin, the source frame's own code. The default changes
    nothing.

    Args:
        scale (`float` or `dict[int, float]`):
            Factor of the motion: one for all directions, or by direction index, from 0, where those not named keep
            their motion. 0 freezes a direction as it is in the source frame; a negative factor turns it round.
        values (`dict[int, float | Sequence[float] | torch.Tensor]`):
            By direction index, what its motion is replaced with, unscaled: one amount, or one per frame. Like those
            of [`~LIAPipeline.manipulate`] they are added to the source frame's own code, in its units. A curve may be
            longer than the video.
        smoothing (`float`):
            Standard deviation in frames of a Gaussian filter over time, against jitter. It is centred on each frame,
            so nothing comes late; the first and the last frame are repeated beyond the ends. 0 is off.

    Raises:
        TypeError: Where something is no number, or `values` no dict.
        ValueError: Where a number is not finite, `smoothing` out of range, or a curve empty or of two dimensions.

    Examples:
        ```py
        >>> from PIL import Image
        >>> from leo_diffusers import DEMO_MODEL, LIAPipeline, MotionControl

        >>> # More motion along direction 3, none along 6, 2 held where it is put, less jitter.
        >>> control = MotionControl(scale={3: 1.5, 6: 0}, values={2: 0.4}, smoothing=1)
        >>> pipeline = LIAPipeline.from_pretrained(DEMO_MODEL)
        >>> output = pipeline(Image.open("photo.png"), "driving.mp4", motion_control=control)
        >>> motion_codes = output.motion_codes[0]  # (F, M)
        >>> bool((motion_codes[:, 6] == motion_codes[0, 6]).all())
        True
        ```
    """

    scale: float | dict[int, float] = 1.0
    values: dict[int, float | Sequence[float] | torch.Tensor] = field(default_factory=dict)
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        for factor in self.scale.values() if isinstance(self.scale, dict) else [self.scale]:
            check_number("scale", factor)
        if not isinstance(self.values, dict):
            raise TypeError(f"`values` must be a dict from direction indices to amounts, got {self.values!r}.")
        for direction, value in self.values.items():
            to_curve(direction, value)
        check_number("smoothing", self.smoothing)
        if not 0 <= self.smoothing <= MAX_SMOOTHING:
            raise ValueError(
                f"`smoothing` must be from 0 (off) to {MAX_SMOOTHING:g} frames, got {self.smoothing}: try 1 to 3."
            )

    @property
    def look_ahead(self) -> int:
        r"""The number of frames after a frame that its smoothing needs."""
        return math.ceil(SMOOTHING_REACH * self.smoothing)

    def check(self, motion_dim: int, num_frames: int | None = None) -> None:
        r"""
        Args:
            motion_dim (`int`): Number M of motion directions that the model has.
            num_frames (`int`, *optional*): Length of the video, where it is known.

        Raises:
            ValueError: Where `scale` or `values` names another direction, or a curve is shorter than the video.
        """
        for direction, value in self.values.items():
            curve = to_curve(direction, value)
            if curve.ndim == 1 and num_frames is not None and len(curve) < num_frames:
                raise ValueError(
                    f"`values` gives direction {direction} a curve of {len(curve)} frames, but the video has more "
                    f"({num_frames}): make it longer, or the video shorter."
                )
        for name, by_direction in (("scale", self.scale), ("values", self.values)):
            for direction in by_direction if isinstance(by_direction, dict) else ():
                check_direction(name, direction, motion_dim)

    def apply(self, codes: Iterable[torch.Tensor], origin: torch.Tensor) -> Iterator[torch.Tensor]:
        r"""
        Args:
            codes (iterable of `torch.Tensor` of shape `(n, M)`): Motion codes in order, any number at a time: how many
                makes no difference to the result.
            origin (`torch.Tensor` of shape `(M,)` or `(1, M)`): The source frame's own code.

        Yields:
            `torch.Tensor` of shape `(n, M)`: As many codes, float32, at most `look_ahead` frames late.

        Raises:
            ValueError: Where the codes lack a direction, or a curve is shorter than they are.
        """
        origin = origin.reshape(-1).float()
        self.check(len(origin))
        factors = torch.ones_like(origin)
        for direction, factor in self.scale.items() if isinstance(self.scale, dict) else [(slice(None), self.scale)]:
            factors[direction] = factor
        curves = {direction: to_curve(direction, value).to(origin.device) for direction, value in self.values.items()}
        start = 0
        for chunk in self.smooth(codes):
            end = start + len(chunk)
            chunk = torch.lerp(origin, chunk, factors)  # the origin exactly at 0, the codes exactly at 1
            for direction, curve in curves.items():
                if curve.ndim == 1 and len(curve) < end:
                    raise ValueError(
                        f"`values` gives direction {direction} a curve of {len(curve)} frames, but the video has "
                        f"{end} or more: make it longer."
                    )
                chunk[:, direction] = origin[direction] + (curve[start:end] if curve.ndim == 1 else curve)
            yield chunk
            start = end

    def apply_batch(self, codes: torch.Tensor, origins: torch.Tensor) -> torch.Tensor:
        r"""
        [`~MotionControl.apply`] to whole clips.

        Args:
            codes (`torch.Tensor` of shape `(B, F, M)`): Motion codes.
            origins (`torch.Tensor` of shape `(B, M)`): The own code of each clip's source frame.

        Returns:
            `torch.Tensor` of shape `(B, F, M)`: The codes to render, float32.

        Raises:
            ValueError: As of [`~MotionControl.apply`].
        """
        clips = zip(codes, origins, strict=True)
        return torch.stack([torch.cat(list(self.apply([clip], origin))) for clip, origin in clips])

    def smooth(self, codes: Iterable[torch.Tensor]) -> Iterator[torch.Tensor]:
        r"""Filters a stream of codes (n, M) over time; float32."""
        reach = self.look_ahead
        distances = torch.arange(-reach, reach + 1).double() / (self.smoothing or 1.0)  # in standard deviations
        weights = torch.softmax(-0.5 * distances**2, dim=0).tolist()

        def filtered(window: torch.Tensor) -> torch.Tensor:
            num_frames = len(window) - 2 * reach
            # Tap by tap: unlike a convolution's, these sums are the same to the last bit for any length.
            return sum(weight * window[i : i + num_frames] for i, weight in enumerate(weights))

        window = None  # the last 2 * reach codes, then those that came since
        for chunk in codes:
            chunk = chunk.float()
            window = torch.cat([chunk[:1].expand(reach, -1) if window is None else window, chunk])
            if len(window) > 2 * reach:
                yield filtered(window)
                window = window[len(window) - 2 * reach :]
        if window is not None and reach:
            yield filtered(torch.cat([window, window[-1:].expand(reach, -1)]))
