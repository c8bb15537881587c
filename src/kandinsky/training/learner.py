"""One player at work: its parameters, optimiser and running mean, and how they are saved."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from kandinsky.core.errors import CheckpointError, ConfigError
from kandinsky.training.activation_checkpointing import recompute
from kandinsky.training.config import Stage
from kandinsky.training.distributed import ALONE, Copies, Layout, World, asked_to_spread
from kandinsky.training.ema import Ema, copy_into
from kandinsky.training.optim import (
    make_optimiser,
    optimiser_state,
    rate_factor,
    restore_optimiser,
    set_rate,
    trained,
)
from kandinsky.training.task import Player, Turn

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What networks compute in, by the name of a precision."""
SMALLEST_SCALE = 2.0**-10
"""Of losses in half precision; one that overflows below it is not finite."""


class Learner:
    """A player's module on its device, with everything that changes while it learns."""

    def __init__(self, player: Player, stage: Stage, device: torch.device, world: World = ALONE) -> None:
        self.player, self.stage, self.device, self.world = player, stage, device, world
        module = player.module.to(device)
        if stage.channels_last:
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if stage.gradient_checkpointing:
            for part in player.compiled:
                recompute(part)
        if stage.compile:
            for part in player.compiled:
                part.compile()
        module.train()
        self.layout = _layout(player, stage, device, world)
        self.parameters = trained(module)
        self.optimiser = make_optimiser(self.parameters, player.optimiser)
        self.ema = Ema(module, stage.ema.decay, self.layout) if player.ema else None
        self.scaler = torch.amp.GradScaler(device.type, enabled=stage.precision == "fp16")
        self.rate = 0.0

    def update(
        self, turns: Sequence[Turn], others: Sequence["Learner"], part: float, step: int
    ) -> dict[str, Tensor]:
        """One optimiser step on the mean loss of the turns; `part` in [0, 1] of the stage is done before it.

        The other players' parameters get no gradients meanwhile. Returns `loss`, its parts, `grad_norm` and
        `lr`.
        """
        begins = self.player.begins
        self.rate = self.player.optimiser.lr * rate_factor(self.stage.schedule, step - begins, part)
        set_rate(self.optimiser, self.rate)
        sums: dict[str, Tensor] = {}
        for other in others:
            other.learn(False)
        for turn in turns:
            with self._precision():
                losses = self.player.loss(turn)
            self.scaler.scale(losses.total / len(turns)).backward()  # type: ignore[no-untyped-call]
            for name, value in {"loss": losses.total, **losses.parts}.items():
                sums[name] = sums.get(name, 0) + value.detach().float() / len(turns)
        for other in others:
            other.learn(True)
        self._share(sums)
        limit = self.stage.clip_norm or float("inf")
        self.scaler.unscale_(self.optimiser)
        norm = self.layout.whole(torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), limit))
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.player.module)
        return {
            **sums,
            "grad_norm": self._told(norm.detach().float()),
            "lr": torch.tensor(self.rate, dtype=torch.float64),
        }

    def _share(self, sums: dict[str, Tensor]) -> None:
        """Averages gradients and what is told of losses over all processes."""
        if self.world.size == 1:
            return
        if self.layout.spread:
            # Their gradients were averaged on the way back.
            self.world.mean([*sums.values()])
            return
        for value in self.parameters.values():
            if value.grad is None:
                value.grad = torch.zeros_like(value)
        self.world.mean([value.grad for value in self.parameters.values() if value.grad is not None])
        self.world.mean([*sums.values()])

    def _told(self, norm: Tensor) -> Tensor:
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
        """Inside, the module is in evaluation mode with its running mean in place, whole in each process."""
        module = self.player.module
        swapped = self.ema.swapped(module) if self.ema is not None else nullcontext()
        with swapped, self.layout.opened(), self._precision():
            module.eval()
            try:
                yield
            finally:
                module.train()

    def state(self) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
        """Tensors by file and name, and JSON values: the same whatever the layout, in the first process."""
        name = self.player.name
        moments, numbers = optimiser_state(self.optimiser, self.parameters)
        tensors = {name: dict(self.player.module.state_dict()), f"{name}.optimiser": moments}
        if self.ema is not None:
            tensors[f"{name}.ema"] = self.ema.mean
        tensors = {
            file: {key: self._gathered(value) for key, value in found.items()}
            for file, found in tensors.items()
        }
        values = {"optimiser": numbers, "averaged": self.ema.updates if self.ema else 0}
        return tensors, values | {"scaler": self.scaler.state_dict()}

    def _gathered(self, tensor: Tensor) -> Tensor:
        """All of a tensor, where the one process that writes it has room for all of them."""
        whole = self.layout.whole(tensor)
        if not self.layout.spread:
            return whole
        return whole.cpu() if self.world.first else whole.new_empty(0)

    def finished(self) -> dict[str, dict[str, Tensor]]:
        """What the player makes of its running mean in the end, by file and name; often nothing."""
        if self.player.finish is None:
            return {}
        module = copy.deepcopy(self.player.module).float()
        if self.ema is not None:
            copy_into(module, self.ema.mean)
        self.player.finish(module.eval())
        return {f"{self.player.name}.final": dict(module.state_dict())}

    def restore(self, tensors: dict[str, dict[str, Tensor]], values: dict[str, Any]) -> None:
        """Puts back what `state` gave; CheckpointError when it is of another network."""
        name = self.player.name
        try:
            copy_into(self.player.module, tensors[name], self.layout)
            if self.ema is not None:
                for key, mean in self.ema.mean.items():
                    mean.copy_(self.layout.like(tensors[f"{name}.ema"][key], mean))
                self.ema.updates = int(values["averaged"])
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"The saved weights of {name!r} are of another network ({error}).",
                "Resume with the configuration that the run was started with.",
            ) from error
        moments, numbers = tensors[f"{name}.optimiser"], values["optimiser"]
        restore_optimiser(self.optimiser, self.parameters, moments, numbers, self.layout)
        if values.get("scaler"):
            self.scaler.load_state_dict(values["scaler"])

    def _precision(self) -> torch.autocast:
        dtype = HALVES.get(self.stage.precision)
        return torch.autocast(self.device.type, dtype or torch.bfloat16, enabled=dtype is not None)


def spreads(stage: Stage, world: World) -> bool:
    """Whether networks of a stage are spread over the processes, where they can be."""
    return world.size > 1 and (stage.spread or asked_to_spread())


def _layout(player: Player, stage: Stage, device: torch.device, world: World) -> Layout:
    if not player.networks or not spreads(stage, world):
        return Copies()
    if stage.optimiser.kind != "adamw" or stage.precision == "fp16":
        raise ConfigError(
            f"Networks spread over processes do not learn by {stage.optimiser.kind} in {stage.precision}.",
            'Set optimiser.kind = "adamw", and precision = "bf16" or "fp32".',
        )
    from kandinsky.training.fsdp import Spread  # its parts of torch take long to import

    return Spread(player.networks, world, device)
