r"""
The page of leo_diffusers, as a Hugging Face Space: animate, generate, edit and explore human video in a browser.

On your own machine `leo-diffusers app` opens the same page. A Space of it is a repository with these three files:

- `app.py`: this one.
- `requirements.txt`: one line, `leo_diffusers[app] @ git+URL-OF-THIS-REPOSITORY`.
- `README.md`, which begins with

      ---
      title: LEO
      sdk: gradio
      app_file: app.py
      python_version: "3.11"
      ---

It runs on CPU with the model that is embedded in the package, which knows drawn people. For another one set these
variables in the Space's settings, or in the environment:

- `LEO_MODEL`: folder or Hub id of a LEO or LIA model.
- `LEO_EDITOR`, `LEO_CONTROLNET`, `LEO_DETECTOR`: what edits first frames by a prompt, as of `leo-diffusers edit`.
- `LEO_DTYPE`: `float16` or `bfloat16`, on a GPU.

A Space is open to everyone: the limits below are stricter than those of a page on your own machine.
"""

import os

from leo_diffusers import DEMO_MODEL
from leo_diffusers.app import AppSettings, open_page


if __name__ == "__main__":
    open_page(
        AppSettings(
            model=os.environ.get("LEO_MODEL", DEMO_MODEL),
            dtype=os.environ.get("LEO_DTYPE", "float32"),
            editor=os.environ.get("LEO_EDITOR"),
            controlnet=os.environ.get("LEO_CONTROLNET"),
            detector=os.environ.get("LEO_DETECTOR"),
            max_upload_megabytes=20,
            max_video_seconds=20,
            max_endless_seconds=30,
        )
    )
