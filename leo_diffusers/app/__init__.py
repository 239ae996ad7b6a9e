"""
The Gradio page: animate, generate, go on for ever, edit and explore, in a browser.

It needs the extra `app` (`pip install "leo_diffusers[app]"`); Gradio is imported when a page is opened and not before.
"""

from .launching import open_page, run_app
from .settings import AppSettings


__all__ = ["AppSettings", "open_page", "run_app"]
