"""The motion dictionary of LIA: motion code -> path in latent space."""

import torch
import torch.nn as nn

from .style_blocks import full_precision


QR_OFFSET = 1e-8  # added by the released networks before QR; kept so that converted codes agree to the last digit


class MotionDictionary(nn.Module):
    r"""
    Motion directions that turn a motion code into a path in latent space (linear motion decomposition, LIA Eq. 2-3).

    Args:
        latent_dim (`int`): Size L of the appearance latent.
        motion_dim (`int`): Number M of directions, at most `latent_dim`.
        motion_basis (`str`): "orthogonal" makes the directions orthonormal by QR, as in the paper; "free" takes them
            as they were learned; "none" has no dictionary: the motion code is the path itself.

    Raises:
        ValueError: Where `motion_dim` does not fit `latent_dim`, or `motion_basis` is unknown.
    """

    def __init__(self, latent_dim: int, motion_dim: int, motion_basis: str = "orthogonal"):
        super().__init__()
        if motion_basis not in ("orthogonal", "free", "none"):
            raise ValueError(f'`motion_basis` must be "orthogonal", "free" or "none", got {motion_basis!r}.')
        if not 1 <= motion_dim <= latent_dim:
            raise ValueError(f"`motion_dim` must be between 1 and `latent_dim` ({latent_dim}), got {motion_dim}.")
        if motion_basis == "none" and motion_dim != latent_dim:
            raise ValueError(
                f"Without a dictionary the code is the path itself: `motion_dim` must equal `latent_dim` "
                f"({latent_dim}), got {motion_dim}."
            )
        self.motion_basis = motion_basis
        if motion_basis == "none":
            self.directions = None
        else:
            # A free direction starts with length near 1, like an orthonormal one.
            scale = 1.0 if motion_basis == "orthogonal" else latent_dim**-0.5
            self.directions = nn.Parameter(scale * torch.randn(latent_dim, motion_dim))

    def basis(self) -> torch.Tensor | None:
        r"""
        Returns:
            `torch.Tensor` of shape `(latent_dim, motion_dim)` in float32: one direction per column; None without a
            dictionary.
        """
        if self.motion_basis == "orthogonal":
            # Householder QR: its column signs are LAPACK's, which Gram-Schmidt would flip. No half-precision kernel.
            directions = self.directions.float() + QR_OFFSET
            if directions.device.type == "mps":  # has no QR
                return torch.linalg.qr(directions.cpu())[0].to(directions.device)
            return torch.linalg.qr(directions)[0]
        return None if self.directions is None else self.directions.float()

    def forward(self, motion_code: torch.Tensor) -> torch.Tensor:
        r"""
        Args:
            motion_code (`torch.Tensor` of shape `(..., motion_dim)`): Step along each direction, unbounded.

        Returns:
            `torch.Tensor` of shape `(..., latent_dim)` in float32: The path w(alpha) = sum_i alpha_i d_i. A zero code
            gives a zero path.
        """
        # Codes and paths add up over a video: in half precision they would make it jitter.
        with full_precision(motion_code):
            basis = self.basis()  # (L, M)
            return motion_code.float() if basis is None else motion_code.float() @ basis.T
