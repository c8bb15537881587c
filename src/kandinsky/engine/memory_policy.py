"""Memory and compile options, and how they are applied to a loaded model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from torch import nn

from kandinsky.backends import hosted
from kandinsky.checkpoints.lazy_weights import LazyWeights
from kandinsky.codecs.strips import Tiling, check_tiling
from kandinsky.conditioning.conditions import SingleEncoder
from kandinsky.core.errors import RequestError
from kandinsky.core.files import local
from kandinsky.engine.acceleration.torch_compile import compiled
from kandinsky.engine.offload import AUTO, Policy, check_policy, choose_policy, codec_of, offloaded
from kandinsky.engine.prompt_cache import CachingEncoder
from kandinsky.engine.quantize import check_quantize, quantize
from kandinsky.engine.weight_residency import WeightResidency
from kandinsky.generations.model import Model


@dataclass(frozen=True)
class MemoryOptions:
    """The memory options of `load`. Raises RequestError for an invalid value or combination."""

    offload: str | None = None
    quantize: str | None = None
    prompt_cache: str | Path | None = None
    tiling: Tiling | None = None
    compile: bool = False
    backend: str | None = None

    def __post_init__(self) -> None:
        if self.backend is not None:
            self._check_alone()
        if self.tiling is not None:
            check_tiling(self.tiling)
        if self.compile and self.on_meta:
            raise RequestError(
                "compile needs weights that stay as they are, offload and quantize change them.",
                "Leave compile out, or offload and quantize.",
            )
        check_quantize(self.quantize)
        if check_policy(self.offload) != "none" and self.quantize is not None:
            raise RequestError(
                f"offload {self.offload!r} reads weights from their files, where none are {self.quantize}.",
                "Leave offload out: quantized weights stay in memory, and take little.",
            )

    def _check_alone(self) -> None:
        """Raises RequestError for an option of torch beside another backend."""
        options = {name: getattr(self, name) for name in ("offload", "quantize", "prompt_cache", "tiling", "compile")}
        for name, value in options.items():
            if value and value not in ("none", "auto"):
                raise RequestError(
                    f"{name}={value!r} does not act with backend {self.backend!r}.", f"Leave {name} out, or backend."
                )

    def tiled(self, model: Model) -> Model:
        """The model with its codec's tiling set."""
        if self.tiling is None:
            return model
        return replace(model, codec=replace(model.codec, tiling=self.tiling))  # type: ignore[type-var]

    @property
    def on_meta(self) -> bool:
        """Whether weights are to stay in their files while a model is loaded."""
        return self.offload not in (None, "none") or self.quantize is not None or self.backend is not None


def apply_memory_policy(
    model: Model, source: Mapping[nn.Module, LazyWeights], options: MemoryOptions
) -> tuple[Model, Policy, WeightResidency | None]:
    """A model just loaded as it runs, the policy chosen, and what brings its weights where that is needed.

    `source` is where each network's weights are stored; the networks are on the meta device if `options.on_meta`.
    Raises RequestError for a prompt cache where no single encoder reads texts.
    """
    if options.backend is not None:
        return hosted(options.backend, model, source), "none", None
    asked = check_policy(options.offload)
    policy = choose_policy(model) if asked == AUTO else cast(Policy, asked)
    residency = WeightResidency(source, model.device, model.dtype)
    if options.quantize is not None:
        for network in model.modules.values():
            if network is not codec_of(model):
                quantize(network, options.quantize, residency)
    if policy == "none" and options.on_meta:
        for network in [codec_of(model)] if options.quantize else model.modules.values():
            residency.bring(network)
    running = compiled(model) if options.compile else offloaded(model, residency, policy)
    if options.prompt_cache is not None:
        running = _caching(running, model, source, options)
    return running, policy, None if policy == "none" else residency


def _caching(running: Model, model: Model, source: Mapping[nn.Module, LazyWeights], options: MemoryOptions) -> Model:
    own, plain = running.conditioner, model.conditioner
    if not isinstance(own, SingleEncoder) or not isinstance(plain, SingleEncoder):
        raise RequestError(
            f"prompt_cache is given, but texts of {model.name} are not read by one encoder alone.",
            "Leave prompt_cache out.",
        )
    network = cast(nn.Module, plain.encoder)
    if network not in source:
        raise RequestError("prompt_cache needs a text encoder from files.", "Leave prompt_cache out.")
    folder = local(options.prompt_cache or ".")
    caching = CachingEncoder(own.encoder, network, source[network], folder, options.quantize or "")
    return replace(running, conditioner=own.with_encoder(caching, model.device))
