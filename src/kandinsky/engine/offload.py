"""Memory policies: which weights of a model are in memory during which part of a request."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, cast, get_args

from torch import Tensor, nn

from kandinsky.conditioning.conditions import Batch, Conditioner, Encoded, SingleEncoder
from kandinsky.core.errors import RequestError, nearest
from kandinsky.core.requests import Request
from kandinsky.core.rng import Rng
from kandinsky.engine.acceleration.networks import HostedNetwork, accelerated_model, laid_out, unet_of
from kandinsky.engine.devices import free_memory
from kandinsky.engine.weight_residency import WeightResidency, bytes_of, names_in
from kandinsky.generations.model import Codec, Model, Prepared
from kandinsky.networks.prepared import Fixed, PreparedNetwork, UNet

Policy = Literal["none", "parts", "layers"]
POLICIES: tuple[str, ...] = get_args(Policy)
"""All weights in memory; each network only while its part of a request runs; that, and text encoders of
which one layer at a time is there."""
AUTO = "auto"
ROOM = 0.7
"""The share of free memory that weights may take: activations and the process need the rest."""


def check_policy(offload: str | None) -> str:
    """The name of a policy, "none" for None; RequestError for an unknown one."""
    asked = "none" if offload is None else offload
    if asked not in (*POLICIES, AUTO):
        raise RequestError(f"There is no memory policy {offload!r}.", nearest(str(asked), (*POLICIES, AUTO)))
    return asked


def choose_policy(model: Model, free: int | None = None) -> Policy:
    """The fastest policy whose weights fit into `free` bytes of the model's device, by default what is free.

    Where the system does not tell, all weights are brought.
    """
    free = free_memory(model.device) if free is None else free
    if free is None:
        return "none"
    sizes = [bytes_of(module) for module in model.modules.values()]
    if sum(sizes) <= ROOM * free:
        return "none"
    denoising = (model.network, codec_of(model))
    others = sum(bytes_of(module) for module in model.modules.values() if module not in denoising)
    return "parts" if max([others, *sizes]) <= ROOM * free else "layers"


def codec_of(model: Model) -> nn.Module:
    """The network that a model decodes with."""
    network: nn.Module = model.codec.network  # type: ignore[attr-defined]
    return network


def offloaded(model: Model, residence: WeightResidency, policy: Policy) -> Model:
    """The same model, whose parts load their weights when they run, or with "none" run accelerated.

    It shares the networks of `model`, all of which must be in the residence.
    """
    if policy == "none":
        return accelerated_model(model)
    unet, codec = unet_of(model), codec_of(model)
    others = [module for module in model.modules.values() if module not in (unet, codec)]
    return replace(
        model,
        conditioner=_conditioner(model, residence, others, policy == "layers"),
        network=_offloaded_network(unet, residence),
        codec=OffloadedCodec(model.codec, codec, residence),
    )


def _conditioner(model: Model, residence: WeightResidency, networks: list[nn.Module], streamed: bool) -> Conditioner:
    own = model.conditioner
    if not isinstance(own, SingleEncoder):
        return OffloadedConditioner(own, networks, residence)
    return own.with_encoder(OffloadedEncoder(cast(nn.Module, own.encoder), residence, streamed), model.device)


@dataclass(frozen=True, eq=False)
class OffloadedEncoder:
    """A text encoder that is in memory while it reads: whole, or `streamed`, one layer after the other."""

    network: nn.Module
    residence: WeightResidency
    streamed: bool = False

    @property
    def config(self) -> object:
        return self.network.config

    def __call__(self, ids: Tensor, mask: Tensor) -> Tensor:
        if not self.streamed:
            self.residence.only(self.network)
        states: Tensor = self.network(ids, mask, self._only if self.streamed else None)
        return states

    def _only(self, modules: Sequence[nn.Module]) -> None:
        self.residence.only(self.network, names_in(self.network, modules))


@dataclass(frozen=True, eq=False)
class OffloadedConditioner:
    """A conditioner whose networks are in memory while it encodes."""

    own: Conditioner
    networks: Sequence[nn.Module]
    residence: WeightResidency

    def check(self, request: Request, guided: bool) -> None:
        self.own.check(request, guided)

    def encode(self, batches: Sequence[Batch], prior_steps: int, guided: bool) -> Encoded:
        with closing(self.own.encode(batches, prior_steps, guided)) as events:
            while True:
                self._bring()
                try:
                    event = next(events)
                except StopIteration as stop:
                    return stop.value  # type: ignore[no-any-return]
                # Another request may run while this one waits.
                yield event

    def _bring(self) -> None:
        if all(not tensor.is_meta for network in self.networks for tensor in network.parameters()):
            return
        self.residence.only()
        for network in self.networks:
            self.residence.bring(network)


def _offloaded_network(network: UNet, residence: WeightResidency) -> HostedNetwork:
    """A denoising network whose weights are in memory while it runs, those that `prepare` reads only then."""
    module = cast(nn.Module, network)
    once = names_in(module, network.request_modules())
    rest = frozenset(module.state_dict().keys() - once)

    def steps(prepared: PreparedNetwork[Fixed], count: int) -> Prepared:
        return OffloadedSteps(laid_out(prepared), module, residence, rest, prepared.table.times)

    return HostedNetwork(network, steps, partial(residence.only, module, once))


@dataclass(frozen=True, eq=False)
class OffloadedSteps:
    """A prepared network, of whose weights `names` are in memory; all at times other than `times`."""

    own: Prepared
    network: nn.Module
    residence: WeightResidency
    names: frozenset[str]
    times: frozenset[float]

    def step(self, x: Tensor, t: float) -> Tensor:
        self.residence.only(self.network, self.names if float(t) in self.times else None)
        return self.own.step(x, t)


@dataclass(frozen=True, eq=False)
class OffloadedCodec:
    """A codec whose network is in memory while it encodes or decodes."""

    own: Codec
    network: nn.Module
    residence: WeightResidency
    fitted: list[bool] = field(default_factory=list)

    @property
    def downscale(self) -> int:
        return self.own.downscale

    @property
    def channels(self) -> int:
        return self.own.channels

    def encode(self, images: Tensor, rng: Rng | None = None) -> Tensor:
        self.residence.only(self.network)
        return self.own.encode(images, rng)

    def decode(self, latents: Tensor) -> Tensor:
        self.residence.only(self.network)
        return self.own.decode(latents)

    def preview(self, latents: Tensor) -> Tensor:
        """See `Codec`; the first needs the network, in addition to the one that denoises."""
        if self.fitted:
            return self.own.preview(latents)
        self.residence.bring(self.network)
        shown = self.own.preview(latents)
        self.residence.drop(self.network)
        self.fitted.append(True)
        return shown
