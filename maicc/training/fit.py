"""Fits that can be interrupted and go on, with one bar over the whole fit.

The life of a fit, and where each part of it is written:

1. `fit` makes a Lightning Trainer, which calls everything below; it resumes a kept state.
2. `FamilyData.setup` reads the dataset (`episode_data`, `retrieval_data`, `chain_data`).
3. `FamilyData.batches` yields a batch for each step, drawn from seed, step and rank alone.
4. `training_step` of a module (`modules`, `baselines`) asks its network for the loss.
5. AdamW from `MaiccModule.configure_optimizers` takes a step; `Progress` moves the bar.
6. `Metrics` logs the losses now and then, those on held-back episodes less often.
7. `Resumable` keeps the state now and then; at the end `save` leaves the checkpoint.
"""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment
from tqdm import tqdm

from maicc.files import whole_file
from maicc.training.checkpoints import load_module, take_over
from maicc.training.family_data import FamilyData
from maicc.training.metrics import Metrics
from maicc.training.modules import MaiccModule
from maicc.types import UserError

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_KEPT_EVERY, _SHOWN_EVERY = 200, 10  # steps until a state is kept, and the bar moves


def resolve_device(device: str) -> str:
    """Turns `auto` into `cuda` where torch has a GPU, and else into `cpu`.

    Raises:
        UserError: the device is unknown, or a GPU is asked for where there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {device!r} is not one of auto, cpu, cuda")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no GPU; set device=cpu or device=auto")
    return device


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch inside the block; the global generator is as before afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def save(trainer: L.Trainer, path: Path) -> None:
    """Writes a checkpoint, whole or not at all."""
    with whole_file(path) as temporary:
        trainer.save_checkpoint(temporary, weights_only=False)


class Interruptible(Callback):
    """Ends a fit after the running step on Ctrl-C and on SIGTERM; a second one stops at once."""

    def __init__(self) -> None:
        self.interrupted = False

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Starts to catch both, in place of Lightning; see `handlers_restored`.

        Only the main thread can.
        """
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, frame: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Ends the fit if it was interrupted."""
        if self.interrupted:
            trainer.should_stop = True


@contextmanager
def handlers_restored() -> Iterator[None]:
    """Gives Ctrl-C and SIGTERM back, after the block, to those who handled them before.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed before the first step, where Lightning exits.
    """
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    except SystemExit as end:
        if end.code == 1:
            raise KeyboardInterrupt from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


class Resumable(Interruptible):
    """Keeps the state of a fit at `path` from time to time, on Ctrl-C and on SIGTERM."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Keeps the state when it is time."""
        super().on_train_batch_end(trainer)
        if self.interrupted or trainer.global_step % _KEPT_EVERY == 0:
            save(trainer, self.path)


class Progress(Callback):
    """One bar over the whole fit, with the latest losses."""

    def __init__(self, label: str) -> None:
        self.label = label

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Opens the bar, at the step that a resumed fit has reached."""
        self.bar = tqdm(
            desc=self.label, unit="step", total=trainer.max_steps, initial=trainer.global_step
        )

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Moves the bar."""
        if trainer.global_step % _SHOWN_EVERY == 0:
            losses = trainer.progress_bar_metrics
            self.bar.set_postfix({k: f"{v:.3f}" for k, v in losses.items()}, refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Closes the bar."""
        self.bar.update(trainer.global_step - self.bar.n)
        self.bar.close()

    def on_exception(self, *_: Any) -> None:
        """Closes the bar, before an error is told below it."""
        if hasattr(self, "bar"):
            self.bar.close()


def fit(
    module: MaiccModule,
    data: FamilyData,
    path: Path,
    steps: int,
    device: str,
    label: str,
    logger: str = "csv",
    precision: str = "fp32",
) -> None:
    """Trains for `steps` and leaves the checkpoint at `path`; goes on from an interrupted fit.

    Args:
        device: `auto`, `cpu` or `cuda`.
        label: Name of the fit on its bar.
        logger, precision: See `RunConfig`.

    Raises:
        UserError: the loss is not finite, or memory does not suffice.
        KeyboardInterrupt: Ctrl-C was pressed, or SIGTERM came; the state has been kept.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.stem}.part.ckpt")
    resumable = Resumable(part)
    trainer = L.Trainer(
        accelerator={"cuda": "gpu", "cpu": "cpu"}[resolve_device(device)],
        devices=1,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        max_steps=steps,
        gradient_clip_val=1.0,
        callbacks=[Metrics(path, logger), resumable, Progress(label)],
        plugins=[LightningEnvironment()],  # one process, whatever a cluster's variables say
        logger=False,  # `Metrics` logs
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        limit_val_batches=0,  # `Metrics` computes the losses on held-back episodes
    )
    if part.exists():  # refuses one of another model or family
        take_over(module, load_module(part, type(module), module.spec), part)
    try:
        with handlers_restored(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)")  # Lightning's
            trainer.fit(module, data, ckpt_path=part if part.exists() else None, weights_only=True)
    except (MemoryError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or ["out of memory"])[0]
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not full and "DefaultCPUAllocator" not in first:  # torch's, which has no class for it
            raise
        raise UserError(
            f"{label}: out of memory ({first:.200}); lower its batch_size, or, for the embedding "
            "of long episodes and large teams, set embedding.window or "
            "embedding.model.attention=factored"
        ) from error
    if trainer.global_step >= steps:
        save(trainer, path)
        part.unlink(missing_ok=True)
    if resumable.interrupted:
        raise KeyboardInterrupt
