"""Lightning modules, which hold a network, its training step and its optimiser.

Their checkpoints tell which model they hold, and of which family.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, ClassVar, TypeVar

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR

from maicc.config import DecisionConfig, EmbeddingConfig, OptimiserConfig
from maicc.data.dataset import labels_known, require_expert
from maicc.data.team_batch import TeamBatch
from maicc.heap import give_back_large_arrays
from maicc.models.decision import DecisionBatch, DecisionTransformer
from maicc.models.embedding import Embedding, EmbeddingLosses
from maicc.schema import check_options
from maicc.training.checkpoints import finite
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

        From now on the process gives large arrays back to the system at once.

        Raises:
            UserError: the schedule was laid out for another number of steps.
        """
        give_back_large_arrays()
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

    def with_hidden(self, losses: dict[str, Tensor], hidden: Tensor | None) -> dict[str, Tensor]:
        """Adds the error of the hidden part to a loss of actions, by its weight.

        Args:
            losses: The loss of actions as `loss`, and what else is logged.
            hidden: Mean error of the hidden part; None where it is not learned.
        """
        if hidden is None:
            return losses
        actions = losses["loss"]
        loss = actions + self.config.hidden_weight * hidden
        return {**losses, "loss": loss, "actions": actions, "hidden": hidden}

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
        if not finite(self):
            raise self._diverged("weight that is not finite")
        checkpoint["maicc"] = {
            "kind": self.kind,
            "spec": asdict(self.spec),
            "network": asdict(self.config),
        }


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
    """Trains the decision transformer on records, retrieved contexts, or both.

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
        if not hasattr(data, "stored"):
            raise UserError(
                f"{type(self).__name__} is trained on RecordData or RetrievalData, not on "
                f"{type(data).__name__}; set data.class_path"
            )
        if self.config.labels == "auto":
            known = "expert" if labels_known(data.stored.expert) else "behaviour"
            self.config = replace(self.config, labels=known)
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
        """Computes the loss, and the share of the actions that is predicted right."""
        actions, accuracy, hidden = self.net.loss(batch)
        return self.with_hidden({"loss": actions, "accuracy": accuracy}, hidden)
