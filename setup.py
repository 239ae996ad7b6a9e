"""Installs leo_diffusers: `pip install .`, with extras for what the core does not need."""

import re
from pathlib import Path

from setuptools import find_packages, setup


root = Path(__file__).parent
version = re.search(r'^__version__ = "(.+)"', (root / "leo_diffusers" / "__init__.py").read_text(), re.MULTILINE)[1]

extras = {
    # Editing a first frame: detectors for ControlNet. Theirs bring timm, einops and scikit-image along.
    "edit": ["controlnet-aux>=0.0.10", "opencv-python-headless", "torchvision"],
    # Automatic crop. OpenCV 5 left the face detectors out of its wheel; of its packages all must have one version.
    "crop": ["opencv-python-headless>=4.10,<5"],
    "train": ["matplotlib", "tensorboard"],
    "eval": ["face-alignment", "lpips", "matplotlib", "opencv-python<5"],
    "download": ["yt-dlp"],
    "datasets": ["datasets>=5.2.0"],
    "onnx": ["onnx>=1.20", "onnxruntime>=1.23", "onnxscript>=0.5.4"],
    "app": ["gradio>=6.31"],
}
extras["app"] += extras["crop"]
extras["test"] = ["pytest", "pytest-xdist", "ruff", "lpips", "torchmetrics"]
extras["test"] += ["playwright", "nbclient", "nbformat", "ipykernel"]
for extra in ("train", "edit", "crop", "download", "datasets", "onnx", "app"):
    extras["test"] += extras[extra]

setup(
    name="leo_diffusers",
    version=version,
    description="LEO and LIA in diffusers form: animate people, generate and edit human video",
    long_description=(root / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    author="The leo_diffusers contributors",
    keywords="diffusion image animation video generation pytorch diffusers",
    packages=find_packages(include=["leo_diffusers", "leo_diffusers.*"]),
    package_data={
        "leo_diffusers": [
            *(f"demo_model/**/*.{suffix}" for suffix in ("md", "png", "json", "safetensors")),
            "evaluation/user_study.html",
        ]
    },
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.7",
        "diffusers>=0.40.0",
        "transformers>=4.41",
        "accelerate>=1.0",
        "safetensors>=0.8.0",
        "huggingface_hub>=1.23",
        "numpy",
        "Pillow>=10.1",
        "imageio-ffmpeg>=0.6.0",
        "tqdm",
    ],
    extras_require=extras,
    entry_points={"console_scripts": ["leo-diffusers=leo_diffusers.cli:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
