"""A loaded checkpoint, ready for requests."""

import logging
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, Unpack

import torch
from pydantic import JsonValue
from torch import nn

from kandinsky.backends import Backend, place_on
from kandinsky.checkpoints.diffusers_folder import Folder, open_folder
from kandinsky.checkpoints.maps.original_files import INPAINTING
from kandinsky.checkpoints.original import OriginalFolder, open_model
from kandinsky.checkpoints.original_hub import DECODER, HALVES, PRIOR
from kandinsky.conditioning.conditions import Batch
from kandinsky.core.errors import CheckpointError, KandinskyWarning, RequestError
from kandinsky.core.events import Events, Finished, Result, Warned
from kandinsky.core.progress import followed
from kandinsky.core.prompts import PromptLike
from kandinsky.core.requests import EFFECTIVE_GUIDANCE, Fields, Request, Row
from kandinsky.core.rng import PerImageRng, Rng
from kandinsky.core.signatures import takes_fields
from kandinsky.core.validation import shown
from kandinsky.engine import loras
from kandinsky.engine.acceleration.networks import accelerated, accelerated_model, laid_out_model
from kandinsky.engine.acceleration.torch_compile import warming_request
from kandinsky.engine.devices import choose_batch_size, choose_device, choose_dtype
from kandinsky.engine.embedded import EMBEDDED, embedded_folder
from kandinsky.engine.load_flags import check_flags
from kandinsky.engine.memory_policy import MemoryOptions, apply_memory_policy
from kandinsky.engine.offload import Policy
from kandinsky.engine.sampling_defaults import Sampling
from kandinsky.engine.text_encoders import load_words
from kandinsky.engine.weight_residency import WeightResidency
from kandinsky.generations import Placement, Source, denoiser_parameters, load_model, needs_prior
from kandinsky.generations.model import Model
from kandinsky.tasks.generate import generate
from kandinsky.tasks.resolve import Resolved, notes, resolve, with_warnings

if TYPE_CHECKING:
    from PIL.Image import Image

Progress = Callable[[str, int, int], None]
RngMaker = Callable[[Sequence[int]], Rng]
Device: TypeAlias = Literal["auto", "cpu", "cuda", "mps"]
Dtype: TypeAlias = Literal["auto", "float32", "float16", "bfloat16"]
Quantization: TypeAlias = Literal["int8", "int4"]
log = logging.getLogger("kandinsky")


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
        self._closed = False
        self._lora_sources: dict[str, str] = {}
        self._samplings: dict[str, Sampling] = {}

    @property
    def loras(self) -> dict[str, float]:
        """The names and scales of the adapters (LoRA) that act now."""
        return loras.applied(self.model)

    def load_lora(self, source: str | Path, scale: float = 1.0, name: str | None = None) -> str:
        """Adds an adapter to those that act, from a file, a folder, a Hub id or by name; returns its name.

        Names are those of adapters that lie in the model's own folder under `lora`. Adapters add up; `name` (or
        `NAME=SOURCE`) is the file's when none is given, its folder's where that is taken. One that was distilled to a
        few steps brings its own defaults of requests and times. Raises CheckpointError when it cannot be read or was
        made for another model, RequestError for a name or source in use; nothing is changed then.
        """
        self._check_open()
        label, place = loras.named(source, name, {one: self._lora_sources.get(one) for one in self.loras})
        label, sampling = loras.load_lora(self.model, place, scale, label, self._folder)
        self._lora_sources[label] = f"{name}={source}" if name else str(source)
        self._samplings |= {} if sampling is None else {label: sampling}
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
        self._check_open()
        words = load_words(self.model, source)
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

    def close(self) -> None:
        """Frees the memory of all weights; nothing is drawn any more. The end of `with load() as pipe:` does it too."""
        self._closed = True
        self.running, self._residency = self.model, None
        for module in self.model.modules.values():
            module.to("meta")
        if self.model.device.type == "cuda":
            torch.cuda.empty_cache()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RequestError("This pipeline is closed.", "Load the model again.")

    def __repr__(self) -> str:
        if self._closed:
            return f"<Pipeline: {self.model.name} ({self.model_id}), closed>"
        acting = f", loras {self.loras}" if self.loras else ""
        return f"<Pipeline: {self.model.name} ({self.model_id}) in {self.model.dtype} on {self.model.device}{acting}>"

    @takes_fields
    def generate(
        self, prompt: "PromptLike | Sequence[PromptLike]", *, progress: bool = False, **fields: Unpack[Fields]
    ) -> Result:
        """Makes the images of one request; `progress` shows a bar, in a terminal or a notebook."""
        return self._finished(self.run(Request(prompt, **fields)), progress)[0]

    @takes_fields
    def stream(self, prompt: "PromptLike | Sequence[PromptLike]", **fields: Unpack[Fields]) -> Events:
        """As `generate`, but yields what happens as it happens; the last event is `Finished`.

        The request is checked before this returns. Closing the stream cancels the work and frees its memory.
        What `generate` warns of comes as an event `Warned`.
        """
        return self.run(Request(prompt, **fields))

    def run(self, request: Request, rng: RngMaker | None = None) -> Events:
        """Streams an already built request.

        `rng` makes the noise of a batch from its seeds; without it there is one generator per image.
        """
        return self._events([self.resolve(request)], self.batch_size, rng or self._rng)

    def generate_batch(
        self, requests: Sequence[Request], batch_size: int | None = None, *, progress: bool = False
    ) -> list[Result]:
        """The results of several requests, in their order; see `stream_batch`."""
        return self._finished(self.stream_batch(requests, batch_size), progress)

    def _finished(self, events: Events, progress: bool) -> list[Result]:
        """The results of a stream in the order of their requests; what it warns of goes to `warnings` too."""
        found: dict[int, Result] = {}
        with closing(followed(events) if progress else events) as stream:
            for event in stream:
                if isinstance(event, Finished):
                    found[event.index] = event.result
                elif isinstance(event, Warned):
                    warnings.warn(event.message, KandinskyWarning, stacklevel=3)
        return [found[index] for index in sorted(found)]

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
                where = f"Request {index + 1} of {len(requests)}: " if len(requests) > 1 else ""
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
        self._check_open()
        return resolve(self._as_sampled() if self._samplings else self.model, request)

    def _as_sampled(self) -> Model:
        """The model with the sampling of its acting adapters."""
        model, scales = self.model, self.loras
        for name, sampling in self._samplings.items():
            model = sampling.applied(model) if scales.get(name) else model
        return model

    def _rng(self, seeds: Sequence[int]) -> Rng:
        return PerImageRng.from_seeds(seeds, self.model.working_dtype)

    def _events(self, requests: Sequence[Resolved], batch_size: int, rng: RngMaker) -> Events:
        def batch_of(rows: Sequence[Row]) -> Batch:
            return Batch(rows, rng([row.seed for row in rows]))

        log.info("drawing: images per request %s, %d at once", [len(one.rows) for one in requests], batch_size)
        events = generate(self.running, requests, batch_size, batch_of, self._result)
        return self._noted(requests, events if self._residency is None else self._residency.in_turns(events))

    def _noted(self, requests: Sequence[Resolved], events: Events) -> Events:
        """The events, notes before them; a result has the warnings that concern its request."""
        warned = [*dict.fromkeys(note for one in requests for note in notes(self.model, one))]
        yield from warned
        with closing(events):
            for event in events:
                if isinstance(event, Warned):
                    warned.append(event)
                if warned and isinstance(event, Finished):
                    yield with_warnings(event, warned, requests[event.index], self.model)
                else:
                    yield event

    def _result(self, resolved: Resolved, images: "list[Image]", batch: int) -> Result:
        request, usual = resolved.request, self.model.guidance
        stored, scale = request.to_json(), request.guidance_scale
        if self.model.guidance_offset:
            stored[EFFECTIVE_GUIDANCE] = [usual(one) for one in scale] if isinstance(scale, tuple) else usual(scale)
        return Result(images, request.seeds, stored, self.model_id, self.settings, batch)


def check_batch_size(size: object) -> int:
    """Returns a valid batch size; RequestError for anything else."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise RequestError(f"batch_size is {shown(size)}.", "Use a whole number from 1 up.")
    return size


def load(
    model: str | Path | None = None,
    *,
    prior: str | Path | bool | None = None,
    device: Device | str | torch.device | None = None,
    dtype: Dtype | str | torch.dtype | None = None,
    variant: str | None = None,
    revision: str | None = None,
    behaviour: str | None = None,
    batch_size: int | None = None,
    lora: Mapping[str, float] | None = None,
    words: Sequence[str] = (),
    offload: Policy | Literal["auto"] | None = None,
    quantize: Quantization | None = None,
    prompt_cache: str | Path | None = None,
    tiling: bool | Literal["auto"] | None = None,
    compile: bool = False,
    backend: Backend | None = None,
    on_progress: Progress | None = None,
) -> Pipeline:
    """Loads a checkpoint: the embedded one, a folder in diffusers layout or of original files, or a Hub id.

    Args:
        model (path or Hub id, default the embedded checkpoint): What to load.
        prior (path, Hub id or False, default what the decoder's README says): The prior; with False the decoder is
            loaded alone and takes embeddings only.
        device ("auto", "cpu", "cuda", "mps" or torch.device, default "auto"): Where it runs; "cuda:1" is a second GPU.
        dtype ("auto", "float32", "float16", "bfloat16" or torch.dtype, default "auto"): What networks compute in; see
            `choose_dtype`. Images' metadata names it.
        variant (text, default none): Weight files such as "fp16" (the only ones there are need not be named), or
            "inpainting" and "flash" among original files.
        revision (text, default "main"): A branch, tag or commit of the Hub.
        behaviour (text, default the usual one): Where the same weights were published with several ways to run them,
            which one, such as "release-2022" or "head-2023".
        batch_size (1 or more, default 1 on a CPU, more on a GPU): How many images are denoised together.
        lora (mapping of sources to scales, default none): Adapters, see `Pipeline.load_lora`.
        words (files, default none): Learned words (textual inversion), see `Pipeline.load_words`.
        offload ("auto", "none", "parts" or "layers", default "none"): What is in memory: "none" all weights, "parts"
            each network only while it runs (model CPU offload), "layers" a T5 text encoder one layer at a time as
            well (sequential CPU offload), "auto" the first of these that fits into free memory.
        quantize ("int8" or "int4", default none): Holds weights in fewer bits; needs an extra library.
        prompt_cache (folder, default none): Where encoded texts are kept for the next time.
        tiling (True, False or "auto", default "auto"): Codes images in strips of rows, for less memory and equal to
            rounding: "auto" those of more than 1024 x 1024 pixels.
        compile (True or False, default False): Runs the denoising network through torch.compile, now, for the default
            size; see `Pipeline.warm_up`.
        backend ("mindspore", default torch): What runs the networks, of models that it has; an environment of its own.
        on_progress (function, default none): Called as `on_progress(file, done, total)` during downloads, in bytes.

    Raises:
        CheckpointError: Files are missing, damaged or of another model (HubError for downloads).
        RequestError: An argument cannot be.
    """
    check_flags(locals())
    begun = time.monotonic()
    memory = MemoryOptions(offload, quantize, prompt_cache, tiling, compile, backend)
    on, dtype = (choose_device(device), dtype) if backend is None else place_on(backend, device, dtype)
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
        **{"variant": variant, "revision": revision, "behaviour": behaviour, "quantize": quantize, "tiling": tiling},
        "compile": compile or None,
        "backend": backend,
    }
    assert isinstance(loaded.network, nn.Module)
    parameters = sum(parameter.numel() for parameter in loaded.network.parameters())
    size = batch_size or choose_batch_size(place.device, parameters)
    running, policy, residency = apply_memory_policy(loaded, place.weight_sources, memory)
    given: dict[str, JsonValue] = {name: value for name, value in settings.items() if value is not None}
    pipe = Pipeline(loaded if backend is None else running, model_id, given, size, running, policy, residency)
    said = (model_id, decoder.root, pipe.model.name, given["dtype"], pipe.model.device, size, policy)
    log.info("loaded %s from %s: %s in %s on %s, %d images at once, offload %s", *said)
    for source, scale in (lora or {}).items():
        pipe.load_lora(source, scale)
    for source in words or ():
        pipe.load_words(source)
    if compile:
        pipe.warm_up()
    log.info("ready after %.1f s", time.monotonic() - begun)
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
