"""How a model is to run in memory and by which code, and a loaded model made to keep to it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from torch import nn

from kandinsky.checkpoints.lazy_weights import LazyWeights
from kandinsky.codecs.strips import Tiling, check_tiling
from kandinsky.conditioning.one_text import OneTextConditioner
from kandinsky.core.errors import RequestError
from kandinsky.engine.acceleration.torch_compile import compiled
from kandinsky.engine.offload import (
    AUTO,
    Policy,
    check_policy,
    choose_policy,
    codec_of,
    offloaded,
)
from kandinsky.engine.prompt_cache import RememberingEncoder
from kandinsky.engine.quantize import check_quantize, quantize
from kandinsky.engine.residence import Residence
from kandinsky.generations.model import Model


@dataclass(frozen=True)
class Memory:
    """What `load` was told: see there. Raises RequestError for what cannot be, or not together."""

    offload: str | None = None
    quantize: str | None = None
    prompt_cache: str | Path | None = None
    tiling: Tiling | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.tiling is not None:
            check_tiling(self.tiling)
        if self.compile and self.parked:
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

    def tiled(self, model: Model) -> Model:
        """The model, whose pictures are coded as asked for."""
        if self.tiling is None:
            return model
        return replace(model, codec=replace(model.codec, tiling=self.tiling))  # type: ignore[type-var]

    @property
    def parked(self) -> bool:
        """Whether weights are to stay in their files while a model is loaded."""
        return self.offload not in (None, "none") or self.quantize is not None


@dataclass(frozen=True, eq=False)
class Housed:
    """A model that keeps to a memory policy; `residence` holds what of it comes and goes, if anything."""

    model: Model
    policy: Policy = "none"
    quantized: str | None = None
    residence: Residence | None = None

    def release(self) -> None:
        """Lets go of all weights that come when they are needed."""
        if self.residence is not None:
            self.residence.only()

    def check_mergeable(self) -> None:
        """Raises RequestError where weights cannot be changed in place."""
        if self.residence is not None or self.quantized is not None:
            how = self.quantized or f"offload {self.policy!r}"
            raise RequestError(
                f"Adapters cannot be merged into weights with {how}.", "They act beside them as they are."
            )


def house(model: Model, shelf: dict[nn.Module, LazyWeights], memory: Memory) -> Housed:
    """Makes a model just loaded keep to `memory`; its networks were parked if `memory.parked` is true.

    Raises RequestError for a prompt cache where no single encoder reads texts.
    """
    policy = check_policy(memory.offload)
    chosen = choose_policy(model) if policy == AUTO else cast(Policy, policy)
    residence = Residence(shelf, model.device, model.dtype)
    if memory.quantize is not None:
        for network in model.modules.values():
            if network is not codec_of(model):
                quantize(network, memory.quantize, residence)
    if chosen == "none" and memory.parked:
        for network in [codec_of(model)] if memory.quantize else model.modules.values():
            residence.bring(network)
    running = compiled(model) if memory.compile else offloaded(model, residence, chosen)
    if memory.prompt_cache is not None:
        running = _remembering(running, model, shelf, memory)
    return Housed(running, chosen, memory.quantize, None if chosen == "none" else residence)


def _remembering(running: Model, model: Model, shelf: dict[nn.Module, LazyWeights], memory: Memory) -> Model:
    own, plain = running.conditioner, model.conditioner
    if not isinstance(own, OneTextConditioner) or not isinstance(plain, OneTextConditioner):
        raise RequestError(
            f"prompt_cache is given, but texts of {model.name} are not read by one encoder alone.",
            "Leave prompt_cache out.",
        )
    network = cast(nn.Module, plain.reader.network)
    if network not in shelf:
        raise RequestError("prompt_cache needs a text encoder from files.", "Leave prompt_cache out.")
    folder = Path(memory.prompt_cache or ".").expanduser()
    reader = RememberingEncoder(own.reader.network, network, shelf[network], folder, memory.quantize or "")
    return replace(
        running, conditioner=replace(own, reader=replace(own.reader, network=reader, device=model.device))
    )
