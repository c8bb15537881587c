"""The pipelines by their familiar names: a table of parameters and defaults over one implementation.

Each class says which task of which generation its name stands for; what it does is written once, in
`decoders`, `prior` and `combined`.
"""

from typing import Any, ClassVar

from kandinsky.compat.calls import signed
from kandinsky.compat.diffusers.callbacks import LATENTS
from kandinsky.compat.diffusers.combined import PRIOR_COMPONENTS, CombinedPipeline
from kandinsky.compat.diffusers.decoder import DecoderPipeline, TextDecoderPipeline
from kandinsky.compat.diffusers.decoder_t5 import EMBEDS, OneTextPipeline
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline, made_of
from kandinsky.compat.diffusers.prior import PriorPipeline

DEFAULTS: dict[str, object] = {
    "callback": None,
    "callback_on_step_end": None,
    "callback_on_step_end_tensor_inputs": LATENTS,
    "callback_steps": 1,
    "generator": None,
    "guidance_scale": 4.0,
    "height": 512,
    "latents": None,
    "negative_prompt": None,
    "num_images_per_prompt": 1,
    "num_inference_steps": 100,
    "output_type": "pil",
    "prior_callback_on_step_end": None,
    "prior_callback_on_step_end_tensor_inputs": LATENTS,
    "prior_guidance_scale": 4.0,
    "prior_num_inference_steps": 25,
    "return_dict": True,
    "strength": 0.3,
    "width": 512,
}
"""What a parameter is unless its pipeline's own row says otherwise; all others are required."""
ONE_TEXT_DEFAULTS = {
    **DEFAULTS,
    **dict.fromkeys(("prompt", "image", *EMBEDS)),
    "num_inference_steps": 25,
    "guidance_scale": 3.0,
    "height": 1024,
    "width": 1024,
}
PRIOR_DEFAULTS = {**DEFAULTS, "num_inference_steps": 25, "output_type": "pt"}

SETTINGS = "height width num_inference_steps guidance_scale"
ON_STEP_END = "callback_on_step_end callback_on_step_end_tensor_inputs"
CALLBACK = "output_type callback callback_steps return_dict"
STATES = "prompt_embeds negative_prompt_embeds attention_mask negative_attention_mask"
HALVES = "height width prior_guidance_scale prior_num_inference_steps generator latents"
ON_STEP_ENDS = f"prior_callback_on_step_end prior_callback_on_step_end_tensor_inputs {ON_STEP_END}"

OF_EMBEDDINGS = "Images of the embeddings (B, D), num_images_per_prompt each, of exactly width x height."
OF_PROMPTS = "Images of the prompts, num_images_per_prompt each, of exactly width x height."
CHANGED = (
    "Images that keep something of `image`, one for all prompts or one for each, the less the higher "
    "`strength` in (0, 1] is."
)
REPAINTED = (
    "Images in which `image` is repainted where `mask_image` is white (1), each one for all prompts or one "
    "for each; a tensor as the image is in -1..1."
)
CONTROLLED = "Images under `hint`, a tensor (B, 3, H, W) in 0..1 or an image, one for all embeddings or for each."
EMBEDDED = (
    "Embeddings of the prompts, and of the negative prompts or of no image: `image_embeds` and "
    "`negative_image_embeds`, (B x num_images_per_prompt, D) each."
)


def called(names: str, does: str, defaults: Any = DEFAULTS, **own: Any) -> Any:
    """The `__call__` of a pipeline."""
    return signed(lambda pipe, given: pipe._call(given), names, {**defaults, **own}, does)


class KandinskyPriorPipeline(PriorPipeline):
    """The prior of Kandinsky 2.1."""

    __call__ = called(
        "prompt negative_prompt num_images_per_prompt num_inference_steps generator latents guidance_scale "
        "output_type return_dict",
        EMBEDDED,
        PRIOR_DEFAULTS,
    )


class KandinskyV22PriorPipeline(PriorPipeline):
    """The prior of Kandinsky 2.2."""

    __call__ = called(
        "prompt negative_prompt num_images_per_prompt num_inference_steps generator latents guidance_scale "
        f"output_type return_dict {ON_STEP_END}",
        EMBEDDED,
        PRIOR_DEFAULTS,
    )


class KandinskyV22PriorEmb2EmbPipeline(PriorPipeline):
    """The prior of Kandinsky 2.2, from an image's embedding instead of noise.

    The image is one or several images, normalised pixels (B, 3, S, S), or embeddings (B, D). Unlike in
    diffusers the embedding is noised in the space that the prior works in, and a step at least is taken.
    """

    __call__ = called(
        "prompt image strength negative_prompt num_images_per_prompt num_inference_steps generator "
        "guidance_scale output_type return_dict",
        f"{EMBEDDED} They keep something of `image`, the less the higher `strength` in (0, 1] is.",
        PRIOR_DEFAULTS,
    )


class KandinskyV22Pipeline(DecoderPipeline):
    """Text-to-image with Kandinsky 2.2, from the prior's embeddings."""

    __call__ = called(
        f"image_embeds negative_image_embeds {SETTINGS} num_images_per_prompt generator latents output_type "
        f"return_dict {ON_STEP_END} **kwargs",
        OF_EMBEDDINGS,
    )


class KandinskyV22Img2ImgPipeline(DecoderPipeline):
    """Image-to-image with Kandinsky 2.2."""

    __call__ = called(
        f"image_embeds image negative_image_embeds {SETTINGS} strength num_images_per_prompt generator "
        f"output_type return_dict {ON_STEP_END} **kwargs",
        CHANGED,
    )


class KandinskyV22InpaintPipeline(DecoderPipeline):
    """Inpainting with Kandinsky 2.2."""

    _callback_tensor_inputs: ClassVar[list[str]] = [
        *DecoderPipeline._callback_tensor_inputs,
        "masked_image",
        "mask_image",
    ]
    __call__ = called(
        f"image_embeds image mask_image negative_image_embeds {SETTINGS} num_images_per_prompt generator "
        f"latents output_type return_dict {ON_STEP_END} **kwargs",
        REPAINTED,
    )


class KandinskyV22ControlnetPipeline(DecoderPipeline):
    """Text-to-image with Kandinsky 2.2 under a hint image, such as a depth map."""

    __call__ = called(
        f"image_embeds negative_image_embeds hint {SETTINGS} num_images_per_prompt generator latents {CALLBACK}",
        CONTROLLED,
    )


class KandinskyV22ControlnetImg2ImgPipeline(DecoderPipeline):
    """Image-to-image with Kandinsky 2.2 under a hint image."""

    __call__ = called(
        f"image_embeds image negative_image_embeds hint {SETTINGS} strength num_images_per_prompt generator {CALLBACK}",
        f"{CHANGED} They are under `hint`, a tensor (B, 3, H, W) in 0..1 or an image.",
    )


class KandinskyPipeline(TextDecoderPipeline):
    """Text-to-image with Kandinsky 2.1, from the prior's embeddings."""

    __call__ = called(
        f"prompt image_embeds negative_image_embeds negative_prompt {SETTINGS} num_images_per_prompt "
        f"generator latents {CALLBACK}",
        OF_EMBEDDINGS,
    )


class KandinskyImg2ImgPipeline(TextDecoderPipeline):
    """Image-to-image with Kandinsky 2.1."""

    __call__ = called(
        "prompt image image_embeds negative_image_embeds negative_prompt height width num_inference_steps "
        f"strength guidance_scale num_images_per_prompt generator {CALLBACK}",
        CHANGED,
        guidance_scale=7.0,
    )


class KandinskyInpaintPipeline(TextDecoderPipeline):
    """Inpainting with Kandinsky 2.1."""

    __call__ = called(
        f"prompt image mask_image image_embeds negative_image_embeds negative_prompt {SETTINGS} "
        f"num_images_per_prompt generator latents {CALLBACK}",
        REPAINTED,
    )


class Kandinsky3Pipeline(OneTextPipeline):
    """Text-to-image with Kandinsky 3."""

    __call__ = called(
        "prompt num_inference_steps guidance_scale negative_prompt num_images_per_prompt height width "
        f"generator {STATES} output_type return_dict latents {ON_STEP_END} **kwargs",
        OF_PROMPTS,
        ONE_TEXT_DEFAULTS,
    )


class Kandinsky3Img2ImgPipeline(OneTextPipeline):
    """Image-to-image with Kandinsky 3, of the image's own size."""

    __call__ = called(
        "prompt image strength num_inference_steps guidance_scale negative_prompt num_images_per_prompt "
        f"generator {STATES} output_type return_dict {ON_STEP_END} **kwargs",
        CHANGED,
        ONE_TEXT_DEFAULTS,
    )


class V22CombinedPipeline(CombinedPipeline):
    """The components of Kandinsky 2.2 as one pipeline."""

    COMPONENTS = (*DecoderPipeline.COMPONENTS, *PRIOR_COMPONENTS)
    PRIOR = KandinskyV22PriorPipeline
    __init__ = made_of(COMPONENTS, CombinedPipeline)


class KandinskyV22CombinedPipeline(V22CombinedPipeline):
    """Text-to-image with Kandinsky 2.2, its prior included."""

    DECODER = KandinskyV22Pipeline
    __call__ = called(
        "prompt negative_prompt num_inference_steps guidance_scale num_images_per_prompt "
        f"{HALVES} {CALLBACK} {ON_STEP_ENDS}",
        OF_PROMPTS,
    )


class KandinskyV22Img2ImgCombinedPipeline(V22CombinedPipeline):
    """Image-to-image with Kandinsky 2.2, its prior included."""

    DECODER = KandinskyV22Img2ImgPipeline
    __call__ = called(
        "prompt image negative_prompt num_inference_steps guidance_scale strength num_images_per_prompt "
        f"{HALVES} {CALLBACK} {ON_STEP_ENDS}",
        CHANGED,
    )


class KandinskyV22InpaintCombinedPipeline(V22CombinedPipeline):
    """Inpainting with Kandinsky 2.2, its prior included."""

    DECODER = KandinskyV22InpaintPipeline
    __call__ = called(
        "prompt image mask_image negative_prompt num_inference_steps guidance_scale num_images_per_prompt "
        f"{HALVES} output_type return_dict {ON_STEP_ENDS} **kwargs",
        REPAINTED,
    )


class TextCombinedPipeline(CombinedPipeline):
    """The components of Kandinsky 2.1 as one pipeline."""

    COMPONENTS = (*TextDecoderPipeline.COMPONENTS, *PRIOR_COMPONENTS)
    PRIOR = KandinskyPriorPipeline
    __init__ = made_of(COMPONENTS, CombinedPipeline)


class KandinskyCombinedPipeline(TextCombinedPipeline):
    """Text-to-image with Kandinsky 2.1, its prior included."""

    DECODER = KandinskyPipeline
    __call__ = called(
        f"prompt negative_prompt num_inference_steps guidance_scale num_images_per_prompt {HALVES} {CALLBACK}",
        OF_PROMPTS,
    )


class KandinskyImg2ImgCombinedPipeline(TextCombinedPipeline):
    """Image-to-image with Kandinsky 2.1, its prior included."""

    DECODER = KandinskyImg2ImgPipeline
    __call__ = called(
        "prompt image negative_prompt num_inference_steps guidance_scale num_images_per_prompt strength "
        f"{HALVES} {CALLBACK}",
        CHANGED,
    )


class KandinskyInpaintCombinedPipeline(TextCombinedPipeline):
    """Inpainting with Kandinsky 2.1, its prior included."""

    DECODER = KandinskyInpaintPipeline
    __call__ = called(
        "prompt image mask_image negative_prompt num_inference_steps guidance_scale num_images_per_prompt "
        f"{HALVES} {CALLBACK}",
        REPAINTED,
    )


PIPELINES: dict[str, type[DiffusionPipeline]] = {
    kind.__name__: kind
    for kind in (
        Kandinsky3Img2ImgPipeline,
        Kandinsky3Pipeline,
        KandinskyCombinedPipeline,
        KandinskyImg2ImgCombinedPipeline,
        KandinskyImg2ImgPipeline,
        KandinskyInpaintCombinedPipeline,
        KandinskyInpaintPipeline,
        KandinskyPipeline,
        KandinskyPriorPipeline,
        KandinskyV22CombinedPipeline,
        KandinskyV22ControlnetImg2ImgPipeline,
        KandinskyV22ControlnetPipeline,
        KandinskyV22Img2ImgCombinedPipeline,
        KandinskyV22Img2ImgPipeline,
        KandinskyV22InpaintCombinedPipeline,
        KandinskyV22InpaintPipeline,
        KandinskyV22Pipeline,
        KandinskyV22PriorEmb2EmbPipeline,
        KandinskyV22PriorPipeline,
    )
}
"""Every pipeline class by its name."""
