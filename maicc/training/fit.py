"""What both trained models share: the optimiser, checkpoints, and fits that can be interrupted."""

from __future__ import annotations

import hashlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm

from maicc.config import OptimiserConfig
from maicc.files import whole_file
from maicc.types import Spec, UserError


class MaiccModule(L.LightningModule):
    """A network `net` built from a `Spec` and a configuration, both kept in its checkpoints."""

    kind: ClassVar[str]
    config_type: ClassVar[type]  # of `network`

    def __init__(self, spec: Spec | None, network: Any, optimiser: OptimiserConfig) -> None:
        super().__init__()
        if spec is None:  # the Lightning CLI links it from the data module, after parsing
            raise UserError("a model needs the spec of its task family: pass get_family(NAME).spec")
        self.spec, self.network, self.optimiser = spec, network, optimiser
        self.data_seed = 0

    @classmethod
    def from_header(cls, spec: Spec, header: Mapping[str, Any]) -> MaiccModule:
        """The untrained module that a checkpoint's header tells of."""
        return cls(spec, cls.config_type(**header["network"]))

    def configure_optimizers(self) -> Any:
        o = self.optimiser
        adam = torch.optim.AdamW(self.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay)
        if o.schedule == "constant":
            return adam
        steps = self.trainer.max_steps
        if steps < 1:
            raise UserError("schedule one_cycle needs the length of the fit: set trainer.max_steps")
        cycle = torch.optim.lr_scheduler.OneCycleLR(adam, o.learning_rate, total_steps=steps + 1)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def on_train_start(self) -> None:
        self.data_seed = getattr(self.trainer.datamodule, "seed", 0)
        schedule, steps = self.lr_schedulers(), self.trainer.max_steps
        if self.optimiser.schedule == "one_cycle" and schedule.total_steps != steps + 1:
            raise UserError(
                f"the checkpoint's one_cycle schedule was laid out for {schedule.total_steps - 1} "
                f"steps, not for {steps}; set trainer.max_steps to that, or train with "
                "optimiser.schedule=constant, which can go on for as long as you like"
            )

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        if self.network.dropout:
            torch.manual_seed(self.step_seed())

    def step_seed(self) -> int:
        """What chance in a training step follows from: the data's seed and the step alone, so that
        a resumed fit equals an unbroken one."""
        return 1_000_000_007 * self.data_seed + 1_000_003 * self.global_rank + self.global_step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["maicc"] = {
            "kind": self.kind,
            "spec": asdict(self.spec),
            "network": asdict(self.network),
        }


def load_module(
    path: str | Path, module: type[MaiccModule], spec: Spec | None = None
) -> MaiccModule:
    """The module kept in a checkpoint, in evaluation mode, on the CPU.

    Raises:
        UserError: no such file, not one of ours, of another model, or (given `spec`) of another
            family or size.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint; train it with `maicc fit` or `maicc run`")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"{path}: not a readable checkpoint ({first}); train it again") from None
    header = checkpoint.get("maicc", {}) if isinstance(checkpoint, dict) else {}
    if header.get("kind") != module.kind:
        raise UserError(
            f"{path}: holds {header.get('kind', 'no model of maicc')}, expected {module.kind}"
        )
    found = Spec.from_json(header["spec"])
    if spec is not None and found != spec:
        raise UserError(f"{path}: trained for {found}, expected {spec}; train one for this family")
    try:
        loaded = module.from_header(found, header)
        loaded.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, TypeError, KeyError):
        raise UserError(f"{path}: made by another version of maicc; train it again") from None
    return loaded.eval().requires_grad_(False)


def resolve_device(device: str) -> str:
    """`auto` is the GPU where torch has one.

    Raises:
        UserError: an unknown device, or a GPU is asked for where there is none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"device {device!r} is not one of auto, cpu, cuda")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no GPU; set device=cpu or device=auto")
    return device


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 of names and values of the parameters."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights follow from `seed`; the global generator is as before afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


class _Batches(IterableDataset):
    def __init__(self, make: Callable[[int], Iterator[Any]], data: L.LightningDataModule) -> None:
        self.make, self.data = make, data

    def __iter__(self) -> Iterator[Any]:
        trainer = self.data.trainer
        return self.make(trainer.global_step * trainer.accumulate_grad_batches)


def endless_loader(make: Callable[[int], Iterator[Any]], data: L.LightningDataModule) -> DataLoader:
    """Whole batches from `make(first_step)`; a resumed fit starts at its step."""
    return DataLoader(_Batches(make, data), batch_size=None)


def save(trainer: L.Trainer, path: Path) -> None:
    """Writes a checkpoint, whole or not at all."""
    with whole_file(path) as temporary:
        trainer.save_checkpoint(temporary, weights_only=False)


class Resumable(Callback):
    """Keeps `path` as the state to go on from: every `every_n_steps`, and on Ctrl-C.

    Ctrl-C waits for the running step, so that nothing else is lost; a second one stops at once.
    """

    def __init__(self, path: str | Path, every_n_steps: int = 200) -> None:
        self.path, self.every_n_steps, self.interrupted = Path(path), every_n_steps, False
        self._before: Any = None

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.interrupted:
            trainer.should_stop = True
        if self.interrupted or trainer.global_step % self.every_n_steps == 0:
            save(trainer, self.path)

    def teardown(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self._restore()

    def on_exception(self, trainer: L.Trainer, *_: Any) -> None:
        self._restore()

    def _restore(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None


class Progress(Callback):
    """One bar over the whole fit, with the latest losses."""

    def __init__(self, label: str, every_n_steps: int = 10) -> None:
        self.label, self.every_n_steps = label, every_n_steps

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.bar = tqdm(
            desc=self.label, unit="step", total=trainer.max_steps, initial=trainer.global_step
        )

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step % self.every_n_steps == 0:
            losses = trainer.progress_bar_metrics
            self.bar.set_postfix({k: f"{v:.3f}" for k, v in losses.items()}, refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.bar.update(trainer.global_step - self.bar.n)
        self.bar.close()


def fit(
    module: MaiccModule,
    data: L.LightningDataModule,
    path: Path,
    steps: int,
    device: str,
    label: str,
) -> None:
    """Trains for `steps` and leaves the checkpoint at `path`; goes on from an interrupted fit.

    Raises:
        KeyboardInterrupt: Ctrl-C; the state has been kept.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = path.with_name(f"{path.stem}.part.ckpt")
    resumable = Resumable(kept)
    trainer = L.Trainer(
        accelerator={"cuda": "gpu", "cpu": "cpu"}[resolve_device(device)],
        devices=1,
        max_steps=steps,
        gradient_clip_val=1.0,
        callbacks=[resumable, Progress(label)],
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    if kept.exists():
        load_module(kept, type(module), module.spec)
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, data, ckpt_path=kept if kept.exists() else None, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C before the first step
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from None
    if resumable.interrupted:
        raise KeyboardInterrupt
    save(trainer, path)
    kept.unlink(missing_ok=True)
