"""What clients of AUTOMATIC1111's API send: fields that act here, and those whose values must ask for nothing."""

import re
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from kandinsky.core.requests import LARGEST_SEED
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.server.openai_models import MOST_STEPS, Scale, known_sampler
from kandinsky.server.settings import LONGEST_SIDE, SHORTEST_SIDE

MOST = 16
"""Images of one request."""
USUAL_BLURS = (0, 4)
"""The `mask_blur` of clients that send every field, here and there; without a mask it asks for nothing."""
LORA = re.compile(r"<lora:([^:<>]{1,100})(?::(-?\d{1,3}(?:\.\d{1,6})?))?>")
"""An adapter in a prompt, and its scale."""
NOT_HERE = re.compile(r"<(?:lora|lyco|hypernet):[^>]*>|\b(?:AND|BREAK)\b")
"""What their prompts have besides weights and `LORA`."""


def _sampler(name: str) -> str:
    return known_sampler(name) if name else name


def _text(text: str) -> str:
    if found := NOT_HERE.search(text):
        raise ValueError(f"Kandinsky has no equivalent for {found[0][:60]!r} here")
    return text


def _prompt(text: str) -> str:
    _text(LORA.sub("", text))
    return text


Text: TypeAlias = Annotated[str, Field(max_length=32_000)]
Side: TypeAlias = Annotated[int, Field(ge=SHORTEST_SIDE, le=LONGEST_SIDE)]
Images: TypeAlias = Annotated[int, Field(ge=1, le=MOST)]
Sampler: TypeAlias = Annotated[str, AfterValidator(_sampler), Field(json_schema_extra={"enum": [*SAMPLERS, ""]})]
Encoded: TypeAlias = Annotated[str, Field(json_schema_extra={"format": "image-base64"})]
SETTINGS: dict[str, Any] = {
    "type": "object",
    "properties": {"sd_model_checkpoint": {"type": "string", "format": "model-here"}},
    "additionalProperties": False,
}
"""Settings that may be given: what they are already."""
Settings: TypeAlias = Annotated[dict[str, Any], WithJsonSchema(SETTINGS)]
IDLE: dict[str, tuple[object, ...]] = {
    "send_images": (True,),
    "save_images": (True, False),
    "do_not_save_samples": (True, False),
    "do_not_save_grid": (True, False),
    "restore_faces": (False,),
    "tiling": (False,),
    "enable_hr": (False,),
    "subseed": (-1,),
    "subseed_strength": (0,),
    "seed_resize_from_h": (-1, 0),
    "seed_resize_from_w": (-1, 0),
    "styles": ([],),
    "scheduler": ("", "Automatic", "automatic"),
    "s_min_uncond": (0,),
    "s_churn": (0,),
    "s_tmin": (0,),
    "s_noise": (1,),
    "refiner_checkpoint": ("",),
    "refiner_switch_at": (0,),
    "script_name": ("",),
    "script_args": ([],),
    "alwayson_scripts": ({},),
    "override_settings_restore_afterwards": (True, False),
    "disable_extra_networks": (False,),
    "comments": ({},),
    "force_task_id": (),
    "infotext": (),
    "firstpass_image": (),
    "inpaint_full_res": (False, 0),
    "inpainting_fill": (1,),
    "resize_mode": (0,),
    "image_cfg_scale": (0, 1.5),
    "include_init_images": (False,),
    "latent_mask": (),
}
"""Fields of theirs that Kandinsky has nothing for, with the values that ask for nothing, as null does."""


def _idle(values: tuple[object, ...]) -> Any:
    """The type of a field that takes these values of JSON alone: a 0 is no false here."""

    def check(value: object) -> object:
        # Of JSON's numbers 1.0 is 1.
        if not any(one == value and isinstance(one, bool) == isinstance(value, bool) for one in values):
            raise ValueError("Kandinsky has no equivalent")
        return value

    return Annotated[Any, AfterValidator(check), WithJsonSchema({"enum": [*values, None]})]


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prompt: Annotated[Text, AfterValidator(_prompt)]
    negative_prompt: Annotated[Text, AfterValidator(_text)] | None = None
    steps: int | None = Field(None, ge=1, le=MOST_STEPS)
    cfg_scale: Scale | None = None
    width: Side | None = None
    height: Side | None = None
    seed: int | None = Field(None, ge=-1, le=LARGEST_SEED - MOST**2)
    eta: float | None = Field(None, ge=0, le=1)
    sampler_name: Sampler | None = None
    sampler_index: Sampler | None = None
    batch_size: Images = 1
    n_iter: Images = 1
    override_settings: Settings | None = None


class TextFields(_Fields):
    """What txt2img takes; its denoising_strength is that of `enable_hr`, and there is none."""

    denoising_strength: float | None = Field(None, ge=0, le=1)
    mask_blur: _idle((0,)) = None  # type: ignore[valid-type]
    inpainting_mask_invert: _idle((0, 1)) = None  # type: ignore[valid-type]


class ImageFields(_Fields):
    """What img2img takes; what the mask leaves alone is the image's own, to the pixel."""

    init_images: list[Encoded] = Field(min_length=1, max_length=1)
    mask: Encoded | None = None
    denoising_strength: float | None = Field(None, gt=0, le=1)
    mask_blur: int = Field(0, ge=0, le=512)
    inpainting_mask_invert: int = Field(0, ge=0, le=1)


_IDLE: dict[str, Any] = {name: (_idle(values), None) for name, values in IDLE.items()}
AskedText: type[TextFields] = create_model("AskedText", __base__=TextFields, **_IDLE)
AskedImage: type[ImageFields] = create_model("AskedImage", __base__=ImageFields, **_IDLE)


class AskedInfo(BaseModel):
    """What png-info takes."""

    model_config = ConfigDict(extra="forbid")

    image: Encoded
