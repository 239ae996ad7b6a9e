"""What commands have in common: bad input ends them with one line and exit code 2, and they stop when asked to."""

import argparse
import contextlib
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterator

from huggingface_hub.utils import HfHubHTTPError

from . import video_io


# What bad input raises. Its traceback is logged at debug level; that of anything else is shown.
INPUT_ERRORS = (ValueError, TypeError, OSError, HfHubHTTPError, video_io.FFmpegError)
BAD_INPUT = 2
LARGEST_SEED = 2**63 - 1


class OneLineParser(argparse.ArgumentParser):
    r"""Argument parser whose errors are one line on standard error, exit code 2."""

    def error(self, message: str) -> None:
        r"""Ends the program with `message`."""
        self.exit(BAD_INPUT, f"{self.prog}: error: {message}\n")


def parse_direction(text: str) -> tuple[int, float]:
    r""" "6=0.3" -> (6, 0.3)."""
    try:
        index, amount = text.split("=")
        return int(index), float(amount)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form INDEX=NUMBER, for example 6=0.3") from None


def parse_reference_frame(text: str) -> int | str:
    r""" "auto" or the index of a driving frame."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f'{text!r} is neither "auto" nor the number of a frame') from None


def parse_seed(text: str) -> int:
    r"""A seed that PyTorch takes."""
    try:
        seed = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if abs(seed) > LARGEST_SEED:
        raise argparse.ArgumentTypeError(f"{text} is out of range: seeds are from -(2^63 - 1) to 2^63 - 1")
    return seed


def run_command(name: str, work: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    r"""
    Args:
        name (`str`): The program's name, for the message.
        work (`Callable`): What it does.
        arguments (`argparse.Namespace`): Given to `work`.

    Returns:
        `int`: Exit code: 0, or 2 after one line on standard error where the input was bad. Warnings to users are one
        line there too.
    """

    def show_warning(message: Warning, category: type[Warning], *origin: object) -> None:
        if issubclass(category, UserWarning):
            print(f"{name}: warning: {' '.join(str(message).split())}", file=sys.stderr)
        else:
            show_otherwise(message, category, *origin)

    show_otherwise, warnings.showwarning = warnings.showwarning, show_warning
    try:
        work(arguments)
    except INPUT_ERRORS as error:
        logging.getLogger(__name__).debug("The error's origin:", exc_info=True)
        print(f"{name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return BAD_INPUT
    finally:
        warnings.showwarning = show_otherwise
    return 0


def run_script(work: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser) -> None:
    r"""
    Runs a script with the arguments of its process, and ends the process.

    Args:
        work (`Callable`): What it does.
        parser (`argparse.ArgumentParser`): Its arguments.
    """
    sys.exit(run_command(parser.prog, work, parser.parse_args()))


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    r"""Ctrl-C, SIGTERM and a closed terminal only make a note, however often, so that a file can be finished."""
    requested = False

    def request(signal_number: int, stack: object) -> None:
        nonlocal requested
        requested = True

    numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, request) for number in numbers}
    try:
        yield lambda: requested
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
