"""The command-line arguments that training scripts share, and what is built from them."""

import argparse
import logging
import os
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.utils import ProjectConfiguration, set_seed
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel

from ..model_card import check_license


def add_training_arguments(
    parser: argparse.ArgumentParser,
    learning_rate: float,
    train_batch_size: int,
    max_train_steps: int,
    ema_decay: float,
) -> None:
    r"""
    Adds what every training script takes, in diffusers' usual names.

    Args:
        parser (`argparse.ArgumentParser`): Of the script.
        learning_rate (`float`): Default, as of the paper's recipe; likewise the others.
        train_batch_size (`int`): Default number of samples per process and micro-step.
        max_train_steps (`int`): Default number of optimisation steps.
        ema_decay (`float`): Default decay of the moving average of the weights.
    """
    add = parser.add_argument
    add("--output_dir", type=Path, required=True, help="where the model, its checkpoints and logs are written")
    add("--seed", type=int, default=0, help="seed of weights, data order and noise (default: %(default)s)")
    add("--train_batch_size", type=int, default=train_batch_size, help="per process (default: %(default)s)")
    add("--max_train_steps", type=int, default=max_train_steps, help="optimisation steps (default: %(default)s)")
    add("--gradient_accumulation_steps", type=int, default=1, help="batches per step (default: %(default)s)")
    add("--gradient_checkpointing", action="store_true", help="recompute activations to save memory")
    add("--learning_rate", type=float, default=learning_rate, help="default: %(default)s")
    add("--lr_scheduler", default="constant", help="a schedule of diffusers.optimization (default: %(default)s)")
    add("--lr_warmup_steps", type=int, default=0, help="steps to the full learning rate (default: %(default)s)")
    add("--max_grad_norm", type=float, default=None, help="clip gradients at this norm (default: no clipping)")
    add("--use_ema", action="store_true", help="publish a moving average of the weights")
    add("--ema_decay", type=float, default=ema_decay, help="its decay (default: %(default)s)")
    add("--mixed_precision", choices=("no", "fp16", "bf16"), default=None, help="default: accelerate's configuration")
    add("--allow_tf32", action="store_true", help="faster float32 on recent NVIDIA GPUs")
    add("--dataloader_num_workers", type=int, default=0, help="processes that decode (default: %(default)s)")
    add("--checkpointing_steps", type=int, default=500, help="steps between checkpoints (default: %(default)s)")
    add("--checkpoints_total_limit", type=int, default=None, help="keep only this many (default: all)")
    add("--resume_from_checkpoint", default=None, help='a checkpoint\'s folder, or "latest"')
    add("--validation_steps", type=int, default=500, help="steps between validations (default: %(default)s)")
    add("--logging_dir", default="logs", help="below --output_dir (default: %(default)s)")
    add("--report_to", default="tensorboard", help='tracker of accelerate, or "none" (default: %(default)s)')
    add("--push_to_hub", action="store_true", help="publish the model at the end")
    add("--hub_model_id", default=None, help="repository to publish to (default: the output folder's name)")
    add(
        "--license", default="other", help="of the weights, as the Hub names it: cc-by-4.0, ... (default: %(default)s)"
    )
    add("--hub_token", default=None, help="access token (default: of `hf auth login`)")


def check_training_arguments(args: argparse.Namespace) -> None:
    r"""
    Refuses arguments that cannot be carried out.

    Raises:
        ValueError: Names the argument, its value and the fix.
    """
    counts = ("train_batch_size", "max_train_steps", "gradient_accumulation_steps", "checkpointing_steps")
    for name in (*counts, "validation_steps"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}.")
    if args.learning_rate <= 0:
        raise ValueError(f"--learning_rate must be above 0, got {args.learning_rate}.")
    if args.checkpoints_total_limit is not None and args.checkpoints_total_limit < 1:
        raise ValueError(f"--checkpoints_total_limit must be at least 1, got {args.checkpoints_total_limit}.")
    if args.lr_warmup_steps and args.lr_scheduler == "constant":
        raise ValueError(
            "--lr_warmup_steps has no effect on a constant rate: use --lr_scheduler constant_with_warmup."
        )
    if not 0 <= args.ema_decay < 1:
        raise ValueError(f"--ema_decay must be at least 0 and below 1, got {args.ema_decay}.")
    check_license(args.license)
    if args.output_dir.exists() and not args.output_dir.is_dir():
        raise ValueError(f"--output_dir {args.output_dir} is a file: name a folder.")


def check_processes(accelerator: Accelerator) -> None:
    r"""
    Refuses processes that a launcher started together and that do not know of each other: without a GPU accelerate
    tells them apart only where it is told to, and each would do all of the work and write over the others' files.

    Args:
        accelerator ([`Accelerator`]): Of one of them.

    Raises:
        ValueError: Where the launcher counts more processes than the accelerator.
    """
    started = int(os.environ.get("WORLD_SIZE", 1))
    if started > accelerator.num_processes:
        raise ValueError(
            f"{started} processes were started and do not work together: without a GPU set ACCELERATE_USE_CPU=true."
        )


def faster_precision() -> str:
    r"""
    What `--mixed_precision` is faster on this machine: "bf16", or "no" where bfloat16 is emulated. A CPU without
    AVX-512 takes 20 to 60 times as long for its convolutions.
    """
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if torch.backends.cpu.get_cpu_capability().startswith("AVX512") else "no"


def build_accelerator(args: argparse.Namespace) -> Accelerator:
    r"""
    The [`Accelerator`] of a run, with seed and logging set up.

    Args:
        args (`argparse.Namespace`): Of a parser with [`add_training_arguments`].

    Raises:
        ValueError: Where several processes were started and do not work together.
    """
    configuration = ProjectConfiguration(
        project_dir=str(args.output_dir), logging_dir=str(args.output_dir / args.logging_dir)
    )
    accelerator = Accelerator(
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        mixed_precision=args.mixed_precision,
        log_with=None if args.report_to == "none" else args.report_to,
        project_config=configuration,
    )
    check_processes(accelerator)
    level = logging.INFO if accelerator.is_local_main_process else logging.ERROR
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%H:%M:%S", level=level, force=True)
    for chatty in ("httpx", "httpx2", "accelerate"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # The same on every process: models start equal. What differs between samples is seeded by their place in the data.
    set_seed(args.seed)
    if args.allow_tf32:
        torch.backends.cuda.matmul.allow_tf32 = True
    args.output_dir.mkdir(parents=True, exist_ok=True)
    logger = get_logger(__name__)
    logger.info(f"Training in {accelerator.num_processes} process(es) on {accelerator.device}.")
    if accelerator.mixed_precision == "bf16" and accelerator.device.type == "cpu" and faster_precision() == "no":
        logger.warning("This CPU emulates bfloat16, many times as slowly as float32: use --mixed_precision no.")
    return accelerator


def start_trackers(accelerator: Accelerator, args: argparse.Namespace, project_name: str) -> None:
    r"""Starts the trackers, with those arguments that a tracker can hold: numbers, texts and truth values."""
    config = {
        name: value
        for name, value in vars(args).items()
        if isinstance(value, (int, float, str, bool)) and name != "hub_token"  # a secret
    }
    accelerator.init_trackers(project_name, config=config)


def build_lr_scheduler(
    optimizer: torch.optim.Optimizer, args: argparse.Namespace, num_processes: int
) -> torch.optim.lr_scheduler.LRScheduler:
    r"""The schedule of `--lr_scheduler`; accelerate advances it once per process, so it is stretched by as much."""
    return get_scheduler(
        args.lr_scheduler,
        optimizer,
        num_warmup_steps=args.lr_warmup_steps * num_processes,
        num_training_steps=args.max_train_steps * num_processes,
    )


def build_ema(model: torch.nn.Module, args: argparse.Namespace, device: torch.device) -> EMAModel | None:
    r"""The moving average of a model's weights where `--use_ema` asks for it."""
    if not args.use_ema:
        return None
    ema = EMAModel(model.parameters(), decay=args.ema_decay)
    ema.to(device)
    return ema
