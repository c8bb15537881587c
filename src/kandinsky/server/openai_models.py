"""What clients of the OpenAI Images API send and get, and our own fields beside theirs."""

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from kandinsky.core.requests import LARGEST_SEED
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.server.openapi import answers, numbers
from kandinsky.server.settings import LONGEST_SIDE, SHORTEST_SIDE
from kandinsky.server.uploads import LONGEST_ADDRESS

MOST_STEPS = 1000
SIZE = rf"^(auto|{numbers(SHORTEST_SIDE, LONGEST_SIDE)}x{numbers(SHORTEST_SIDE, LONGEST_SIDE)})$"
"""WIDTHxHEIGHT in pixels."""
Margins: TypeAlias = (
    dict[Literal["left", "top", "right", "bottom"], Annotated[int, Field(ge=0, le=LONGEST_SIDE)]]
    | Annotated[str, Field(max_length=200)]
)
"""Pixels that an image gains at its sides, also as `left=64,top=32`."""
Scale: TypeAlias = Annotated[float, Field(ge=0, le=1000, allow_inf_nan=False)]


def known_sampler(name: str) -> str:
    """The name of a sampler; ValueError for another."""
    if name not in SAMPLERS:
        raise ValueError(f"{name[:40]!r} is no sampler; there are {', '.join(SAMPLERS)}")
    return name


class Asked(BaseModel):
    """The fields that generations, edits and variations share."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = None
    n: int = Field(1, ge=1, le=10)
    size: str = Field("auto", pattern=SIZE)
    quality: Literal["low", "medium", "high", "xhigh", "max", "standard", "hd", "auto"] = "auto"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    output_compression: int = Field(100, ge=0, le=100)
    response_format: Literal["b64_json", "url"] = "b64_json"
    background: Literal["opaque", "auto"] = "auto"
    moderation: Literal["low", "auto"] = "auto"
    style: None = None
    partial_images: int = Field(0, ge=0, le=3)
    stream: bool = False
    user: str | None = Field(None, max_length=512)
    safety_identifier: str | None = Field(None, max_length=512)
    seed: int | None = Field(None, ge=0, le=LARGEST_SEED - 16)
    negative_prompt: str | None = Field(None, max_length=32_000)
    steps: int | None = Field(None, ge=1, le=MOST_STEPS)
    guidance_scale: Scale | None = None
    sampler: Annotated[str, AfterValidator(known_sampler), Field(json_schema_extra={"enum": [*SAMPLERS]})] | None = None
    prompt_weights: bool | None = None
    prior_steps: int | None = Field(None, ge=1, le=MOST_STEPS)
    prior_guidance_scale: Scale | None = None
    lora: dict[str, Annotated[float, Field(ge=-4, le=4, allow_inf_nan=False)]] | None = Field(None, max_length=16)

    @model_validator(mode="after")
    def _streamed(self) -> "Asked":
        if self.partial_images and not self.stream:
            raise PydanticCustomError("partial_images", "partial_images are sent in a stream")
        return self


class AskedPrompt(Asked):
    """A generation or an edit: a prompt too."""

    prompt: str = Field(min_length=1, max_length=32_000)


class AskedEdit(AskedPrompt):
    """An edit."""

    input_fidelity: Literal["high", "low"] | None = None
    strength: float | None = Field(None, gt=0, le=1, allow_inf_nan=False)
    outpaint: Margins | None = None
    paste_back: bool | None = None
    mask_blur: int | None = Field(None, ge=0, le=512)


class Datum(BaseModel):
    """An image: in base64 or as an address, and what repeats it."""

    b64_json: str | None = None
    url: str | None = None
    seed: int
    id: str


class Tokens(BaseModel):
    """Tokens by kind, of which there are none here."""

    text_tokens: int = 0
    image_tokens: int = 0


class Usage(BaseModel):
    """Tokens, of which there are none here; clients expect the fields."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_tokens_details: Tokens = Tokens()


class Images(BaseModel):
    """Images that were drawn."""

    created: int
    data: list[Datum]
    size: str
    quality: str
    background: str
    output_format: str
    usage: Usage


class Model(BaseModel):
    """The model of a server."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "kandinsky"


class Models(BaseModel):
    """The models of a server."""

    object: Literal["list"] = "list"
    data: list[Model]


DRAWN = answers(Images, "text/event-stream", description="The images, or a stream of events where one was asked for.")
NAMED_IMAGE = {
    "oneOf": [
        {"type": "object", "required": [name], "properties": {name: said}, "additionalProperties": False}
        for name, said in (
            ("image_url", {"type": "string", "maxLength": LONGEST_ADDRESS, "format": "image-url"}),
            ("file_id", {"type": "string", "pattern": "^file-[0-9a-f]{32}$"}),
        )
    ]
}
NAMED = {"type": "array", "items": NAMED_IMAGE, "minItems": 1, "maxItems": 1}
MASK = {"anyOf": [NAMED_IMAGE, {"type": "null"}]}
