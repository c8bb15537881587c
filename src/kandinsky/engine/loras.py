"""Loads adapter files (LoRA) into the networks of a loaded model: all parts of a file or none."""

import math
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from kandinsky.adapters import lora
from kandinsky.adapters.lora import Adapter
from kandinsky.checkpoints.components import PRIOR_PREFIX
from kandinsky.checkpoints.files import OWN_ADAPTERS
from kandinsky.checkpoints.hub import resolve_files
from kandinsky.checkpoints.lora import (
    DIFFUSERS_FILE,
    from_tensors,
    modules_of,
    read_lora,
    takes_adapters,
    tensor_module,
)
from kandinsky.core.errors import CheckpointError, RequestError, nearest, similar
from kandinsky.core.files import is_there, local
from kandinsky.engine.sampling_defaults import SAMPLING, Sampling


class AdapterHost(Protocol):
    """Owner of networks that take adapters: a model, or a pipeline's components."""

    @property
    def modules(self) -> Mapping[str, nn.Module]: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...


def adaptable(model: AdapterHost) -> dict[str, nn.Module]:
    """The networks that adapters can be put on, by the names of their components in files.

    Those are the names in a folder that holds prior and decoder together: `unet`, `prior_prior`,
    `prior_text_encoder`, and `text_encoder` for one that the decoder reads itself.
    """
    found = {name: module for name, module in model.modules.items() if takes_adapters(module)}
    if "prior" not in found:
        return found
    names = {
        "prior": f"{PRIOR_PREFIX}prior",
        "text_encoder": f"{PRIOR_PREFIX}text_encoder",
        "decoder_text_encoder": "text_encoder",
    }
    return {names.get(name, name): module for name, module in found.items()}


def check_changeable(model: AdapterHost) -> None:
    """Raises RequestError for a model whose weights another backend holds."""
    if not model.modules:
        raise RequestError("Weights that another backend holds take no adapters and words.", "Leave backend out.")


def located(source: str | Path, folder: Path | None = None) -> Path:
    """Finds an adapter: a path, a name in `folder`'s own adapters, or a Hub id.

    Nothing is read yet but what a Hub id brings; raises HubError where it brings nothing, and CheckpointError for a
    bare name that is none of the model's own.
    """
    path = local(source)
    if is_there(path):
        return path
    own = None if folder is None else folder / OWN_ADAPTERS / f"{source}.safetensors"
    if own is not None and is_there(own) and own.is_file():
        return own
    if not isinstance(source, Path) and source.count("/") == 1:
        return resolve_files(source, [DIFFUSERS_FILE])
    names = [] if folder is None else [one.stem for one in (folder / OWN_ADAPTERS).glob("*.safetensors")]
    if names and len(path.parts) == 1 and not path.suffix:
        raise CheckpointError(
            f"The model has no adapter {str(source)!r}, and there is no such file.",
            f"{similar(str(source), names)} Its own: {', '.join(sorted(names))}.".strip(),
        )
    return path


def named(source: str | Path, name: str | None, acting: Mapping[str, str | None]) -> tuple[str, str | Path]:
    """The name of an adapter, and where it is: `source`, or what stands behind the name in `NAME=SOURCE`.

    Without any it is the file's name, where that is taken its folder's, else that with a number; `acting` are the
    sources of those that act, by name. One that acts already has the name that it has.
    """
    given, equals, place = str(source).partition("=")
    if name is None and equals and given and place and "/" not in given and not Path(source).exists():
        return given, place
    for known, other in acting.items():
        if name is None and other == str(source):
            return known, source
    path = Path(source).expanduser()
    label, folder = label_of(path), path.absolute().parent.name
    usual = chain((label, folder), (f"{label}-{number}" for number in count(2)))
    return name or next(free for free in usual if free and free not in acting), source


def check_scale(scale: float) -> None:
    """Raises RequestError for a scale of an adapter that is not finite."""
    if not math.isfinite(scale):
        raise RequestError(f"The scale of an adapter is {scale}.", "Use a number such as 0.8.")


def load_lora(
    model: AdapterHost, source: str | Path, scale: float = 1.0, name: str | None = None, folder: Path | None = None
) -> tuple[str, Sampling | None]:
    """Puts the adapters of a file, a folder or a Hub id on the model's networks; see `located` for `folder`.

    Returns their name, which is the file's when none is given, and how images are to be drawn with them, None where the
    file does not say. Raises CheckpointError (HubError) for a file that cannot be read or was made for another model,
    and RequestError for a name that is loaded; then nothing is changed.
    """
    check_changeable(model)
    check_scale(scale)
    path = located(source, folder)
    label = name or label_of(Path(source))
    networks = adaptable(model)
    if label in applied(model):
        raise RequestError(f"An adapter {label!r} is loaded already.", "Take it off first, or give another name.")
    found = read_lora(path)
    said = found.notes.get(SAMPLING)
    sampling = None if said is None else Sampling.from_json(said, path)
    adapters, done = assigned(networks, found.tensors, found.settings, path), list[nn.Module]()
    try:
        for component, adapter in adapters.items():
            lora.attach(networks[component], adapter.to(model.device, model.dtype), label, scale)
            done.append(networks[component])
    except RequestError as error:
        for network in done:
            lora.detach(network, label)
        raise CheckpointError(f"{path}: {error.message}", error.hint) from error
    return label, sampling


def applied(model: AdapterHost) -> dict[str, float]:
    """The names and scales of all adapters of the model."""
    return {n: s for network in adaptable(model).values() for n, s in lora.applied_to(network).items()}


def set_scale(model: AdapterHost, name: str, scale: float) -> None:
    """Changes how strongly an adapter acts, 0 being not at all; RequestError for a name not loaded."""
    check_scale(scale)
    for network in _networks_with(model, name).values():
        lora.set_scale(network, name, scale)


def unload_lora(model: AdapterHost, name: str | None = None) -> None:
    """Takes one adapter off, or all; the model is then bit for bit what it was. RequestError as above."""
    for network in (_networks_with(model, name) if name is not None else adaptable(model)).values():
        lora.detach(network, name)


def merge(model: AdapterHost) -> None:
    """Adds all loaded adapters to the weights; see `lora.merge`."""
    for network in adaptable(model).values():
        lora.merge(network)


def unmerge(model: AdapterHost) -> None:
    """Undoes `merge` to the last bit."""
    for network in adaptable(model).values():
        lora.unmerge(network)


def _networks_with(model: AdapterHost, name: str) -> dict[str, nn.Module]:
    found = {part: network for part, network in adaptable(model).items() if name in lora.applied_to(network)}
    if not found:
        known = applied(model)
        raise RequestError(f"No adapter {name!r} is loaded.", nearest(name, known) if known else "None is.")
    return found


def label_of(path: Path) -> str:
    """The default name of an adapter from that path."""
    if path.name == DIFFUSERS_FILE:
        return path.parent.name
    return path.stem if path.suffix == ".safetensors" else path.name


def assigned(
    networks: Mapping[str, nn.Module], tensors: Mapping[str, Tensor], settings: Mapping[str, Any], path: Path
) -> dict[str, Adapter]:
    """The adapters in a file, by the component each is for; CheckpointError where they fit none or several."""
    groups: dict[str, dict[str, Tensor]] = {}
    prefixes = sorted({*networks, "unet", "prior", "prior_prior", "text_encoder", "prior_text_encoder"})
    for name, tensor in tensors.items():
        prefix = next((p for p in prefixes if name.startswith(f"{p}.")), "")
        groups.setdefault(prefix, {})[name.removeprefix(f"{prefix}.") if prefix else name] = tensor
    if not groups:
        raise CheckpointError(f"{path} holds no adapter.", "It is empty; download it again.")
    adapters = {}
    for prefix, group in groups.items():
        component = _component_for(networks, prefix, group, path)
        nested = {k.removeprefix(f"{prefix}."): v for k, v in settings.items() if k.startswith(f"{prefix}.")}
        adapters[component] = from_tensors(networks[component], group, nested or settings)
    return adapters


def _component_for(networks: Mapping[str, nn.Module], prefix: str, group: Mapping[str, Tensor], path: Path) -> str:
    """The component of an adapter: the one it names where its tensors fit, else the only one where they fit."""
    modules = {tensor_module(name) for name in group}
    fitting = [part for part, network in networks.items() if modules <= modules_of(network).keys()]
    for named in (prefix, PRIOR_PREFIX + prefix):
        if named in fitting:
            return named
    if len(fitting) != 1:
        known = "several networks" if fitting else "no network"
        raise CheckpointError(
            f"The adapter in {path} changes {min(modules)}, which {known} of this model has.",
            f"It was made for another model. Adapted here can be: {', '.join(networks)}.",
        )
    return fitting[0]
