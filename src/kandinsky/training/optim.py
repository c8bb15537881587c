"""Optimisers and learning-rate schedules; an optimiser's state as plain tensors and numbers by parameter name."""

import importlib
import math
import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kandinsky.core.errors import CheckpointError, ConfigError
from kandinsky.training.config.run import OptimiserConfig, ScheduleConfig
from kandinsky.training.fsdp import sharded_like

Group = dict[str, Any]
OptimiserClass = Callable[..., torch.optim.Optimizer]
GROUP = "/"


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of a module that learn, by name."""
    return {name: value for name, value in module.named_parameters() if value.requires_grad}


def parameter_groups(parameters: dict[str, nn.Parameter], weight_decay: float) -> list[Group]:
    """Two groups: matrices and kernels with decay; norms, biases and other vectors without.

    Decay pulls towards zero, which for a norm's scale is no neutral value.
    """
    decayed = [value for value in parameters.values() if value.ndim >= 2]
    plain = [value for value in parameters.values() if value.ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _installed(package: str, name: str, config: OptimiserConfig) -> OptimiserClass:
    try:
        found: OptimiserClass = operator.attrgetter(name)(importlib.import_module(package))
    except ImportError as error:
        raise ConfigError(
            f"optimiser.kind is {config.kind!r}, but {package} cannot be imported ({error}).",
            f"pip install {package}, or choose adamw or adafactor.",
        ) from error
    return found


def make_optimiser(parameters: dict[str, nn.Parameter], config: OptimiserConfig) -> torch.optim.Optimizer:
    """The optimiser of these parameters, in one fused kernel where the device has it."""
    groups = parameter_groups(parameters, config.weight_decay)
    settings: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    match config.kind:
        case "adamw":
            fused = {value.device.type for value in parameters.values()} <= {"cpu", "cuda"}
            return torch.optim.AdamW(groups, **settings, fused=fused)
        case "adafactor":
            return torch.optim.Adafactor(groups, lr=config.lr)
        case "adamw8bit":
            return _installed("bitsandbytes", "optim.AdamW8bit", config)(groups, **settings)
        case "prodigy":
            return _installed("prodigyopt", "Prodigy", config)(groups, **settings)


def rate_factor(config: ScheduleConfig, step: int, progress: float) -> float:
    """What the learning rate is multiplied by at `step` (counted from 0), `progress` in [0, 1] of the whole run.

    Cosine: Loshchilov & Hutter 2017, arXiv 1608.03983, eq. 5, without restarts.
    """
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    progress = min(1.0, max(0.0, progress))
    falling = {
        "constant": 1.0,
        "linear": config.floor + (1 - config.floor) * (1 - progress),
        "cosine": config.floor + (1 - config.floor) * 0.5 * (1 + math.cos(math.pi * progress)),
    }
    return warm * falling[config.kind]


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Gives every group this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def optimiser_state(
    optimiser: torch.optim.Optimizer, parameters: dict[str, nn.Parameter]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """An optimiser's state as tensors and as numbers, both named `<parameter>/<entry>`.

    Numbers that an optimiser keeps for a whole group (Prodigy its rate) are named `/<group>/<entry>`. Unlike
    torch.distributed.checkpoint.state_dict this takes no step to make a state that is not there yet.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, float] = {
        f"{GROUP}{place}/{entry}": value
        for place, group in enumerate(optimiser.param_groups)
        for entry, value in group.items()
        if type(value) in (int, float)
    }
    for name, parameter in parameters.items():
        for entry, value in optimiser.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"{name}/{entry}"] = value
            else:
                numbers[f"{name}/{entry}"] = value
    return tensors, numbers


def restore_optimiser(
    optimiser: torch.optim.Optimizer,
    parameters: dict[str, nn.Parameter],
    tensors: dict[str, Tensor],
    numbers: dict[str, float],
) -> None:
    """Puts back what `optimiser_state` gave; CheckpointError when it belongs to other parameters."""
    found: dict[str, Tensor | float] = {**tensors, **numbers}
    saved: dict[str, dict[str, Tensor | float]] = {}
    for key, value in found.items():
        name, _, entry = key.rpartition("/")
        if not isinstance(value, Tensor | int | float):
            raise CheckpointError(
                f"The saved optimiser has {key} = {value!r}, which is not a number.", "It is damaged."
            )
        if key.startswith(GROUP):
            optimiser.param_groups[int(name.removeprefix(GROUP))][entry] = value
        elif name in parameters:
            saved.setdefault(name, {})[entry] = _placed(value, parameters[name])
        else:
            raise CheckpointError(
                f"The saved optimiser knows parameters not trained now, such as {name}.",
                "Resume with the configuration that the run was started with.",
            )
    for name, state in saved.items():
        if "step" not in state and any("step" in other for other in saved.values()):
            raise CheckpointError(
                f"The saved optimiser does not know how many steps {name} has made.", "It is damaged."
            )
        optimiser.state[parameters[name]] = state


def _placed(value: Tensor | float, parameter: nn.Parameter) -> Tensor | float:
    """An entry where its parameter is, and in memory as it is: fused kernels refuse other moments."""
    if not isinstance(value, Tensor):
        return value
    if not value.ndim:
        return value.to(parameter.device) if parameter.is_cuda else value.clone()
    value = sharded_like(value, parameter)
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
