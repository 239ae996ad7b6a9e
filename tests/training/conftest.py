import argparse
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState

from leo_diffusers.command_line import OneLineParser
from leo_diffusers.training.arguments import add_training_arguments


@pytest.fixture
def training_args(tmp_path) -> Callable[..., argparse.Namespace]:
    """Arguments of a training script: the defaults, and what is named."""

    def make(**values) -> argparse.Namespace:
        parser = OneLineParser(prog="train.py")
        add_training_arguments(parser, learning_rate=1e-3, train_batch_size=2, max_train_steps=10, ema_decay=0.9)
        output_dir: Path = values.pop("output_dir", tmp_path / "run")
        args = parser.parse_args(["--output_dir", str(output_dir), "--report_to", "none"])
        assert set(values) <= set(vars(args))
        vars(args).update(values)
        return args

    return make


@pytest.fixture
def clean_state() -> Iterator[Callable[[], None]]:
    """Forgets what accelerate shares between the accelerators of a process, and how a run sets logging up."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def reset() -> None:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()

    reset()
    yield reset
    reset()
    root.handlers[:], root.level = handlers, level


@pytest.fixture
def accelerator(clean_state) -> Accelerator:
    return Accelerator(cpu=True)
