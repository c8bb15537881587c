"""The pipelines by their familiar names: one table of parameters over the implementations, and the automatic ones."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from kandinsky.compat.calls import signed
from kandinsky.compat.diffusers.callbacks import LATENTS
from kandinsky.compat.diffusers.combined import CombinedPipeline, combined
from kandinsky.compat.diffusers.decoder import DecoderPipeline, TextDecoderPipeline
from kandinsky.compat.diffusers.decoder_t5 import EMBEDS, OneTextPipeline
from kandinsky.compat.diffusers.files import Loading, loading_errors
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline
from kandinsky.compat.diffusers.prior import PriorPipeline
from kandinsky.compat.diffusers.surface import lacking
from kandinsky.core.errors import RequestError

_NONE = "callback callback_on_step_end generator latents negative_prompt prior_callback_on_step_end"
DEFAULTS: Mapping[str, object] = {
    **dict.fromkeys(_NONE.split()),
    "callback_on_step_end_tensor_inputs": LATENTS,
    "callback_steps": 1,
    "guidance_scale": 4.0,
    "height": 512,
    "num_images_per_prompt": 1,
    "num_inference_steps": 100,
    "output_type": "pil",
    "prior_callback_on_step_end_tensor_inputs": LATENTS,
    "prior_guidance_scale": 4.0,
    "prior_num_inference_steps": 25,
    "return_dict": True,
    "strength": 0.3,
    "width": 512,
}
"""What a parameter is unless its pipeline's own row says otherwise; all others are required."""
OF_PRIORS: Mapping[str, object] = {"num_inference_steps": 25, "output_type": "pt"}
OF_ONE_TEXT: Mapping[str, object] = {
    **dict.fromkeys(("prompt", "image", *EMBEDS)),
    "num_inference_steps": 25,
    "guidance_scale": 3.0,
    "height": 1024,
    "width": 1024,
}
GROUPS: Mapping[str, str] = {
    "SIZE": "height width num_inference_steps guidance_scale",
    "EACH": "num_images_per_prompt generator latents",
    "ASK": "prompt negative_prompt num_inference_steps guidance_scale num_images_per_prompt",
    "OUT": "output_type return_dict",
    "STEP_END": "callback_on_step_end callback_on_step_end_tensor_inputs",
    "STEP_ENDS": "prior_callback_on_step_end prior_callback_on_step_end_tensor_inputs STEP_END",
    "CALLBACK": "output_type callback callback_steps return_dict",
    "STATES": "prompt_embeds negative_prompt_embeds attention_mask negative_attention_mask",
    "HALVES": "height width prior_guidance_scale prior_num_inference_steps generator latents",
    "PRIOR": "num_images_per_prompt num_inference_steps generator latents guidance_scale OUT",
    "BOTH": "image_embeds negative_image_embeds",
}
"""Parameters that follow each other in several rows."""
OF_EMBEDDINGS = "Images of the embeddings (B, D), num_images_per_prompt each, of exactly width x height."
OF_PROMPTS = "Images of the prompts, num_images_per_prompt each, of exactly width x height."
CHANGED = (
    "Images that keep of `image`, one for all prompts or one for each, the less the higher `strength` in (0, 1] is."
)
REPAINTED = (
    "Images in which `image` is repainted where `mask_image` is white (1), each one for all prompts or one for each; a "
    "tensor as the image is in -1..1."
)
CONTROLLED = "Images under `hint`, a tensor (B, 3, H, W) in 0..1 or an image, one for all embeddings or for each."
EMBEDDED = (
    "Embeddings of the prompts, and of the negative prompts or of no image: `image_embeds` and "
    "`negative_image_embeds`, (B x num_images_per_prompt, D) each."
)
FROM_IMAGE = (
    f"{EMBEDDED} They keep something of `image` (images, normalised pixels (B, 3, S, S) or embeddings (B, D)), the "
    "less the higher `strength` in (0, 1] is. Unlike in diffusers it is noised in the space that the prior works in."
)


class Row(NamedTuple):
    """A pipeline: what it is made of, its parameters in their order, what it gives, and defaults of its own."""

    base: type[DiffusionPipeline]
    names: str
    does: str
    own: Mapping[str, object] = {}


TEXT, IMAGE, ONE, WHOLE = TextDecoderPipeline, DecoderPipeline, OneTextPipeline, CombinedPipeline
_ROWS: Mapping[str, Row] = {
    "KandinskyPriorPipeline": Row(PriorPipeline, "prompt negative_prompt PRIOR", EMBEDDED, OF_PRIORS),
    "KandinskyV22PriorPipeline": Row(PriorPipeline, "prompt negative_prompt PRIOR STEP_END", EMBEDDED, OF_PRIORS),
    "KandinskyV22PriorEmb2EmbPipeline": Row(
        PriorPipeline,
        "prompt image strength negative_prompt num_images_per_prompt num_inference_steps generator guidance_scale OUT",
        FROM_IMAGE,
        OF_PRIORS,
    ),
    "KandinskyV22Pipeline": Row(IMAGE, "BOTH SIZE EACH OUT STEP_END **kwargs", OF_EMBEDDINGS),
    "KandinskyV22Img2ImgPipeline": Row(
        IMAGE,
        "image_embeds image negative_image_embeds SIZE strength num_images_per_prompt generator OUT STEP_END **kwargs",
        CHANGED,
    ),
    "KandinskyV22InpaintPipeline": Row(
        IMAGE, "image_embeds image mask_image negative_image_embeds SIZE EACH OUT STEP_END **kwargs", REPAINTED
    ),
    "KandinskyV22ControlnetPipeline": Row(IMAGE, "BOTH hint SIZE EACH CALLBACK", CONTROLLED),
    "KandinskyV22ControlnetImg2ImgPipeline": Row(
        IMAGE,
        "image_embeds image negative_image_embeds hint SIZE strength num_images_per_prompt generator CALLBACK",
        f"{CHANGED} They are under `hint`, a tensor (B, 3, H, W) in 0..1 or an image.",
    ),
    "KandinskyPipeline": Row(TEXT, "prompt BOTH negative_prompt SIZE EACH CALLBACK", OF_EMBEDDINGS),
    "KandinskyImg2ImgPipeline": Row(
        TEXT,
        "prompt image BOTH negative_prompt height width num_inference_steps strength guidance_scale "
        "num_images_per_prompt generator CALLBACK",
        CHANGED,
        {"guidance_scale": 7.0},
    ),
    "KandinskyInpaintPipeline": Row(TEXT, "prompt image mask_image BOTH negative_prompt SIZE EACH CALLBACK", REPAINTED),
    "Kandinsky3Pipeline": Row(
        ONE,
        "prompt num_inference_steps guidance_scale negative_prompt num_images_per_prompt height width generator STATES "
        "OUT latents STEP_END **kwargs",
        OF_PROMPTS,
        OF_ONE_TEXT,
    ),
    "Kandinsky3Img2ImgPipeline": Row(
        ONE,
        "prompt image strength num_inference_steps guidance_scale negative_prompt num_images_per_prompt generator "
        "STATES OUT STEP_END **kwargs",
        f"{CHANGED} They have its size.",
        OF_ONE_TEXT,
    ),
    "KandinskyV22CombinedPipeline": Row(WHOLE, "ASK HALVES CALLBACK STEP_ENDS", OF_PROMPTS),
    "KandinskyV22Img2ImgCombinedPipeline": Row(
        WHOLE,
        "prompt image negative_prompt num_inference_steps guidance_scale strength num_images_per_prompt HALVES "
        "CALLBACK STEP_ENDS",
        CHANGED,
    ),
    "KandinskyV22InpaintCombinedPipeline": Row(
        WHOLE,
        "prompt image mask_image negative_prompt num_inference_steps guidance_scale num_images_per_prompt HALVES OUT "
        "STEP_ENDS **kwargs",
        REPAINTED,
    ),
    "KandinskyCombinedPipeline": Row(WHOLE, "ASK HALVES CALLBACK", OF_PROMPTS),
    "KandinskyImg2ImgCombinedPipeline": Row(
        WHOLE,
        "prompt image negative_prompt num_inference_steps guidance_scale num_images_per_prompt strength HALVES "
        "CALLBACK",
        CHANGED,
    ),
    "KandinskyInpaintCombinedPipeline": Row(
        WHOLE,
        "prompt image mask_image negative_prompt num_inference_steps guidance_scale num_images_per_prompt HALVES "
        "CALLBACK",
        REPAINTED,
    ),
}


def _names(groups: str) -> str:
    """Names with each group replaced by its own."""
    return " ".join(_names(GROUPS[name]) if name in GROUPS else name for name in groups.split())


def _made(name: str, row: Row) -> type[DiffusionPipeline]:
    """The class of a row; a combined one is made of those of its halves."""
    halves = combined(PIPELINES[name.replace("Combined", "")], PIPELINES[_prior_of(name)]) if row.base is WHOLE else {}
    call = signed(lambda pipe, given: pipe._call(given), _names(row.names), {**DEFAULTS, **row.own}, row.does)
    extra = ["masked_image", "mask_image"] if row.base is IMAGE and "mask_image" in row.names else []
    seen = {"_callback_tensor_inputs": [*row.base._callback_tensor_inputs, *extra]}
    return type(name, (row.base,), {"__doc__": row.does, "__module__": __name__, "__call__": call, **seen, **halves})


def _prior_of(name: str) -> str:
    return "KandinskyV22PriorPipeline" if "V22" in name else "KandinskyPriorPipeline"


PIPELINES: dict[str, type[DiffusionPipeline]] = {}
"""Every pipeline class by its name."""
for _name, _row in _ROWS.items():
    PIPELINES[_name] = globals()[_name] = _made(_name, _row)


def __getattr__(name: str) -> Any:
    # The classes themselves are in the module; this tells type checkers of them.
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class _Automatic(type):
    """Of classes that are not made: what diffusers' have besides is refused by name."""

    def __getattr__(cls, name: str) -> Any:
        raise lacking("automatic pipelines", cls, name)


class AutoPipeline(metaclass=_Automatic):
    """A task; the checkpoint says which class does it."""

    TASK: ClassVar[str] = ""

    def __init__(self, *_: object, **__: object) -> None:
        raise RequestError(f"{type(self).__name__} is not made by its name.", "Use its from_pretrained or from_pipe.")

    @classmethod
    def from_pretrained(cls, pretrained_model_or_path: str | Path, **kwargs: Any) -> Any:
        """The whole pipeline for this task, prior included; options as `DiffusionPipeline.from_pretrained` takes.

        Raises CheckpointError for a checkpoint that is not there, RequestError for one that has no such task.
        """
        with loading_errors():
            kind = cls._kind(Loading.of(kwargs).model(pretrained_model_or_path, ()).kind, whole=True)
        return kind.from_pretrained(pretrained_model_or_path, **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: object) -> Any:
        """A pipeline for this task on the components of another, whole when the other is."""
        kind = cls._kind(type(pipeline).__name__, whole="prior_prior" in pipeline.components)
        return kind.from_pipe(pipeline, **kwargs)

    @classmethod
    def _kind(cls, name: str, whole: bool) -> type[DiffusionPipeline]:
        """The class that does the task in the generation of the class `name`, whole or behind a prior."""
        match = re.fullmatch(r"Kandinsky(V22|3|)(?:Img2Img|Inpaint|)(?:Combined|)Pipeline", name)
        for middle in ("Combined", "") if whole else ("",):
            if match and (found := PIPELINES.get(f"Kandinsky{match[1]}{cls.TASK}{middle}Pipeline")):
                return found
        raise RequestError(
            f"{cls.__name__} has no pipeline for a {name or 'model without a name'}.",
            "Load it with the class of that name, or give the decoder.",
        )


_TASKS = {
    "AutoPipelineForText2Image": "",
    "AutoPipelineForImage2Image": "Img2Img",
    "AutoPipelineForInpainting": "Inpaint",
}
AUTOMATIC: Mapping[str, Any] = {
    name: _Automatic(name, (AutoPipeline,), {"TASK": middle, "__module__": __name__}) for name, middle in _TASKS.items()
}
globals().update(AUTOMATIC)
