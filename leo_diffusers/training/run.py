"""One training run: where it stands, what it logs, when it saves, and how it goes on after a stop."""

import argparse
import contextlib
import json
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..data.frame_pairs import EndlessSampler
from .arguments import build_ema, start_trackers
from .checkpoints import resume, save_checkpoint


class TrainingRun:
    r"""
    The bookkeeping around a training step. Attributes: `step` (optimisation steps so far), `ema`.

    Args:
        accelerator ([`Accelerator`]): Of the run. What is to be saved must have been prepared.
        args (`argparse.Namespace`): Of a parser with [`~training.arguments.add_training_arguments`].
        model (`torch.nn.Module`): The prepared network that is published, and averaged with `--use_ema`.
        name (`str`): The run's name for trackers.
    """

    def __init__(self, accelerator: Accelerator, args: argparse.Namespace, model: torch.nn.Module, name: str):
        self.accelerator = accelerator
        self.args = args
        self.model = accelerator.unwrap_model(model)
        self.ema = build_ema(self.model, args, accelerator.device)
        if self.ema is not None:
            accelerator.register_for_checkpointing(self.ema)
        self.step = resume(accelerator, args.output_dir, args.resume_from_checkpoint)
        start_trackers(accelerator, args, name)
        self._losses_path = args.output_dir / "losses.jsonl"
        if accelerator.is_main_process:
            self._keep_losses_until(self.step)
        self._progress_bar = tqdm(
            total=args.max_train_steps,
            initial=self.step,
            desc=name,
            unit="step",
            disable=not accelerator.is_local_main_process,
        )

    @property
    def is_finished(self) -> bool:
        r"""Whether all steps are done."""
        return self.step >= self.args.max_train_steps

    @property
    def is_checkpoint_due(self) -> bool:
        r"""Whether the state is to be saved now; always at the end."""
        return self.is_finished or self.step % self.args.checkpointing_steps == 0

    @property
    def is_validation_due(self) -> bool:
        r"""Whether the model is to be looked at now; always at the end."""
        return self.is_finished or self.step % self.args.validation_steps == 0

    def dataloader(self, dataset: Dataset) -> DataLoader:
        r"""
        The batches that are still to come, this process's share of them.

        Args:
            dataset (`Dataset`): Indexed by position in an endless, seeded sequence.
        """
        args = self.args
        per_step = args.train_batch_size * args.gradient_accumulation_steps * self.accelerator.num_processes
        sampler = EndlessSampler(self.step * per_step, args.max_train_steps * per_step)
        dataloader = DataLoader(
            dataset,
            batch_size=args.train_batch_size,
            sampler=sampler,
            drop_last=True,  # the discriminator's statistics need whole groups
            num_workers=args.dataloader_num_workers,
            pin_memory=self.accelerator.device.type == "cuda",
            generator=torch.Generator().manual_seed(args.seed),  # or its seed would be drawn from the global state
        )
        return self.accelerator.prepare(dataloader)

    def finish_step(self, losses: dict[str, torch.Tensor], **values: float) -> None:
        r"""
        Counts an optimisation step.

        Args:
            losses (`dict[str, torch.Tensor]`): Scalars to log, by name: their mean over processes.
            values (`float`): Other numbers to log, the same on every process.
        """
        self.step += 1
        names = list(losses)
        means = self.accelerator.reduce(torch.stack([losses[name].detach().float() for name in names]), "mean")
        values = dict(zip(names, means.tolist())) | values
        if self.ema is not None:
            self.ema.step(self.model.parameters())
        self._progress_bar.update()
        self._progress_bar.set_postfix({name: f"{value:.4g}" for name, value in values.items()})
        self.accelerator.log(values, step=self.step)
        if self.accelerator.is_main_process:
            with self._losses_path.open("a") as file:
                file.write(json.dumps({"step": self.step, **values}) + "\n")

    def save(self) -> None:
        r"""Writes a checkpoint of everything that was prepared or registered."""
        save_checkpoint(self.accelerator, self.args.output_dir, self.step, self.args.checkpoints_total_limit)

    @contextlib.contextmanager
    def published_weights(self) -> Iterator[torch.nn.Module]:
        r"""The network with the weights that are published: their moving average, where there is one."""
        was_training = self.model.training
        self.model.eval()
        if self.ema is not None:
            self.ema.store(self.model.parameters())
            self.ema.copy_to(self.model.parameters())
        try:
            yield self.model
        finally:
            if self.ema is not None:
                self.ema.restore(self.model.parameters())
            self.model.train(was_training)

    def close(self) -> None:
        r"""Ends progress bar and trackers."""
        self._progress_bar.close()
        self.accelerator.end_training()

    def _keep_losses_until(self, step: int) -> None:
        # A resumed run repeats the steps that were made after its checkpoint.
        lines = self._losses_path.read_text().splitlines() if self._losses_path.exists() else []
        # The last line of a killed run may be cut off.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        self._losses_path.write_text("".join(line + "\n" for line in kept))
