"""Trains one module: its parameters, optimiser, averaged weights, and their state in checkpoints."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Generic

import torch
from torch import Tensor

from kandinsky.core.errors import CheckpointError, ConfigError
from kandinsky.training import fsdp
from kandinsky.training.activation_checkpointing import recompute
from kandinsky.training.checkpoint import LearnerValues
from kandinsky.training.config.run import Stage
from kandinsky.training.distributed import ALONE, World
from kandinsky.training.ema import Ema, copy_into
from kandinsky.training.optim import make_optimiser, optimiser_state, rate_factor, restore_optimiser, set_rate, trained
from kandinsky.training.task import B, StepContext, Trainable

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What networks compute in, by the name of a precision."""
SMALLEST_SCALE = 2.0**-10
"""Of losses in half precision; one that overflows below it is not finite."""


class Learner(Generic[B]):
    """A trainable's module on its device, with everything that changes while it learns.

    `sharded` are its networks where FSDP has them; all processes then call these methods together.
    """

    def __init__(self, trainable: Trainable[B], stage: Stage, device: torch.device, world: World = ALONE) -> None:
        self.trainable, self.stage, self.device, self.world = trainable, stage, device, world
        module = trainable.module.to(device)
        if stage.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for part in trainable.compiled:
            if stage.gradient_checkpointing:
                recompute(part)
            if stage.compile:
                part.compile()
        module.train()
        self.sharded = self._shard() if trainable.networks and shards(stage, world) else None
        self.parameters = trained(module)
        self.optimiser = make_optimiser(self.parameters, trainable.optimiser)
        self.ema = Ema(module, stage.ema.decay) if trainable.ema else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=stage.precision == "fp16")
        self.rate = 0.0

    def _shard(self) -> fsdp.ShardedNetworks:
        stage = self.stage
        if stage.optimiser.kind != "adamw" or stage.precision == "fp16":
            raise ConfigError(
                f"Networks spread over processes do not learn by {stage.optimiser.kind} in {stage.precision}.",
                'Set optimiser.kind = "adamw", and precision = "bf16" or "fp32".',
            )
        return fsdp.ShardedNetworks(self.trainable.networks, self.world, self.device)

    def update(
        self, steps: Sequence[StepContext[B]], others: Sequence["Learner[B]"], part: float, step: int
    ) -> dict[str, Tensor]:
        """One optimiser step on the mean loss of `steps`; `part` in [0, 1] of the stage is done before it.

        The others' parameters get no gradients meanwhile. Returns `loss`, its parts, `grad_norm` and `lr`.
        """
        factor = rate_factor(self.stage.schedule, step - self.trainable.begins, part)
        self.rate = self.trainable.optimiser.lr * factor
        set_rate(self.optimiser, self.rate)
        sums: dict[str, Tensor] = {}
        for other in others:
            other.learn(False)
        for context in steps:
            with self._precision():
                losses = self.trainable.loss(context)
            self.scaler.scale(losses.total / len(steps)).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": losses.total, **losses.parts}.items():
                sums[name] = sums.get(name, 0) + value.detach().float() / len(steps)
        for other in others:
            other.learn(True)
        self._average(sums)
        limit = self.stage.clip_norm or float("inf")
        self.scaler.unscale_(self.optimiser)
        norm = fsdp.full(torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), limit))
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.trainable.module)
        rate = torch.tensor(self.rate, dtype=torch.float64)
        return {**sums, "grad_norm": self._logged_norm(norm.detach().float()), "lr": rate}

    def _average(self, losses: dict[str, Tensor]) -> None:
        """Averages gradients and logged losses over all processes."""
        if self.world.size == 1:
            return
        if self.sharded is None:  # Else FSDP has averaged the gradients.
            for value in self.parameters.values():
                if value.grad is None:
                    value.grad = torch.zeros_like(value)
            self.world.mean([value.grad for value in self.parameters.values() if value.grad is not None])
        self.world.mean([*losses.values()])

    def _logged_norm(self, norm: Tensor) -> Tensor:
        """The norm of gradients; of a step that was left out because the scaled loss overflowed it is 0.

        A loss that overflows however little it is scaled is no accident: its norm stays what it is.
        """
        if self.stage.precision != "fp16" or self.scaler.get_scale() < SMALLEST_SCALE:
            return norm
        return torch.where(norm.isfinite(), norm, 0.0)

    def learn(self, on: bool) -> None:
        """Switches gradients of the trained parameters."""
        for value in self.parameters.values():
            value.requires_grad_(on)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Sets evaluation mode with the averaged weights in place, whole in each process."""
        module = self.trainable.module
        swapped = self.ema.swapped(module) if self.ema is not None else nullcontext()
        gathered = self.sharded.gathered() if self.sharded is not None else nullcontext()
        with swapped, gathered, self._precision():
            module.eval()
            try:
                yield
            finally:
                module.train()

    def state(self) -> tuple[dict[str, dict[str, Tensor]], LearnerValues]:
        """Tensors by file and name, and JSON values: the same sharded or not, in the first process."""
        name = self.trainable.name
        moments, numbers = optimiser_state(self.optimiser, self.parameters)
        tensors = {name: dict(self.trainable.module.state_dict()), f"{name}.optimiser": moments}
        if self.ema is not None:
            tensors[f"{name}.ema"] = self.ema.mean
        if self.sharded is not None:
            tensors = {
                file: {key: self._gathered(value) for key, value in found.items()} for file, found in tensors.items()
            }
        return tensors, {
            "optimiser": numbers,
            "averaged": self.ema.updates if self.ema else 0,
            "scaler": self.scaler.state_dict(),
        }

    def _gathered(self, tensor: Tensor) -> Tensor:
        """All of a tensor, where the one process that writes it has room for all of them."""
        whole = fsdp.full(tensor)
        return whole.cpu() if self.world.first else whole.new_empty(0)

    def finished(self) -> dict[str, dict[str, Tensor]]:
        """What the trainable makes of its averaged weights in the end, by file and name; often nothing."""
        if self.trainable.finish is None:
            return {}
        module = copy.deepcopy(self.trainable.module).float()
        if self.ema is not None:
            copy_into(module, self.ema.mean)
        self.trainable.finish(module.eval())
        return {f"{self.trainable.name}.final": dict(module.state_dict())}

    def restore(self, tensors: dict[str, dict[str, Tensor]], values: LearnerValues) -> None:
        """Puts back what `state` gave; CheckpointError when it is of another network."""
        name = self.trainable.name
        if type(values["averaged"]) is not int or values["averaged"] < 0:
            raise CheckpointError(
                f"The saved weights of {name!r} were averaged no whole number of times.", "It is damaged."
            )
        try:
            copy_into(self.trainable.module, tensors[name])
            if self.ema is not None:
                for key, mean in self.ema.mean.items():
                    mean.copy_(fsdp.sharded_like(tensors[f"{name}.ema"][key], mean))
                self.ema.updates = values["averaged"]
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"The saved weights of {name!r} are of another network ({error}).",
                "Resume with the configuration that the run was started with.",
            ) from error
        moments, numbers = tensors[f"{name}.optimiser"], values["optimiser"]
        restore_optimiser(self.optimiser, self.parameters, moments, numbers)
        if values.get("scaler"):
            self.scaler.load_state_dict(values["scaler"])

    def _precision(self) -> torch.autocast:
        dtype = HALVES.get(self.stage.precision)
        return torch.autocast(self.device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def shards(stage: Stage, world: World) -> bool:
    """Whether networks of a stage are sharded over the processes, where they can be."""
    return world.size > 1 and (stage.spread or fsdp.requested())
