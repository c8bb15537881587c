"""A component as the network of a trajectory: called as diffusers calls it, told what callbacks may change."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kandinsky.compat.diffusers.callbacks import Call
from kandinsky.compat.diffusers.models import (
    Kandinsky3UNet,
    PriorTransformer,
    UNet2DConditionModel,
    is_plain,
    part_of,
)
from kandinsky.compat.diffusers.part import Part
from kandinsky.core.errors import RequestError
from kandinsky.core.rng import Noise
from kandinsky.diffusion.constraints import Paste
from kandinsky.diffusion.denoiser import make_denoiser
from kandinsky.diffusion.loop import Project, Step, sample
from kandinsky.diffusion.samplers.base import Sampler
from kandinsky.diffusion.schedule import Schedule
from kandinsky.networks.prior import PriorCondition
from kandinsky.networks.unet2 import UNet2Condition
from kandinsky.networks.unet3 import UNet3Condition

Tensors = Mapping[str, Tensor]
NEGATIVE = "negative_"
SHARED = ("hint", "mask_image", "masked_image")
"""Tensors that both halves of a guided batch share."""
ADDED = ("text_embeds", "image_embeds", "hint")


@dataclass(frozen=True)
class Convention:
    """How diffusers calls a kind of network: `call(component, x, t, told)`, and what `told` means to ours."""

    kind: type[Part]
    condition: Callable[[Tensors], object]
    call: Callable[..., object]


def _region(told: Tensors) -> list[Tensor]:
    return [told[name] for name in ("masked_image", "mask_image") if name in told]


def _condition2(told: Tensors) -> UNet2Condition:
    states, texts = told.get("encoder_hidden_states"), told.get("text_embeds")
    extra = torch.cat(_region(told), dim=1) if _region(told) else None
    return UNet2Condition(told["image_embeds"], states, texts, told.get("hint"), extra)


def _condition3(told: Tensors) -> UNet3Condition:
    hidden, lengths = told["prompt_embeds"], told.get("lengths")
    if lengths is not None and int(lengths.max()) > hidden.shape[1]:
        lengths = None  # a callback gave shorter states
    return UNet3Condition(hidden, told["attention_mask"], lengths, null=told.get("null"))


def _call2(unet: Callable[..., object], x: Tensor, t: Tensor, told: Tensors) -> object:
    added = {name: told[name] for name in ADDED if name in told}
    return unet(
        sample=torch.cat([x, *_region(told)], dim=1),
        timestep=t,
        encoder_hidden_states=told.get("encoder_hidden_states"),
        added_cond_kwargs=added,
        return_dict=False,
    )


def _call3(unet: Callable[..., object], x: Tensor, t: Tensor, told: Tensors) -> object:
    states, mask = told["prompt_embeds"], told["attention_mask"]
    return unet(x, t, encoder_hidden_states=states, encoder_attention_mask=mask, return_dict=False)


def _call_prior(prior: Callable[..., object], x: Tensor, t: Tensor, told: Tensors) -> object:
    texts, states, mask = (told[name] for name in PRIOR_TEXTS)
    return prior(x, timestep=t, proj_embedding=texts, encoder_hidden_states=states, attention_mask=mask)


PRIOR_TEXTS = ("prompt_embeds", "text_encoder_hidden_states", "text_mask")
UNET2 = Convention(UNet2DConditionModel, _condition2, _call2)
UNET3 = Convention(Kandinsky3UNet, _condition3, _call3)
PRIOR = Convention(
    PriorTransformer,
    lambda told: PriorCondition(told["text_encoder_hidden_states"], told["prompt_embeds"], told["text_mask"]),
    _call_prior,
)


class ComponentNetwork:
    """A component, told tensors by the names that diffusers' callbacks use: a row an image, or with guidance the
    unconditional rows in front of the others.

    What was done to the component acts: a component as this package made it, or compiled, runs on what is computed
    once for all steps; one that is wrapped, hooked or has another forward is called with diffusers' keywords.
    `against` are the negative tensors of an unguided call, shown to callbacks, and used once guidance sets in.
    """

    def __init__(
        self, component: object, convention: Convention, told: Tensors, against: Tensors | None = None
    ) -> None:
        self.component: Callable[..., object] = component  # type: ignore[assignment]
        self.part = part_of(component, convention.kind)
        self.convention = convention
        self.times: Sequence[float] = ()
        self.told = dict(told)
        self.against = dict(against or {})
        self._prepared: tuple[int, object] | None = None

    @property
    def native(self) -> nn.Module:
        """Our network inside the component."""
        return self.part.native

    def step(self, x: Tensor, t: float) -> Tensor:
        """The network's output for x (B, ...) at time t; see `Prepared`."""
        if not is_plain(self.component, self.convention.kind):
            time = torch.tensor(t, device=x.device)
            return _first(self.convention.call(self.component, x, time, self._rows(len(x))))
        if self._prepared is None or self._prepared[0] != len(x):
            left = [time for time in self.times if time <= t] or [t]
            condition = self.convention.condition(self._rows(len(x)))
            self._prepared = len(x), self.native.prepare(condition, left)  # type: ignore[operator]
        inputs, fixed = self._prepared[1].inputs(x, t)  # type: ignore[attr-defined]
        return self.component(inputs, prepared=fixed)  # type: ignore[return-value]

    def shown(self, name: str, count: int) -> Tensor | None:
        """What a callback of `count` images is shown under a name; None where there is no such tensor."""
        if not name.startswith(NEGATIVE):
            if name not in self.told:
                raise RequestError(
                    f"This network is not told of {name!r}.",
                    "Load an inpainting checkpoint whose U-Net sees the mask, or ask for latents only.",
                )
            return self.told[name]
        whole = self.told[name.removeprefix(NEGATIVE)]
        return whole[:count] if len(whole) == 2 * count else self.against.get(name)

    def change(self, values: Tensors, count: int) -> None:
        """Puts what a callback of `count` images returned in place of `told`; RequestError for other shapes."""
        for name, value in sorted(values.items(), key=lambda item: item[0].startswith(NEGATIVE)):
            whole = name.removeprefix(NEGATIVE)
            now = self.told[whole]
            wanted = (count,) if whole != name else (count, 2 * count)
            states = whole in ("prompt_embeds", "attention_mask") and now.ndim + value.ndim > 3
            if len(value) not in wanted or (value.shape[1:] != now.shape[1:] and not states):
                raise RequestError(
                    f"A callback returned {name} of shape {tuple(value.shape)}, not {(wanted[-1], *now.shape[1:])}.",
                    "Change numbers, and keep the unconditional rows in front of the others.",
                )
            if whole == name:
                self.told[name] = value.to(now)
            elif len(now) == 2 * count:
                self.told[whole] = torch.cat([value.to(now), now[count:]])
            else:
                self.against[name] = value.to(now)
        self._prepared = None

    def _rows(self, count: int) -> dict[str, Tensor]:
        """What `count` rows are told: of a guided batch only the conditional ones where guidance is off."""
        return {name: self._fit(name, value, count) for name, value in self.told.items()}

    def _fit(self, name: str, value: Tensor, count: int) -> Tensor:
        if len(value) == count:
            return value
        if len(value) == 2 * count:
            return value[count:]
        negative = self.against.get(NEGATIVE + name)
        if name in SHARED:
            negative = value
        if negative is None or 2 * len(value) != count or len(value) % len(negative):
            raise RequestError(
                f"{name} has {len(value)} rows, {count} are needed.",
                "Guidance that sets in later needs the negative tensors in the call, and rows are an image each.",
            )
        return torch.cat([negative.repeat_interleave(len(value) // len(negative), dim=0).to(value), value])


def _first(answer: object) -> Tensor:
    """The tensor in what a network returned: itself, or the first of a tuple or an output."""
    return answer if isinstance(answer, Tensor) else answer[0]  # type: ignore[index]


def run(
    network: ComponentNetwork,
    schedule: Schedule,
    sampler: Sampler,
    x: Tensor,
    rng: Noise,
    call: Call,
    paste: Paste | None = None,
    project: Project | None = None,
) -> Generator[Step, Tensor | None, None]:
    """The trajectory of a call from x, noised to the first of the call's times; its guidance is read at every step."""
    network.times = call.times

    def denoise(x: Tensor, t: float) -> object:
        fixed = schedule.process, schedule.parametrization, call.scale, schedule.constraints, paste
        dtype = next(network.part.parameters()).dtype
        return make_denoiser(lambda x, t: network.step(x.to(dtype), t), *fixed)(x, t)

    return sample(sampler, denoise, x, call.times, rng, project)  # type: ignore[arg-type]
