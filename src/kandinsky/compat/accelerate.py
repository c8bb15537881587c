"""Lets a loaded pipeline of diffusers draw through our networks, on its own weights; diffusers is not imported here."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import Signature, signature
from types import MethodType, TracebackType
from typing import Self, cast

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.components import Component
from kandinsky.checkpoints.maps import networks
from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
from kandinsky.compat.shared_network import SharedNetwork
from kandinsky.core.errors import RequestError
from kandinsky.engine.acceleration.networks import laid_out, recorded
from kandinsky.engine.acceleration.onednn_weights import prepacked
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.prepared import PreparedNetwork
from kandinsky.networks.prior import PriorCondition
from kandinsky.networks.unet2 import UNet2, UNet2Condition
from kandinsky.networks.unet3 import UNet3Condition

HOMES = ("kandinsky", "kandinsky2_2", "kandinsky3")
"""The packages of diffusers.pipelines whose pipelines are ours too."""
PARTS = ("unet", "prior", "prior_prior", "movq")
"""What pipelines call the networks that are accelerated."""
Arguments = Mapping[str, object]


@dataclass(frozen=True)
class StepCall:
    """A call of a denoiser: its input, its time, the tensors of its condition, and what ours makes of them."""

    x: Tensor
    t: object
    tensors: tuple[Tensor, ...]
    condition: Callable[..., object]


def _unet2(network: nn.Module, given: Arguments) -> StepCall | None:
    added = cast("Mapping[str, Tensor]", given["added_cond_kwargs"] or {})
    kind = cast(UNet2, network).config.condition
    names = {"image": ("image_embeds",), "image_hint": ("image_embeds", "hint")}.get(
        kind, ("image_embeds", "text_embeds")
    )
    tensors = [added.get(name) for name in names]
    if kind == "text_image":
        tensors.append(cast("Tensor | None", given["encoder_hidden_states"]))

    def condition(image: Tensor, second: Tensor | None = None, states: Tensor | None = None) -> UNet2Condition:
        return UNet2Condition(image, states, *((None, second) if kind == "image_hint" else (second, None)))

    return _step_call(given, "sample", tensors, condition)


def _unet3(network: nn.Module, given: Arguments) -> StepCall | None:
    states = given["encoder_hidden_states"]
    return _step_call(given, "sample", [states, _mask(states, given["encoder_attention_mask"])], UNet3Condition)


def _prior(network: nn.Module, given: Arguments) -> StepCall | None:
    states = given["encoder_hidden_states"]
    mask = _mask(states, given["attention_mask"])
    if mask is None or not bool(mask[:, 0].all()):
        return None  # a row that sees nothing before it looks ahead
    return _step_call(given, "hidden_states", [states, given["proj_embedding"], mask], PriorCondition)


def _mask(states: object, mask: object) -> Tensor | None:
    if not isinstance(states, Tensor) or isinstance(mask, Tensor):
        return cast("Tensor | None", mask)
    return states.new_ones(states.shape[:2])


def _step_call(
    given: Arguments, name: str, tensors: Sequence[object], condition: Callable[..., object]
) -> StepCall | None:
    """The call with these tensors; None unless there are all of them, with a row for each row of the input."""
    x = given[name]
    told = tuple(tensor for tensor in tensors if isinstance(tensor, Tensor))
    if not isinstance(x, Tensor) or len(told) < len(tensors) or any(len(tensor) != len(x) for tensor in told):
        return None
    return StepCall(x, given["timestep"], told, condition)


@dataclass(frozen=True)
class Kind:
    """A class of networks: its layout, the names of arguments that ours reads, its output's class and field, and for a
    denoiser how its calls are read."""

    spec: Component
    reads: str
    output: str = ""
    field: str = ""
    call: Callable[[nn.Module, Arguments], StepCall | None] | None = None


KINDS = {
    "UNet2DConditionModel": Kind(
        networks.UNET,
        "sample timestep encoder_hidden_states added_cond_kwargs return_dict",
        "UNet2DConditionOutput",
        "sample",
        _unet2,
    ),
    "Kandinsky3UNet": Kind(
        networks.UNET3,
        "sample timestep encoder_hidden_states encoder_attention_mask return_dict",
        "Kandinsky3UNetOutput",
        "sample",
        _unet3,
    ),
    "PriorTransformer": Kind(
        networks.PRIOR,
        "hidden_states timestep proj_embedding encoder_hidden_states attention_mask return_dict",
        "PriorTransformerOutput",
        "predicted_image_embedding",
        _prior,
    ),
    "VQModel": Kind(networks.MOVQ, ""),
}


@dataclass
class Trajectory:
    """What was prepared for the condition `tensors`, from time `t` on to time `end`."""

    tensors: tuple[Tensor, ...]
    changes: int
    t: float
    end: float
    prepared: PreparedNetwork[object]


class Method:
    """A method of a module of diffusers that runs through ours where ours does what it does, and is the module's own
    elsewhere: where gradients are recorded, under autocast and torch.compile, for arguments that ours does not read.

    A copy of the module, pickled ones included, has the module's own method.
    """

    def __init__(self, shared: SharedNetwork, name: str) -> None:
        self.shared, self.name = shared, name
        self.own = MethodType(getattr(type(shared.module), name), shared.module)
        self.__wrapped__ = self.own
        self._signature: Signature = signature(self.own)

    def __reduce__(self) -> tuple[object, ...]:
        return _own_method, (self.shared.module, self.name)

    def __call__(self, *arguments: object, **keywords: object) -> object:
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return self.own(*arguments, **keywords)
        try:
            bound = self._signature.bind(*arguments, **keywords)
        except TypeError:
            return self.own(*arguments, **keywords)
        bound.apply_defaults()
        made = self._made(bound.arguments)
        return self.own(*arguments, **keywords) if made is None else made

    def _made(self, given: Arguments) -> object | None:
        """The method's result through ours; None where the module is to run itself."""
        raise NotImplementedError

    def _is_ready(self, x: Tensor) -> bool:
        hooks = nn.modules.module
        if torch.is_autocast_enabled(x.device.type) or hooks._global_forward_hooks or hooks._global_forward_pre_hooks:
            return False
        return self.shared.is_ready()

    def _output(self, kind: str, **fields: object) -> object:
        """An output of diffusers, by the class that the module's own file uses."""
        made: object = getattr(sys.modules[type(self.shared.module).__module__], kind)(**fields)
        return made


def _own_method(module: nn.Module, name: str) -> MethodType:
    return MethodType(getattr(type(module), name), module)


class Denoise(Method):
    """The forward of a U-Net or a prior: what no step changes is computed once for a condition.

    A new trajectory begins with other numbers in the condition, with changed weights, and at a time that does not
    follow. With the last of the times of `scheduler()` what was prepared is dropped.
    """

    def __init__(self, shared: SharedNetwork, kind: Kind, scheduler: Callable[[], object]) -> None:
        super().__init__(shared, "forward")
        self.kind, self._scheduler = kind, scheduler
        self._trajectory: Trajectory | None = None

    def _made(self, given: Arguments) -> object | None:
        assert self.kind.call is not None
        reads = self.kind.reads.split()
        if any(value is not None and value != {} for name, value in given.items() if name not in reads):
            return None
        call = self.kind.call(self.shared.network, given)
        if call is None or not self._fits(call):
            return None
        if not self._is_ready(call.x):
            self._trajectory = None
            return None
        t = float(torch.as_tensor(call.t).flatten()[0])
        made = self._at(call, t).prepared.step(call.x, t).contiguous()
        return self._output(self.kind.output, **{self.kind.field: made}) if given["return_dict"] else (made,)

    def _fits(self, call: StepCall) -> bool:
        """Whether the input has a size that ours takes, and one time."""
        one_time = not isinstance(call.t, Tensor) or call.t.numel() == 1
        multiple = getattr(self.shared.network.config, "multiple", 1)
        return one_time and all(side % multiple == 0 for side in call.x.shape[2:])

    def _at(self, call: StepCall, t: float) -> Trajectory:
        now = self._trajectory
        if now is None or now.changes != self.shared.changes or t >= now.t or not _same(now.tensors, call.tensors):
            now = self._begun(call, t)
        now.t = t
        self._trajectory = now if t > now.end else None
        return now

    def _begun(self, call: StepCall, t: float) -> Trajectory:
        planned = getattr(self._scheduler(), "timesteps", None)
        known = [] if planned is None else torch.as_tensor(planned).double().tolist()
        times, end = ([time for time in known if time <= t], min(known)) if t in known else ([t], -1.0)
        network = self.shared.network
        prepared: PreparedNetwork[object] = network.prepare(call.condition(*call.tensors), times)  # type: ignore[operator]
        kept = tuple(tensor.clone() for tensor in call.tensors)
        return Trajectory(kept, self.shared.changes, t, end, _fast(prepared, len(times)))


def _fast(prepared: PreparedNetwork[object], steps: int) -> PreparedNetwork[object]:
    """A prepared network as the engine runs it, but for the order of its weights on a GPU, which is the owner's."""
    network = prepacked(prepared.network, steps, prepared.network.request_modules())
    made = replace(prepared, network=network)
    weights = [weight for weight in network.parameters() if weight.ndim == 4]
    innermost = any(not weight.is_contiguous() for weight in weights)
    on_cpu = bool(weights) and weights[0].device.type == "cpu"
    return recorded(laid_out(made) if on_cpu or innermost else made, steps)


def _same(left: Sequence[Tensor], right: Sequence[Tensor]) -> bool:
    return all(
        a.dtype == b.dtype and a.device == b.device and torch.equal(a, b) for a, b in zip(left, right, strict=True)
    )


class Code(Method):
    """`encode` or `decode` of an autoencoder; latents are decoded as they are, not as codes."""

    def _made(self, given: Arguments) -> object | None:
        x = given["x" if self.name == "encode" else "h"]
        codes = self.name == "decode" and (not given["force_not_quantize"] or given["shape"] is not None)
        if not isinstance(x, Tensor) or codes:
            return None
        hook = self.shared.module.__dict__.get("_hf_hook")
        if hook is not None:
            hook.pre_forward(self.shared.module)  # brings weights that were sent away
        if not self._is_ready(x):
            return None
        on_cpu = x.device.type == "cpu"
        codec = AutoencoderCodec(cast(MoVQ, self.shared.network), memory_format=torch.channels_last if on_cpu else None)
        if self.name == "encode":
            latents = codec.encode(x).contiguous()
            return self._output("VQEncoderOutput", latents=latents) if given["return_dict"] else (latents,)
        images, loss = codec.decode(x).contiguous(), x.new_zeros(len(x))
        return (
            self._output("DecoderOutput", sample=images, commit_loss=loss) if given["return_dict"] else (images, loss)
        )


class Acceleration:
    """The acceleration of a pipeline's `parts`, which `undo`, or the end of a `with` block, takes back."""

    def __init__(self, methods: Sequence[Method]) -> None:
        self._methods = list(methods)
        self.parts = tuple(dict.fromkeys(method.shared.name for method in methods))

    def undo(self) -> None:
        """Gives the networks their own methods and weights of their own memory; a second call does nothing.

        Raises RequestError where a method was replaced since; then nothing is changed.
        """
        places = [(method, _place(method)) for method in self._methods]
        for method, place in places:
            module = method.shared.module
            if place == method.name:
                delattr(module, place)
            else:
                setattr(module, place, method.own)
        for shared in {id(method.shared): method.shared for method in self._methods}.values():
            shared.release()
        self._methods = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.undo()


OFFLOADED = "_old_forward"
"""Where accelerate's hooks keep the forward that they wrap."""


def _place(method: Method) -> str:
    """The attribute in which a module holds our method; RequestError where it does no more."""
    own = method.shared.module.__dict__
    for place in (method.name, OFFLOADED):
        if own.get(place) is method:
            return place
    raise RequestError(
        f"{method.shared.name}.{method.name} was replaced after the acceleration.", "Take that back first, then undo."
    )


def _install(method: Method) -> None:
    module, place = method.shared.module, method.name
    if place in module.__dict__:
        place = OFFLOADED  # inside the hooks of accelerate
    setattr(module, place, method)


def accelerate_diffusers(pipe: object) -> Acceleration:
    """Lets the U-Net, prior and MoVQ of a loaded diffusers Kandinsky pipeline (2.1, 2.2, 3) run through our networks.

    They work on the pipeline's own weights. Tensors that both sides hold alike are the same parameters; queries, keys
    and values (in U-Nets also a context's keys and values, in a MoVQ scales and shifts of norms) become views of one
    tensor, so there is one copy in memory, and changes in place act on both sides. After `.to` and where weights are
    replaced they are shared anew with the next call. On a CPU weights are laid out for the steps of a trajectory, as
    `kandinsky.load` does, which takes up to as much memory again until its last step.

    All of diffusers keeps working: the modules, their names, files and hooks stay. A network runs as diffusers has it,
    and a warning names the reason, while its inner modules have hooks, other classes (LoRA layers until they are
    fused and unloaded, quantized layers) or other attention processors (slices, xformers, one's own); without a
    warning where gradients are recorded, under autocast and torch.compile, and for arguments that ours does not read.
    Changes through `.data` between two steps of one trajectory act from the next trajectory on.

    Returns a handle whose `undo()`, or the end of its `with` block, gives the pipeline back bit for bit. Raises
    RequestError for another pipeline, for networks of other sizes or classes, and for those accelerated already.
    """
    home = next((home for home in map(_home, type(pipe).__mro__) if home in HOMES), None)
    if home is None:
        raise RequestError(
            f"{type(pipe).__module__}.{type(pipe).__name__} is no Kandinsky pipeline of diffusers (2.1, 2.2 or 3).",
            "Give one that diffusers has loaded; kandinsky.load needs no acceleration.",
        )
    components: Mapping[str, object] = pipe.components  # type: ignore[attr-defined]
    methods = [
        method
        for name in PARTS
        if components.get(name) is not None
        for method in _methods(pipe, name, components[name])
    ]
    for method in methods:
        _install(method)
    return Acceleration(methods)


def _home(kind: type) -> str:
    words = kind.__module__.split(".")
    return words[2] if words[:2] == ["diffusers", "pipelines"] and len(words) > 2 else ""


def _methods(pipe: object, name: str, module: object) -> list[Method]:
    """Our methods for a component, not yet in place; RequestError where it is no plain network of diffusers."""
    kind = KINDS.get(type(module).__name__)
    if kind is None or not isinstance(module, nn.Module) or not type(module).__module__.startswith("diffusers."):
        raise RequestError(
            f"{name} is a {type(module).__module__}.{type(module).__name__}.",
            f"Accelerate plain networks of diffusers ({', '.join(KINDS)}), then wrap or compile them.",
        )
    own = module.__dict__
    if any(isinstance(value, Method) for value in own.values()):
        raise RequestError(f"{name} is accelerated already.", "Pipelines that share a network share its acceleration.")
    shared = SharedNetwork(name, module, kind.spec)
    if kind.call is None:
        made: list[Method] = [Code(shared, "encode"), Code(shared, "decode")]
    else:
        scheduler = "prior_scheduler" if name == "prior_prior" else "scheduler"
        made = [Denoise(shared, kind, lambda: getattr(pipe, scheduler, None))]
    for method in made:
        if method.name in own and (OFFLOADED not in own or own[OFFLOADED] != method.own):
            raise RequestError(
                f"{name}.{method.name} was replaced.", "Accelerate the pipeline first, then replace methods."
            )
    return made
