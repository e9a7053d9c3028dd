"""Curves of a fit: its losses, learning rate and speed, and its losses on held-back episodes."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import (
    CSVLogger,
    Logger,
    MLFlowLogger,
    TensorBoardLogger,
    WandbLogger,
)

from maicc.files import read_metrics

_ROW_EVERY = 10  # steps from row to row; the last step has one too
_HELD_BACK_EVERY = 200  # steps from row to row with losses on held-back episodes; so have the ends
HELD_BACK = "held_back_"  # before the name of a loss on held-back episodes


class Metrics(Callback):
    """Logs a row now and then, and what a fit has logged so far goes on when it is resumed.

    Rows come before `Resumable` keeps a state, so that a state and the rows up to its step agree.

    Args:
        path: Checkpoint of the fit.
        logger: See `RunConfig`.
    """

    def __init__(self, path: Path, logger: str) -> None:
        self.path, self.logger = path, logger
        self.loggers: list[Logger] = []
        self.runs: dict[str, str] = {}  # what a logger calls the fit, by the logger's name

    def state_dict(self) -> dict[str, Any]:
        """Gives what a resumed fit needs, to go on in the same run of a logger."""
        return {"runs": self.runs}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over the state of an interrupted fit."""
        self.runs = state_dict["runs"]

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Opens the loggers at the step that a resumed fit has reached."""
        if self.logger != "none":
            step = trainer.global_step
            self.loggers = [_csv(self.path, step)]
            if self.logger != "csv":
                self.loggers.append(self._other(step))
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            self.held_back = data.held_back_batches()
        self.latest = trainer.global_step, time.monotonic()

    def _other(self, step: int) -> Logger:
        """Makes the logger that is used beside the CSV file."""
        folder, fit, run = self.path.parent.resolve(), self.path.stem, self.runs.get(self.logger)
        name = f"{folder.name} {fit}"
        if self.logger == "tensorboard":
            # of a run that was killed, later steps than that of the state are hidden
            return TensorBoardLogger(folder, self.logger, fit, purge_step=step + 1)
        if self.logger == "wandb":
            return WandbLogger(name, folder, run, project="maicc", resume="allow")
        server = os.environ.get("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        return MLFlowLogger("maicc", name, server, run_id=run)

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *_: Any) -> None:
        """Logs a row when it is time."""
        step, last = trainer.global_step, trainer.global_step == trainer.max_steps
        if not self.loggers or (step % _ROW_EVERY and not last):
            return
        since, start = self.latest
        row = {name: float(value) for name, value in trainer.callback_metrics.items()}
        row["lr"] = trainer.optimizers[0].param_groups[0]["lr"]
        row["steps_per_second"] = (step - since) / (time.monotonic() - start)
        if step == _ROW_EVERY or step % _HELD_BACK_EVERY == 0 or last:
            row |= self._on_held_back(trainer, module)
        for logger in self.loggers:
            logger.log_metrics(row, step)
            logger.save()
        if self.logger != "csv":
            self.runs[self.logger] = str(self.loggers[1].version)
        self.latest = step, time.monotonic()

    def _on_held_back(self, trainer: L.Trainer, module: Any) -> dict[str, float]:
        """Computes the mean losses on held-back episodes; none where none are held back."""
        training = [part for part in module.modules() if part.training]
        module.eval()
        with trainer.precision_plugin.val_step_context(), torch.no_grad():
            losses = [
                module.losses(trainer.strategy.batch_to_device(batch)) for batch in self.held_back
            ]
        for part in training:
            part.training = True
        return {
            HELD_BACK + name: float(sum(each[name] for each in losses)) / len(losses)
            for name in (losses[0] if losses else ())
        }

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Closes the loggers."""
        self._close("success")

    def on_exception(self, *_: Any) -> None:
        """Closes the loggers of a fit that failed."""
        self._close("failed")

    def _close(self, status: str) -> None:
        for logger in self.loggers:
            logger.finalize(status)
            if isinstance(logger, WandbLogger):  # else the next fit would go on in this run
                logger.experiment.finish()


def _csv(path: Path, step: int) -> CSVLogger:
    """Makes the logger of FIT/metrics.csv, with the rows up to `step` that are there already.

    Lightning's logger removes an old file; these rows are logged again.
    """
    logger = CSVLogger(path.parent, "", path.stem)
    file = Path(logger.log_dir) / "metrics.csv"
    rows = [row for row in read_metrics(file) if row["step"] <= step]
    file.unlink(missing_ok=True)
    for row in rows:
        logger.log_metrics({k: v for k, v in row.items() if k != "step"}, int(row["step"]))
    if rows:
        logger.save()
    return logger
