"""One of our networks on the weights of a module of diffusers, which stays their owner."""

import warnings
from collections.abc import Mapping
from inspect import signature
from typing import cast

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.components import Component
from kandinsky.checkpoints.weights import meta_init
from kandinsky.core.errors import CheckpointError, RequestError

PROCESSORS = ("AttnProcessor", "AttnProcessor2_0", "AttnAddedKVProcessor", "AttnAddedKVProcessor2_0")
"""diffusers' attention processors that compute what our attention does."""
LIBRARIES = ("diffusers", "torch")


class SharedNetwork:
    """Our network on the weights of `module`, a network of diffusers that pipelines call `name`.

    A tensor that both hold alike is one parameter of both. Tensors that ours holds as one (queries, keys and values; a
    context's keys and values; scales and shifts of a MoVQ's norms) become views of one tensor, so that memory is one
    copy and both see changes in place. Weights that are moved, cast or replaced are shared anew. RequestError for
    a configuration that our network does not have.
    """

    def __init__(self, name: str, module: nn.Module, spec: Component) -> None:
        self.name, self.module = name, module
        config = _config(name, module, spec)
        self.network: nn.Module = meta_init(lambda: spec.build(config)).eval().requires_grad_(False)
        self._keys = spec.keys(config, None)
        self._tensors = {ours: self._keys.foreign_names(ours) or [] for ours in self.network.state_dict()}
        self._merged: dict[str, list[int]] = {}
        self._children: list[tuple[Mapping[str, object], str, nn.Module]] = []
        self._processors: list[tuple[nn.Module, object]] = []
        self._weights: list[tuple[Mapping[str, object], str, Tensor, int, int]] = []
        self._training = module.training
        self.obstacle: str | None = "it was not looked at"
        self.changes = 0

    def is_ready(self) -> bool:
        """Whether ours computes what the module does, on weights that it shares now; where not, a warning says why."""
        if self.obstacle is not None or not self._is_as_seen():
            self._look()
        return self.obstacle is None

    def release(self) -> None:
        """Gives the module's weights memory of their own again."""
        weights = dict(self.module.named_parameters())
        with torch.inference_mode(False):
            for ours, places in self._merged.items():
                for name, place in zip(self._tensors[ours], places, strict=True):
                    if name in weights and weights[name].data_ptr() == place:
                        weights[name].data = weights[name].data.clone()
        self.obstacle = "it was released"
        self._forget()

    def _forget(self) -> None:
        """Holds no weights any more: those that the module lost are free."""
        nothing = torch.empty((), device="meta")
        self._merged, self._weights = {}, []
        for ours in self._tensors:
            self._put(ours, nothing)

    def _is_as_seen(self) -> bool:
        """Whether no module, hook, processor or weight changed since the last look."""
        if self.module.training != self._training:
            return False
        for children, name, child in self._children:
            if children.get(name) is not child or _is_watched(child):
                return False
        if any(owner.processor is not processor for owner, processor in self._processors):
            return False
        return all(
            parameters.get(name) is weight and weight.data_ptr() == place and _version(weight) == version
            for parameters, name, weight, place, version in self._weights
        )

    def _look(self) -> None:
        before, self.obstacle = self.obstacle, self._find_obstacle()
        self.changes += 1
        if self.obstacle is None:
            # Weights that are made in a caller's inference mode could not be trained later.
            with torch.inference_mode(False), torch.no_grad():
                self._share()
            return
        self._forget()
        if self.obstacle != before:
            warnings.warn(
                f"{self.name} runs as diffusers has it, not accelerated: {self.obstacle}.", UserWarning, stacklevel=6
            )

    def _find_obstacle(self) -> str | None:
        """What of the module our network would not do; None for nothing."""
        for name, child in self.module.named_modules():
            kind = type(child)
            if kind.__module__.partition(".")[0] not in LIBRARIES:
                return f"{name} is a {kind.__name__} of {kind.__module__.partition('.')[0]}"
            if name and _is_watched(child):
                return f"{name} has hooks or another forward"
            processor = type(child.__dict__.get("processor"))
            if processor is not type(None) and processor.__name__ not in PROCESSORS:
                return f"{name} has the attention processor {processor.__name__}"
        return self._find_obstacle_of_weights()

    def _find_obstacle_of_weights(self) -> str | None:
        if self.module.training and cast("Mapping[str, object]", self.module.config).get("dropout"):
            return "it is trained, with dropout"
        weights = dict(self.module.named_parameters())
        wanted = {name for names in self._tensors.values() for name in names}
        if weights.keys() != wanted:
            return f"it has other weights, such as {min(weights.keys() ^ wanted)}"
        if len({(weight.dtype, weight.device) for weight in weights.values()}) > 1:
            return "its weights are of several dtypes or on several devices"
        first = next(iter(weights.values()))
        return None if first.is_floating_point() and not first.is_meta else "its weights are away or no plain numbers"

    def _share(self) -> None:
        weights = dict(self.module.named_parameters())
        for ours, names in self._tensors.items():
            if len(names) > 1 and self._merged.get(ours) == [weights[name].data_ptr() for name in names]:
                continue
            made = self._keys.to_native({name: weights[name].detach() for name in names})[ours]
            if len(names) > 1:
                for name, part in self._keys.to_foreign({ours: made}).items():
                    weights[name].data = part
                self._merged[ours] = [weights[name].data_ptr() for name in names]
            self._put(ours, weights[names[0]] if made.shape == weights[names[0]].shape else made)
        self._remember()

    def _put(self, ours: str, tensor: Tensor) -> None:
        owner, _, leaf = ours.rpartition(".")
        shared = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=False)
        self.network.get_submodule(owner)._parameters[leaf] = shared

    def _remember(self) -> None:
        modules, self._training = list(self.module.modules()), self.module.training
        self._children = [(m._modules, name, child) for m in modules for name, child in m._modules.items() if child]
        self._processors = [(m, m.processor) for m in modules if "processor" in m.__dict__]
        self._weights = [
            (m._parameters, name, weight, weight.data_ptr(), _version(weight))
            for m in modules
            for name, weight in m._parameters.items()
            if weight is not None
        ]


def _config(name: str, module: nn.Module, spec: Component) -> object:
    """The configuration of our network; `module` has one by diffusers' names."""
    stated = cast("Mapping[str, object]", module.config)
    known = signature(type(module).__init__).parameters
    json = {key: value for key, value in stated.items() if key in known}
    weights = {key: tuple(weight.shape) for key, weight in module.named_parameters()}
    try:
        return spec.read({"_class_name": spec.class_name, **json, **_widths(weights)})
    except CheckpointError as error:
        raise RequestError(f"{name} cannot be accelerated: {error.message}", error.hint) from error


def _widths(weights: Mapping[str, tuple[int, ...]]) -> dict[str, object]:
    """Widths of embeddings that a U-Net's configuration leaves out."""
    text = weights.get("add_embedding.text_proj.weight")
    return {} if text is None else {"text_embed_dim": text[1]}


def _is_watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__)


def _version(weight: Tensor) -> int:
    return 0 if weight.is_inference() else weight._version
