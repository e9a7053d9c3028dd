"""Lightning modules, which hold a network, its training step and its optimiser.

Their checkpoints tell which model they hold, and of which family.
"""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from zipfile import ZipFile

import lightning as L
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from maicc.config import DecisionConfig, EmbeddingConfig, OptimiserConfig
from maicc.data.dataset import require_expert
from maicc.data.team_batch import TeamBatch
from maicc.files import first_line
from maicc.models.decision import DecisionBatch, DecisionTransformer
from maicc.models.embedding import Embedding, EmbeddingLosses
from maicc.schema import check_options
from maicc.types import Spec, UserError

Module = TypeVar("Module", bound="MaiccModule")


class MaiccModule(L.LightningModule):
    """A network `net` built from a `Spec` and a configuration, both kept in its checkpoints."""

    kind: ClassVar[str]
    config_type: ClassVar[type]  # of `config`
    on_bar: ClassVar[tuple[str, ...]] = ("loss", "accuracy")  # losses that the progress bar shows
    net: nn.Module

    def __init__(
        self,
        spec: Spec | None,
        config: Any,
        optimiser: OptimiserConfig = OptimiserConfig(),  # noqa: B008 - never changed
    ) -> None:
        super().__init__()
        check_options(config, "model")
        check_options(optimiser, "optimiser")
        if spec is None:  # the Lightning CLI links it from the data module, after parsing
            raise UserError("a model needs the spec of its task family: pass get_family(NAME).spec")
        self.spec, self.config, self.optimiser = spec, config, optimiser
        self.data_seed = 0

    @classmethod
    def from_header(cls: type[Module], spec: Spec, header: Mapping[str, Any]) -> Module:
        """Makes the untrained module that a checkpoint's header describes.

        Version 0.1 kept a rival's own options apart, and beside them options that the rival did
        not read. The latter are dropped.
        """
        options = {**header["network"], **header.get("baseline", {})}
        names = {option.name for option in fields(cls.config_type)}
        if "baseline" in header:
            options = {name: value for name, value in options.items() if name in names}
        return cls(spec, cls.config_type(**options))

    @property
    def data_module(self) -> Any:
        """The data module that the trainer draws batches from."""
        return getattr(self.trainer, "datamodule", None)

    def configure_optimizers(self) -> Any:
        """Makes AdamW and, if asked for, its schedule.

        Raises:
            UserError: the schedule needs the number of steps, which the trainer does not have.
        """
        o = self.optimiser
        adam = torch.optim.AdamW(self.parameters(), lr=o.learning_rate, weight_decay=o.weight_decay)
        if o.schedule == "constant":
            return adam
        steps = self.trainer.max_steps
        if steps < 1:
            raise UserError("schedule one_cycle needs the length of the fit: set trainer.max_steps")
        cycle = OneCycleLR(adam, o.learning_rate, total_steps=steps + 1)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}

    def on_train_start(self) -> None:
        """Takes over the data's seed, and checks that a resumed schedule fits the trainer.

        Raises:
            UserError: the schedule was laid out for another number of steps.
        """
        self.data_seed = getattr(self.data_module, "seed", 0)
        schedule, steps = self.lr_schedulers(), self.trainer.max_steps
        if isinstance(schedule, OneCycleLR) and schedule.total_steps != steps + 1:
            raise UserError(
                f"the checkpoint's one_cycle schedule was laid out for {schedule.total_steps - 1} "
                f"steps, not for {steps}; set trainer.max_steps to that, or train with "
                "optimiser.schedule=constant, which can go on for as long as you like"
            )

    @abstractmethod
    def losses(self, batch: Any) -> dict[str, Tensor]:
        """Computes the `loss` of a batch, which is lowered, and what else is logged."""

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        """Computes the loss."""
        losses = self.losses(batch)
        for name, loss in losses.items():
            self.log(name, loss, prog_bar=name in self.on_bar)
        return losses["loss"]

    def validation_step(self, batch: Any, batch_index: int) -> None:
        """Computes the losses on held-back episodes, for `maicc fit`."""
        losses = {f"held_back_{name}": loss for name, loss in self.losses(batch).items()}
        self.log_dict(losses, batch_size=1, sync_dist=True)

    def on_train_batch_start(self, batch: Any, batch_index: int) -> None:
        """Seeds dropout."""
        if self.config.dropout:
            torch.manual_seed(self.step_seed())

    def on_before_backward(self, loss: Tensor) -> None:
        """Stops at the first loss that is not finite.

        Raises:
            UserError: names what to change.
        """
        if not torch.isfinite(loss):
            raise self._diverged(f"loss of {loss.item()}")

    def _diverged(self, what: str) -> UserError:
        """Error of a fit that has got lost."""
        return UserError(
            f"training of {self.kind} has a {what} after {self.global_step} steps, expected "
            f"finite numbers: lower optimiser.learning_rate={self.optimiser.learning_rate:g}, or "
            "scale what agents see and are paid to a size of about 1"
        )

    def step_seed(self) -> int:
        """Seed of all chance in a training step.

        It follows from the data's seed, the process and the step alone, so that a resumed fit
        equals an unbroken one. On held-back episodes it is the same in every step.
        """
        step = self.global_step if self.training else 0
        return 1_000_000_007 * self.data_seed + 1_000_003 * self.global_rank + step

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the header, from which `load_module` makes the module again.

        Raises:
            UserError: weights are not finite; what was saved before stays.
        """
        if not _finite(self):
            raise self._diverged("weight that is not finite")
        checkpoint["maicc"] = {
            "kind": self.kind,
            "spec": asdict(self.spec),
            "network": asdict(self.config),
        }


def load_module(path: str | Path, module: type[Module], spec: Spec | None = None) -> Module:
    """Loads the module kept in a checkpoint, in evaluation mode, on the CPU.

    Args:
        path: A checkpoint, or a .safetensors file that `export_weights` made of one.
        module: Class of the module.
        spec: Sizes that are expected; any if None.

    Raises:
        UserError: the file is missing, is no checkpoint of ours, holds another model, or (given
            `spec`) is of another family or size.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such checkpoint; train it with `maicc fit` or `maicc run`")
    checkpoint = _read_checkpoint(path)
    header = checkpoint.get("maicc") if isinstance(checkpoint, dict) else None
    header = header if isinstance(header, dict) else {}
    if header.get("kind") != module.kind:
        raise UserError(
            f"{path}: holds {header.get('kind', 'no model of maicc')}, expected {module.kind}"
        )
    try:
        trained_for = Spec.from_json(header["spec"])
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError(f"{path}: made by another version of maicc; train it again") from None
    if spec is not None and trained_for != spec:
        raise UserError(
            f"{path}: trained for {trained_for}, expected {spec}; train one for this family"
        )
    try:
        loaded = module.from_header(trained_for, header)
        loaded.load_state_dict(checkpoint["state_dict"])
    except (RuntimeError, TypeError, KeyError):
        raise UserError(f"{path}: made by another version of maicc; train it again") from None
    if not _finite(loaded):
        raise UserError(
            f"{path}: has weights that are not finite, so its training has diverged; remove it and "
            "train it again with a lower learning rate"
        )
    return loaded.eval().requires_grad_(False)


def take_over(module: MaiccModule, trained: MaiccModule, path: Path) -> None:
    """Gives a module the weights of a trained one.

    Args:
        path: Checkpoint of the trained one, for the message.

    Raises:
        UserError: they are not of the same networks.
    """
    try:
        module.load_state_dict(trained.state_dict())
    except RuntimeError:
        raise UserError(
            f"{path}: of other options or of another version of maicc; remove it, so that it is "
            "trained again"
        ) from None


def _read_checkpoint(path: Path) -> Any:
    """Reads a checkpoint's header and weights from either kind of file.

    Raises:
        UserError: it can't be read.
    """
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                header, names = json.loads(file.metadata()["maicc"]), file.keys()
                return {"maicc": header, "state_dict": {n: file.get_tensor(n) for n in names}}
        with ZipFile(path) as archive:  # torch does not look at the checksums
            if (bad := archive.testzip()) is not None:
                raise ValueError(f"checksum of {bad}")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(
            f"{path}: not a readable checkpoint ({first_line(error)}); train it again"
        ) from None


def export_weights(checkpoint: Path, out: Path) -> None:
    """Writes the header and the weights of a checkpoint as a .safetensors file, without the rest.

    Raises:
        UserError: the checkpoint can't be read.
    """
    content = _read_checkpoint(checkpoint)
    weights = {name: value.clone().contiguous() for name, value in content["state_dict"].items()}
    # a single entry, since the file keeps several in no fixed order
    save_file(weights, out, {"maicc": json.dumps(content["maicc"])})


def _finite(module: nn.Module) -> bool:
    """Tells whether all weights are finite."""
    return all(bool(torch.isfinite(value).all()) for value in module.state_dict().values())


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 of names and values of the parameters."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class EmbeddingModule(MaiccModule):
    """Trains teacher and student together.

    Args:
        spec: Sizes of the task family; the data module fills it in.
        model: Teacher and student.
        optimiser: AdamW and its schedule.
    """

    kind = "embedding"
    config_type = EmbeddingConfig
    on_bar = EmbeddingLosses._fields
    net: Embedding

    def __init__(
        self,
        spec: Spec | None = None,
        model: EmbeddingConfig = EmbeddingConfig(),  # noqa: B008 - never changed
        optimiser: OptimiserConfig = OptimiserConfig(),  # noqa: B008
    ) -> None:
        super().__init__(spec, model, optimiser)
        self.net = Embedding(self.spec, model)

    def losses(self, batch: TeamBatch) -> dict[str, Tensor]:
        """Computes the losses, and their weighted sum."""
        losses = self.net.losses(batch)
        named = {name: loss for name, loss in losses._asdict().items() if loss is not None}
        return {**named, "loss": self.net.total(losses)}


class DecisionModule(MaiccModule):
    """Trains the decision transformer on retrieved contexts.

    Args:
        spec: Sizes of the task family; the data module fills it in.
        model: The decision transformer.
        optimiser: AdamW and its schedule.
    """

    kind = "decision"
    config_type = DecisionConfig
    net: DecisionTransformer

    def __init__(
        self,
        spec: Spec | None = None,
        model: DecisionConfig = DecisionConfig(),  # noqa: B008 - never changed
        optimiser: OptimiserConfig = OptimiserConfig(),  # noqa: B008
    ) -> None:
        super().__init__(spec, model, optimiser)
        self.net = DecisionTransformer(self.spec, model)

    @classmethod
    def from_header(cls: type[Module], spec: Spec, header: Mapping[str, Any]) -> Module:
        """Makes the module of a header.

        Models of version 0.1 have no record, read return-to-go with all labels, and are not asked
        for what tasks hide.
        """
        old = {"record": 0, "return_to_go": True, "hidden_weight": 0.0}
        network = {**old, **header["network"]}
        return super().from_header(spec, {**header, "network": network})

    def on_fit_start(self) -> None:
        """Chooses labels where that is left to the data, and checks that the data hold them.

        Raises:
            UserError: the expert's actions are unknown, or contexts have another number of
                trajectories.
        """
        data = self.data_module
        if self.config.labels == "auto":
            known = bool((data.stored.expert >= 0).any())
            self.config = replace(self.config, labels="expert" if known else "behaviour")
            self.net.config = self.config
        if self.config.labels == "expert":
            require_expert(data.stored.expert)
        k = getattr(data, "k", self.config.k)
        if k != self.config.k:
            raise UserError(
                f"the data module retrieves k={k} trajectories, the model takes {self.config.k}; "
                "leave data.init_args.k out"
            )
        record = getattr(data, "record", 0)
        if record != self.config.record:
            raise UserError(
                f"the data module draws records of {record} episodes, the model reads "
                f"{self.config.record}; set data.class_path to maicc.training.RecordData for a "
                "model with a record, to maicc.training.RetrievalData for one without"
            )

    def losses(self, batch: DecisionBatch) -> dict[str, Tensor]:
        """Computes the cross-entropy of the actions, the share that is predicted right, and more.

        Where the hidden part of the task is learned too, `loss` is the weighted sum.
        """
        actions, accuracy, hidden = self.net.loss(batch)
        if hidden is None:
            return {"loss": actions, "accuracy": accuracy}
        loss = actions + self.config.hidden_weight * hidden
        return {"loss": loss, "accuracy": accuracy, "actions": actions, "hidden": hidden}
