"""Optimisers and learning-rate schedules; an optimiser's state as plain tensors and numbers by parameter
name.
"""

import importlib
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kandinsky.core.errors import CheckpointError, ConfigError
from kandinsky.training.config import OptimiserConfig, ScheduleConfig
from kandinsky.training.distributed import Copies, Layout

Group = dict[str, Any]
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


def _adamw(groups: list[Group], config: OptimiserConfig, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=fused)


def _adafactor(groups: list[Group], config: OptimiserConfig, _: bool) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(groups, lr=config.lr)


def _adamw8bit(groups: list[Group], config: OptimiserConfig, _: bool) -> torch.optim.Optimizer:
    made: torch.optim.Optimizer = _installed("bitsandbytes", config.kind).optim.AdamW8bit(
        groups, lr=config.lr, betas=config.betas, eps=config.eps
    )
    return made


def _prodigy(groups: list[Group], config: OptimiserConfig, _: bool) -> torch.optim.Optimizer:
    made: torch.optim.Optimizer = _installed("prodigyopt", config.kind).Prodigy(
        groups, lr=config.lr, betas=config.betas, eps=config.eps
    )
    return made


def _installed(package: str, kind: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"optimiser.kind is {kind!r}, but {package} cannot be imported ({error}).",
            f"pip install {package}, or choose adamw or adafactor.",
        ) from error


OPTIMISERS: dict[str, Callable[[list[Group], OptimiserConfig, bool], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adafactor": _adafactor,
    "adamw8bit": _adamw8bit,
    "prodigy": _prodigy,
}


def make_optimiser(parameters: dict[str, nn.Parameter], config: OptimiserConfig) -> torch.optim.Optimizer:
    """The optimiser of these parameters, in one fused kernel where the device has it."""
    devices = {value.device.type for value in parameters.values()}
    fused = devices <= {"cpu", "cuda"}
    return OPTIMISERS[config.kind](parameter_groups(parameters, config.weight_decay), config, fused)


def rate_factor(config: ScheduleConfig, step: int, progress: float) -> float:
    """What the learning rate is multiplied by at `step` (counted from 0), `progress` in [0, 1] of the whole
    run.

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

    Numbers that an optimiser keeps for a whole group (Prodigy its rate) are named `/<group>/<entry>`.
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
    layout: Layout | None = None,
) -> None:
    """Puts back what `optimiser_state` gave; CheckpointError when it belongs to other parameters."""
    layout = layout or Copies()
    saved: dict[str, dict[str, Any]] = {}
    for key, value in _both(tensors, numbers):
        if key.startswith(GROUP):
            place, _, entry = key.removeprefix(GROUP).partition("/")
            optimiser.param_groups[int(place)][entry] = value
            continue
        name, _, entry = key.rpartition("/")
        saved.setdefault(name, {})[entry] = value
    if unknown := sorted(saved.keys() - parameters.keys()):
        raise CheckpointError(
            f"The saved optimiser knows {len(unknown)} parameters not trained now, such as {unknown[0]}.",
            "Resume with the configuration that the run was started with.",
        )
    for name, state in saved.items():
        parameter = parameters[name]
        for entry, value in state.items():
            if isinstance(value, Tensor) and value.ndim:
                state[entry] = _like(layout.like(value, parameter), parameter)
            elif isinstance(value, Tensor):
                state[entry] = value.to(parameter.device) if parameter.is_cuda else value.clone()
        optimiser.state[parameter] = state


def _like(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """A moment in memory as its weight lies (channels last included), or fused kernels would refuse it."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _both(tensors: dict[str, Tensor], numbers: dict[str, float]) -> Iterable[tuple[str, Any]]:
    yield from tensors.items()
    yield from numbers.items()
