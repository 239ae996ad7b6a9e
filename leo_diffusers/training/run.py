"""One training run: where it stands, what it logs, when it saves, and how it goes on after a stop."""

import argparse
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import set_seed
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from ..data.frame_pairs import EndlessSampler
from ..data.frame_streams import StreamedFrames
from .arguments import build_ema, start_trackers
from .checkpoints import find_checkpoint, resume, save_checkpoint
from .validation import read_json_lines


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
        self._checkpoint = checkpoint = find_checkpoint(args.output_dir, args.resume_from_checkpoint)
        if checkpoint is not None and any(checkpoint.glob("custom_checkpoint_*.pkl")) != args.use_ema:
            raise ValueError(
                f"{checkpoint} was written {'without' if args.use_ema else 'with'} --use_ema: resume so too."
            )
        # Networks are built from one seed; from here on processes may draw (dropout), each from its own.
        set_seed(args.seed, device_specific=True)
        self.step = resume(accelerator, args.output_dir, args.resume_from_checkpoint)
        if self.ema is not None:
            self.ema.to(accelerator.device)  # a checkpoint brings it back on the CPU
        self._losses: dict[str, list[torch.Tensor]] = {}
        start_trackers(accelerator, args, name)
        self._losses_path = args.output_dir / "losses.jsonl"
        if accelerator.is_main_process:
            # A resumed run repeats the steps that were made after its checkpoint.
            kept = read_json_lines(self._losses_path, self.step)
            self._losses_path.write_text("".join(json.dumps(line) + "\n" for line in kept))
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

    def dataloader(self, dataset: Dataset | StreamedFrames) -> DataLoader:
        r"""
        The batches that are still to come, this process's share of them.

        Args:
            dataset (`Dataset` or [`~data.frame_streams.StreamedFrames`]): Indexed by position in an endless, seeded
                sequence, or a stream.

        Raises:
            ValueError: Where a stream is to be continued with other processes, workers, batches or memory.
        """
        if isinstance(dataset, StreamedFrames):
            return self._stream(dataset)
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

    def _stream(self, dataset: StreamedFrames) -> DataLoader:
        args, accelerator = self.args, self.accelerator
        self._check_split(
            {
                "number of processes": accelerator.num_processes,
                "--dataloader_num_workers": max(1, args.dataloader_num_workers),  # none read as one does
                "--train_batch_size": args.train_batch_size,
                "--gradient_accumulation_steps": args.gradient_accumulation_steps,
                "number of items that --cache_gigabytes holds": dataset.buffer_size,
            }
        )
        first, end = (step * args.gradient_accumulation_steps for step in (self.step, args.max_train_steps))
        dataset.schedule(
            accelerator.process_index, accelerator.num_processes, args.train_batch_size, range(first, end)
        )
        dataloader = DataLoader(
            dataset,
            batch_size=args.train_batch_size,
            num_workers=args.dataloader_num_workers,
            pin_memory=accelerator.device.type == "cuda",
            generator=torch.Generator().manual_seed(args.seed),
        )
        # As if for one process: the stream splits itself.
        return prepare_data_loader(dataloader, accelerator.device, 1, 0, put_on_device=True, dispatch_batches=False)

    def _check_split(self, split: dict[str, int]) -> None:
        r"""Notes in checkpoints how a stream is split, and compares with how it was split before."""

        def save(models: list, weights: list, folder: str) -> None:
            if self.accelerator.is_main_process:
                Path(folder, "stream.json").write_text(json.dumps(split))

        self.accelerator.register_save_state_pre_hook(save)
        if self._checkpoint is None or not (self._checkpoint / "stream.json").is_file():
            return
        before = json.loads((self._checkpoint / "stream.json").read_text())
        for name, value in split.items():
            if before[name] != value:
                self._progress_bar.close()
                raise ValueError(
                    f"{self._checkpoint} was written with the {name} at {before[name]}, not {value}: a stream goes on "
                    "where it was only with the same."
                )

    def update(
        self, *trained: tuple[torch.nn.Module, torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]
    ) -> None:
        r"""
        Clips gradients where that is asked for, and takes an optimisation step of each network.

        Args:
            trained (`tuple`): Prepared networks, each with its optimiser and schedule.
        """
        for model, optimizer, lr_scheduler in trained:
            if self.args.max_grad_norm is not None and self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(model.parameters(), self.args.max_grad_norm)
            optimizer.step()
            lr_scheduler.step()
            optimizer.zero_grad()

    def record(self, losses: dict[str, torch.Tensor]) -> None:
        r"""
        Takes the losses of one batch; several may make up a step.

        Args:
            losses (`dict[str, torch.Tensor]`): Scalars by name.
        """
        for name, loss in losses.items():
            self._losses.setdefault(name, []).append(loss.detach().float())

    def finish_step(self, **values: float) -> None:
        r"""
        Counts an optimisation step, and logs the mean of its losses over batches and processes.

        Args:
            values (`float`): Other numbers to log, the same on every process.
        """
        self.step += 1
        means = torch.stack([torch.stack(losses).mean() for losses in self._losses.values()])
        means = self.accelerator.reduce(means, "mean").tolist()
        values = dict(zip(self._losses, means)) | values
        self._losses = {}
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
