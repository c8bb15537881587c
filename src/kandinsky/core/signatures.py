"""What `help` and editors show of a function that takes the fields of a request, from their one declaration."""

import inspect
from collections.abc import Callable
from typing import Any, ForwardRef, TypeVar, get_args, get_origin

from annotated_types import Interval
from pydantic.fields import FieldInfo

from kandinsky.core.requests import Fields, Request, SamplerName, about
from kandinsky.core.validation import parts_of

F = TypeVar("F", bound=Callable[..., Any])
SAME = "the model's"


def takes_fields(function: F) -> F:
    """Gives a function with `**fields` a parameter for each field of a request, and what is said of each.

    Types are those of `Fields`, words and limits those of `Request`.
    """
    given = inspect.signature(function)
    own = [one for one in given.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    fields = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=_default(name), annotation=annotation)
        for name, annotation in _annotations().items()
    ]
    function.__signature__ = given.replace(parameters=[*own, *fields])  # type: ignore[attr-defined]
    function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\n{field_docs()}"
    return function


def field_docs(request: type[Request] = Request) -> str:
    """Every field of a request with its type, limits, default, and what it does."""
    lines = ["Args:"]
    for name, said in about(request).items():
        field = request.model_fields[name]
        facts = [_kind(name, field), *_limits(field)]
        if name != "prompt":
            facts.append(f"default {_default_said(name, field)}")
        numeric = {int, float} & set(parts_of(field)) and not said.help.endswith(said.hint)
        hint = f" {said.hint}" if numeric and name not in ("seed", "count", "width", "height") else ""
        lines.append(f"    {name} ({', '.join(facts)}): {said.help}{hint}")
    lines += ["", "Raises:", "    RequestError: A value cannot be; the message names it and says what to do."]
    return "\n".join(lines)


def limits_of(name: str) -> str:
    """The limits of a field behind what is said of it, such as ` (1 to 1000)`; nothing where there are none."""
    field = Request.model_fields.get(name)
    if field is None:
        return ""
    found = [*_limits(field)] if name not in ("seed",) else []
    if name == "sampler":
        found = [", ".join(get_args(SamplerName))]
    default = "the model's" if name in OF_THE_MODEL and name not in ("strength", "eta", "width", "height") else None
    if field.default is not None:
        default = str(field.default)
    facts = [*found, *([f"default: {default}"] if default else [])]
    return f" ({'; '.join(facts)})" if facts else ""


def _annotations() -> dict[str, object]:
    return {
        name: hint.__forward_arg__ if isinstance(hint, ForwardRef) else hint
        for name, hint in Fields.__annotations__.items()
    }


def _default(name: str) -> object:
    return Request.model_fields[name].default


def _default_said(name: str, field: FieldInfo) -> str:
    if field.default is not None:
        return str(field.default)
    return {"seed": "random", "strength": SAME}.get(name, SAME if name in OF_THE_MODEL else "none")


OF_THE_MODEL = (
    "steps",
    "sampler",
    "guidance_scale",
    "width",
    "height",
    "prior_steps",
    "prior_guidance_scale",
    "eta",
    "strength",
)
"""Fields whose default a checkpoint says."""


def _kind(name: str, field: FieldInfo) -> str:
    parts = parts_of(field)
    if name == "prompt":
        return "text, Mix, Embedding or image; or a list of them"
    if name == "outpaint":
        return "sides and pixels, such as {'left': 64}"
    if name == "sampler":
        return f"one of {', '.join(get_args(SamplerName))}"
    if about()[name].type is not str and get_origin(about()[name].type) is tuple:
        return "two numbers"
    kinds = {bool: "True or False", int: "whole number", float: "number"}
    kind = next((said for of, said in kinds.items() if of in parts), "text")
    if name in ("image", "mask", "hint"):
        kind = "path, PIL image or array"
    return f"{kind}, or a list with one per prompt" if ... in parts else kind


def _limits(field: FieldInfo) -> list[str]:
    limits = next((part for part in parts_of(field) if isinstance(part, Interval)), None)
    if limits is None:
        return []
    low = f"above {limits.gt}" if limits.ge is None else str(limits.ge)
    if limits.le is None:
        return [f"{low} or more"]
    top = "2**64 - 1" if limits.le == 2**64 - 1 else str(limits.le)
    return [f"{low} to {top}"]
