"""Opens the page, and clears up after it."""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from ..command_line import stop_requests
from .settings import AppSettings


@contextmanager
def app_folder() -> Iterator[Path]:
    r"""The folder of all files of a page, uploads among them, which is gone when the page is closed."""
    with tempfile.TemporaryDirectory(prefix="leo-diffusers-app-", ignore_cleanup_errors=True) as folder:
        # Gradio reads these when it is imported, or when a component is made.
        settings = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": str(Path(folder) / "gradio")}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


def open_page(settings: AppSettings) -> None:
    r"""
    Loads a model and serves its page until Ctrl-C or SIGTERM.

    Args:
        settings ([`AppSettings`]): The model, the address and the limits.

    Raises:
        FileNotFoundError: Where there is no such model.
        OSError: Where the port is taken.
        ValueError: Where Gradio is not installed, or a setting cannot be carried out.
    """
    if find_spec("gradio") is None:
        raise ValueError('The page needs Gradio, which is not installed: run pip install "leo_diffusers[app]".')
    with app_folder() as folder:
        from .page import build_page, serving_options
        from .studio import Studio

        page = build_page(Studio(settings), settings, folder)
        with stop_requests() as is_stopped:
            try:
                _, url, _ = page.launch(**serving_options(settings), prevent_thread_lock=True)
            except OSError as error:  # Gradio's words are about its own arguments
                place = f"{settings.host or 'this machine'}, port {settings.port or '7860 and those after it'}"
                raise OSError(
                    f"The page cannot be opened on {place}: choose a free --port, and a --host of here."
                ) from error
            print(f"The page is open at {url} until Ctrl-C.", flush=True)
            while not is_stopped():
                time.sleep(0.1)
        page.close(verbose=False)


def run_app(arguments: argparse.Namespace) -> None:
    r"""`leo-diffusers app`: the page of a model, until Ctrl-C."""
    names = AppSettings.__dataclass_fields__
    open_page(AppSettings(**{name: getattr(arguments, name) for name in names}))
