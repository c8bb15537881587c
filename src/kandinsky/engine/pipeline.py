"""A loaded checkpoint, ready for requests."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import torch
from pydantic import JsonValue
from torch import nn

from kandinsky.checkpoints.diffusers_folder import Folder, open_folder
from kandinsky.checkpoints.maps.original_files import INPAINTING
from kandinsky.checkpoints.original import OriginalFolder, open_model
from kandinsky.checkpoints.original_hub import DECODER, HALVES, PRIOR
from kandinsky.conditioning.conditions import Batch
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.events import Events, Finished, Result
from kandinsky.core.prompts import PromptLike
from kandinsky.core.requests import EFFECTIVE_GUIDANCE, Fields, Request, Row
from kandinsky.core.rng import PerImageRng, Rng
from kandinsky.engine import loras
from kandinsky.engine.acceleration.networks import accelerated, accelerated_model, laid_out_model
from kandinsky.engine.acceleration.torch_compile import warming_request
from kandinsky.engine.devices import choose_batch_size, choose_device, choose_dtype
from kandinsky.engine.embedded import EMBEDDED, embedded_folder
from kandinsky.engine.memory_policy import MemoryOptions, apply_memory_policy
from kandinsky.engine.offload import Policy
from kandinsky.engine.sampling_defaults import Sampling
from kandinsky.engine.text_encoders import load_words
from kandinsky.engine.weight_residency import WeightResidency
from kandinsky.generations import Placement, Source, denoiser_parameters, load_model, needs_prior
from kandinsky.generations.model import Model
from kandinsky.tasks.generate import generate
from kandinsky.tasks.resolve import Resolved, resolve

if TYPE_CHECKING:
    from PIL.Image import Image

Progress = Callable[[str, int, int], None]
RngMaker = Callable[[Sequence[int]], Rng]


class Pipeline:
    """A checkpoint on a device.

    `model` is its parts and settings, `running` the same as it runs under the memory policy `offload`, for
    which `residency` brings weights and lets them go; `model_id` is the argument of `load`, and `settings`
    its other arguments that shape pixels; `batch_size` is how many images are denoised together (each comes
    out as it would alone, to rounding; with 1, to the bit).
    """

    def __init__(
        self,
        model: Model,
        model_id: str = "",
        settings: dict[str, JsonValue] | None = None,
        batch_size: int = 1,
        running: Model | None = None,
        offload: Policy = "none",
        residency: WeightResidency | None = None,
    ) -> None:
        self.model = model
        self.model_id = model_id
        self.settings = settings or {}
        self.batch_size = batch_size
        self.running = running or accelerated_model(model)
        self.offload: Policy = offload
        self._residency = residency
        self._lora_sources: dict[str, str] = {}
        self._samplings: dict[str, Sampling] = {}

    @property
    def loras(self) -> dict[str, float]:
        """The names and scales of the adapters (LoRA) that act now."""
        return loras.applied(self.model)

    def load_lora(self, source: str | Path, scale: float = 1.0, name: str | None = None) -> str:
        """Adds an adapter to those that act, from a file, a folder, a Hub id or by name; returns its name.

        Names are those of adapters that lie in the model's own folder under `lora`. Adapters add up; `name`
        is the file's when none is given. One that was distilled to a few steps brings its own defaults of
        requests (steps, guidance_scale, sampler) and times. Raises CheckpointError when it cannot be read or
        was made for another model, RequestError for a name in use; nothing is changed then.
        """
        label, sampling = loras.load_lora(self.model, source, scale, name, self._folder)
        self._lora_sources[label] = str(source)
        if sampling is not None:
            self._samplings[label] = sampling
        self._note_loras()
        return label

    def set_lora_scale(self, name: str, scale: float) -> None:
        """Changes how strongly an adapter acts; with 0 images are bit for bit those without it."""
        loras.set_scale(self.model, name, scale)
        self._note_loras()

    def unload_lora(self, name: str | None = None) -> None:
        """Removes one adapter, or all; RequestError for a name that is not in use."""
        loras.unload_lora(self.model, name)
        self._note_loras()

    def merge_loras(self) -> None:
        """Adds the adapters to the weights, for images as fast as without any; any change undoes it.

        Raises RequestError where weights come from their files, or are quantized.
        """
        quantized = self.settings.get("quantize")
        if self._residency is not None or quantized is not None:
            how = quantized or f"offload {self.offload!r}"
            raise RequestError(f"Adapters cannot be merged into weights with {how}.", "They act without being merged.")
        loras.merge(self.model)

    def unmerge_loras(self) -> None:
        """Takes the adapters out of the weights again, to the last bit; they act as before."""
        loras.unmerge(self.model)

    def load_words(self, source: str | Path) -> list[str]:
        """Teaches the model the words of a file of learned ones (textual inversion); returns them.

        From then on they can stand in any prompt. Raises CheckpointError when it cannot be read or was made
        for another model, RequestError for a word that is known already; nothing is changed then.
        """
        words = load_words(self.model, Path(source).expanduser())
        known = self.settings.get("words", [])
        assert isinstance(known, list)
        self.settings = {**self.settings, "words": [*known, str(source)]}
        return words

    @property
    def _folder(self) -> Path | None:
        """The folder that the model came from, where it came from one."""
        if self.model_id == EMBEDDED:
            return embedded_folder()
        return Path(self.model_id) if self.model_id else None

    def _note_loras(self) -> None:
        """Updates the adapters in `settings`, in the form that `load` takes."""
        self._samplings = {k: v for k, v in self._samplings.items() if k in self.loras}
        acting = {self._lora_sources.get(name, name): scale for name, scale in self.loras.items() if scale}
        self.settings = {key: value for key, value in self.settings.items() if key != "lora"}
        if acting:
            self.settings["lora"] = {**acting}

    def generate(self, prompt: "PromptLike | Sequence[PromptLike]", **fields: Unpack[Fields]) -> Result:
        """Makes the images of one request; see `Request` for the fields, their ranges and errors."""
        for event in self.stream(prompt, **fields):
            if isinstance(event, Finished):
                return event.result
        raise RuntimeError("the stream ended without a result")

    def stream(self, prompt: "PromptLike | Sequence[PromptLike]", **fields: Unpack[Fields]) -> Events:
        """As `generate`, but yields what happens as it happens; the last event is `Finished`.

        The request is checked before this returns. Closing the stream cancels the work and frees its memory.
        """
        return self.run(Request(prompt, **fields))

    def run(self, request: Request, rng: RngMaker | None = None) -> Events:
        """Streams an already built request.

        `rng` makes the noise of a batch from its seeds; without it there is one generator per image.
        """
        return self._events([self.resolve(request)], self.batch_size, rng or self._rng)

    def generate_batch(self, requests: Sequence[Request], batch_size: int | None = None) -> list[Result]:
        """The results of several requests, in their order; see `stream_batch`."""
        found: dict[int, Result] = {}
        for event in self.stream_batch(requests, batch_size):
            if isinstance(event, Finished):
                found[event.index] = event.result
        return [found[index] for index in range(len(found))]

    def stream_batch(self, requests: Sequence[Request], batch_size: int | None = None) -> Events:
        """Runs several requests, which share batches of the networks wherever they can.

        Those can that differ in nothing but prompts, negative prompts, input images, seeds, counts and guidance scales;
        the others run after one another. Each image is what it would be alone, to rounding; with a `batch_size`
        (default: the pipeline's) of 1, to the bit. `Finished` comes for each request when it is done, with its place in
        `requests`. All are checked before this returns; raises RequestError that names the first one that cannot be.
        """
        resolved = []
        for index, request in enumerate(requests):
            try:
                resolved.append(self.resolve(request))
            except RequestError as error:
                where = f"Request {index + 1} of {len(requests)}: "
                raise type(error)(where + error.message, error.hint) from error
        size = self.batch_size if batch_size is None else check_batch_size(batch_size)
        return self._events(resolved, size, self._rng)

    def warm_up(self, **fields: Unpack[Fields]) -> None:
        """Runs one step and discards the image, so that compiling is done before the next request.

        With `compile` the networks are compiled for its width, height and count; `fields` are as in
        `generate`, and the model's defaults count where they are left out.
        """
        for _ in self.run(warming_request(self.model, **fields)):
            pass

    def checked(self, request: Request) -> Request:
        """A request with every default filled in; RequestError where the model cannot do it."""
        return self.resolve(request).request

    def resolve(self, request: Request) -> Resolved:
        """A request as the model with its acting adapters does it; RequestError where it cannot."""
        model = self.model
        if self._samplings:
            scales = self.loras
            for name, sampling in self._samplings.items():
                model = sampling.applied(model) if scales.get(name) else model
        return resolve(model, request)

    def _rng(self, seeds: Sequence[int]) -> Rng:
        return PerImageRng.from_seeds(seeds, self.model.working_dtype)

    def _events(self, requests: Sequence[Resolved], batch_size: int, rng: RngMaker) -> Events:
        def batch_of(rows: Sequence[Row]) -> Batch:
            return Batch(rows, rng([row.seed for row in rows]))

        events = generate(self.running, requests, batch_size, batch_of, self._result)
        return events if self._residency is None else self._residency.in_turns(events)

    def _result(self, resolved: Resolved, images: "list[Image]", batch: int) -> Result:
        request, usual = resolved.request, self.model.guidance
        stored, scale = request.to_json(), request.guidance_scale
        if self.model.guidance_offset:
            stored[EFFECTIVE_GUIDANCE] = [usual(one) for one in scale] if isinstance(scale, tuple) else usual(scale)
        return Result(images, request.seeds, stored, self.model_id, self.settings, batch)


def check_batch_size(size: object) -> int:
    """Returns a valid batch size; RequestError for anything else."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise RequestError(f"batch_size is {size!r}.", "Use a whole number from 1 up.")
    return size


def load(
    model: str | Path | None = None,
    *,
    prior: str | Path | bool | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    variant: str | None = None,
    revision: str | None = None,
    behaviour: str | None = None,
    batch_size: int | None = None,
    lora: Mapping[str, float] | None = None,
    words: Sequence[str] = (),
    offload: str | None = None,
    quantize: str | None = None,
    prompt_cache: str | Path | None = None,
    tiling: bool | Literal["auto"] | None = None,
    compile: bool = False,
    on_progress: Progress | None = None,
) -> Pipeline:
    """Loads a checkpoint: the embedded one, a folder in diffusers layout or of original files, or a Hub id.

    `prior` is the folder or Hub id of the prior; without it the decoder's README says which, and with False the decoder
    is loaded alone and takes embeddings only. `device` and `dtype` default to the best of this machine, see
    `choose_dtype`; images' metadata names the dtype. `variant` picks files such as "fp16" (the only one there is need
    not be named), or "inpainting" and "flash" among original files; `revision` pins a Hub commit. `behaviour` chooses
    where the same weights were published with several ways to run them, such as "release-2022" (the usual one) and
    "head-2023". `lora` maps adapters to their scales, see `Pipeline.load_lora`; `words` are files of learned words.
    `offload` chooses what is in memory: "none" (as without it) all weights, "parts" each network only while it runs,
    "layers" a T5 text encoder one layer at a time as well, "auto" the first of these that fits into free memory.
    `quantize` holds weights in "int8" or "int4" (an extra library). `prompt_cache` is a folder in which texts, once
    read, are kept. `tiling` codes images in strips of rows, for less memory and equal to rounding: True all, False
    none, "auto" (as without it) those of more than 1024 x 1024 pixels. `compile` runs the denoising network through
    torch.compile, now, for the default size; see `Pipeline.warm_up`. `on_progress(file, done, total)` is called for
    downloads. Raises CheckpointError (HubError for downloads) or RequestError, naming what is missing and what to do.
    """
    memory = MemoryOptions(offload, quantize, prompt_cache, tiling, compile)
    on = choose_device(device)
    choose_dtype(dtype, on)
    if batch_size is not None:
        check_batch_size(batch_size)
    model_id = EMBEDDED if model is None else str(model)
    decoder, other = open_sources(model, prior, variant, revision, on_progress)
    if variant is None and isinstance(decoder, Folder) and decoder.only_variant:
        warnings.warn(
            f"{model_id} has weights of the variant {decoder.only_variant!r} alone; they are used.", stacklevel=2
        )
    automatic = dtype in (None, "auto") and on.type == "cpu"
    kind = choose_dtype(dtype, on, denoiser_parameters(decoder, variant) if automatic else 0)
    place = Placement(on, kind, variant, behaviour, memory.on_meta, accelerate=accelerated)
    loaded = laid_out_model(memory.tiled(load_model(decoder, other, place)))
    settings: dict[str, str | bool | None] = {
        "prior": str(prior) if isinstance(prior, Path) else prior,
        "dtype": str(place.dtype).removeprefix("torch."),
        "variant": variant,
        "revision": revision,
        "behaviour": behaviour,
        "quantize": quantize,
        "tiling": tiling,
        "compile": compile or None,
    }
    assert isinstance(loaded.network, nn.Module)
    parameters = sum(parameter.numel() for parameter in loaded.network.parameters())
    size = batch_size or choose_batch_size(place.device, parameters)
    running, policy, residency = apply_memory_policy(loaded, place.weight_sources, memory)
    given: dict[str, JsonValue] = {name: value for name, value in settings.items() if value is not None}
    pipe = Pipeline(loaded, model_id, given, size, running, policy, residency)
    for source, scale in (lora or {}).items():
        pipe.load_lora(source, scale)
    for source in words:
        pipe.load_words(source)
    if compile:
        pipe.warm_up()
    return pipe


def open_sources(
    model: str | Path | None,
    prior: str | Path | bool | None = None,
    variant: str | None = None,
    revision: str | None = None,
    on_progress: Progress | None = None,
    *,
    weights: bool = True,
) -> tuple[Source, Source | None]:
    """The folders of a decoder and of its prior (the same where it holds both, None without); see `load`.

    Without `weights` only the configurations of those in diffusers layout are downloaded.
    """
    folder: Source
    opens = partial(open_model, weights=weights, on_progress=on_progress)
    if model is None or str(model) == EMBEDDED:
        folder = replace(open_folder(embedded_folder()), config_only=not weights)
    else:
        halves = HALVES if prior is None or prior is True else (DECODER,)
        folder = opens(str(model), revision=revision, variant=variant, halves=halves)
    return folder, _prior_of(folder, prior, variant, opens)


def _prior_of(
    folder: Source, prior: str | Path | bool | None, variant: str | None, opens: Callable[..., Source]
) -> Source | None:
    """The folder that holds the prior: the one given, the decoder's own, or the one that its README names.

    None when the decoder is wanted alone (False). Raises CheckpointError when no prior can be found.
    """
    if prior is False:
        return None
    # That variant is one of decoders.
    of_prior = None if variant == INPAINTING else variant
    if isinstance(prior, str | Path):
        return opens(prior, variant=of_prior, halves=(PRIOR,))
    if not needs_prior(folder):
        return folder
    named = None if isinstance(folder, OriginalFolder) else folder.prior_reference()
    if named is None:
        raise CheckpointError(
            f"{folder.root} is a decoder without a prior, and its README names none.",
            "Give prior= a folder or a Hub id, or prior=False to work with embeddings only.",
        )
    return opens(named, variant=of_prior, halves=(PRIOR,))
