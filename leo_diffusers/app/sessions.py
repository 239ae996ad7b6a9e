"""Sessions: whose files are whose, what runs for whom, and what is left behind when somebody leaves: nothing."""

import html
import logging
import re
import secrets
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr
import torch

from .. import video_io
from ..models.lia import LIASource


logger = logging.getLogger(__name__)

# What bad input raises. Fields give the right types: a TypeError is our own fault.
REFUSALS = (ValueError, OSError, video_io.FFmpegError)


class StoppedError(Exception):
    r"""Somebody pressed Stop, or left."""


class Job:
    r"""
    One press of a button.

    Args:
        session ([`Session`]): Of whom.
        kind (`str`): Of which tab.
        progress (`gradio.Progress`, *optional*): Where it is shown.
    """

    def __init__(self, session: "Session", kind: str, progress: gr.Progress | None = None):
        self.session, self.kind, self.progress = session, kind, progress
        self.is_stopped = False
        self.finished = threading.Event()
        self.result: Path | None = None  # what a stopped job leaves

    def report(self, what: str, done: int, total: int, unit: str) -> None:
        r"""Shows progress; raises [`StoppedError`] where nobody waits for the rest."""
        if self.is_stopped:
            raise StoppedError
        if self.progress is not None:
            self.progress((done, total), desc=what, unit=unit)


class Session:
    r"""
    What one opened page has on the server.

    Args:
        folder (`Path`): Of the app, in which the session makes its own.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = secrets.token_hex(4)
        self.jobs: set[Job] = set()
        self.uploads: set[Path] = set()
        self.encoded: tuple[tuple[str, str], LIASource] | None = None  # the last photo of Explore: path, crop
        self.num_files = 0
        self.is_closed = False

    def new_file(self, stem: str, suffix: str) -> Path:
        r"""A path that no other session has, for a new file: "animated-1a2b3c4d-1.mp4"."""
        self.num_files += 1
        folder = self.folder / "sessions" / self.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{stem}-{self.name}-{self.num_files}{suffix}"

    def stop(self, kind: str | None = None) -> list[Job]:
        r"""Ends what runs, of one tab or of all, as soon as its next step or frame is done."""
        jobs = [job for job in list(self.jobs) if kind in (None, job.kind)]
        for job in jobs:
            job.is_stopped = True
        return jobs

    def remove_files(self) -> None:
        r"""Removes the session's folder, and what Gradio copied from there to show it."""
        shutil.rmtree(self.folder / "sessions" / self.name, ignore_errors=True)
        for copy in (self.folder / "gradio").glob(f"*/*-{self.name}-*"):
            copy.unlink(missing_ok=True)


class Sessions:
    r"""
    All opened pages.

    Args:
        folder (`Path`): Of the app.
        grace_seconds (`float`): How long files stay after their session: Gradio may be copying what a job returned.
    """

    def __init__(self, folder: Path, grace_seconds: float = 3.0):
        self.folder, self.grace_seconds = folder, grace_seconds
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def of(self, request: gr.Request) -> Session:
        r"""The session that a request belongs to, which begins with its first."""
        with self._lock:
            return self._sessions.setdefault(request.session_hash, Session(self.folder))

    def close(self, request: gr.Request) -> None:
        r"""Ends a session: its jobs stop, and its files and uploads are removed soon."""
        with self._lock:
            session = self._sessions.pop(request.session_hash, None)
            if session is None:
                return
            session.is_closed = True
        session.stop()
        self.remove_files(session)

    def remove_files(self, session: Session) -> None:
        r"""Removes what an ended session leaves, a little later."""

        def remove() -> None:
            with self._lock:
                # Gradio names an upload by its content: two who upload the same file share it.
                shared = {path for other in self._sessions.values() for path in other.uploads}
            for path in session.uploads - shared:
                path.unlink(missing_ok=True)
            session.remove_files()

        timer = threading.Timer(self.grace_seconds, remove)
        timer.daemon = True
        timer.start()

    @contextmanager
    def job(self, request: gr.Request, kind: str, progress: gr.Progress | None = None) -> Iterator[Job]:
        r"""
        Everything that a visitor asks for runs inside of this.

        Args:
            request (`gradio.Request`): Who asks.
            kind (`str`): Name of the tab, for [`Session.stop`].
            progress (`gradio.Progress`, *optional*): Where progress is shown.

        Raises:
            StoppedError: Where it was stopped.
            gradio.Error: One clear message where the input was bad; one without detail where it is our fault.
        """
        session = self.of(request)
        job = Job(session, kind, progress)
        session.jobs.add(job)
        try:
            with messages():
                yield job
        finally:
            session.jobs.discard(job)
            job.finished.set()
            if session.is_closed:  # what was written meanwhile
                self.remove_files(session)


@contextmanager
def messages() -> Iterator[None]:
    r"""Exceptions as messages on the page, without tracebacks; the server goes on."""
    try:
        yield
    except (gr.Error, StoppedError):
        raise
    except REFUSALS as error:
        logger.info("Refused.", exc_info=True)
        raise gr.Error(to_message(error), print_exception=False) from error
    except torch.OutOfMemoryError as error:
        logger.exception("Out of memory.")
        raise gr.Error("The device has too little memory left: try a shorter video.", print_exception=False) from error
    except Exception as error:
        logger.exception("A job failed.")
        raise gr.Error("This failed on the server, whose log says why.", print_exception=False) from error


def to_message(error: Exception) -> str:
    r"""What an exception says, for a page: without the server's folders, and harmless as HTML."""
    text = re.sub(r"(?:/[^\s/:'\"]+)+/([^\s/:'\"]+)", r"\1", " ".join(str(error).split()))
    return html.escape(text, quote=False)
