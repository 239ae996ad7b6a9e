"""The refusals that the synthetic talking heads share."""

from numbers import Integral


def check_integer(name: str, value: int, minimum: int, reason: str) -> None:
    r"""
    Refuses an argument that is not a whole number or is too small.

    Args:
        name (`str`): The argument as the caller wrote it.
        value (`int`): What was passed; numpy integers are welcome, booleans are not.
        minimum (`int`): The smallest allowed value.
        reason (`str`): Why smaller values make no sense; ends the error message.

    Raises:
        `TypeError`: If `value` is not an integer.
        `ValueError`: If `value` is below `minimum`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(
            f"`{name}` must be an integer, got {value!r} of type {type(value).__name__}: pass a whole number."
        )
    if value < minimum:
        raise ValueError(f"`{name}` must be at least {minimum}, got {value}: {reason}")
