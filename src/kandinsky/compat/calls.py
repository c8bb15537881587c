"""Methods whose signature is a row of a table: many familiar names over one implementation."""

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Any

Implementation = Callable[[Any, dict[str, Any]], Any]


def signed(
    implementation: Implementation, names: str, defaults: Mapping[str, object], does: str, method: str = "__call__"
) -> Any:
    """Makes a method that hands all its arguments to `implementation(self, arguments)`, by their names.

    `names` are its parameters in their order, divided by white space, a last "**name" for all others; those
    without a row in `defaults` are required. `does` is its docstring, `method` its name. A call that does not
    fit the signature raises TypeError, as for any function, and `inspect.signature` shows what there is.
    """
    parameters = [Parameter("self", Parameter.POSITIONAL_OR_KEYWORD)]
    for name in names.split():
        if name.startswith("**"):
            parameters.append(Parameter(name.removeprefix("**"), Parameter.VAR_KEYWORD))
        else:
            default = defaults.get(name, Parameter.empty)
            parameters.append(Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, default=default))
    signature = Signature(parameters)

    def call(self: object, *arguments: object, **keywords: object) -> Any:
        bound = signature.bind(self, *arguments, **keywords)
        bound.apply_defaults()
        return implementation(self, {name: bound.arguments[name] for name in list(bound.arguments)[1:]})

    call.__name__, call.__qualname__, call.__doc__ = method, method, does
    call.__signature__ = signature  # type: ignore[attr-defined]
    return call


def generating(defaults: Mapping[str, object]) -> Callable[..., Any]:
    """What makes methods that hand their arguments to `_generate`: `made(names, does, method, **own defaults)`."""

    def made(names: str, does: str, method: str, **own: object) -> Any:
        return signed(lambda model, given: model._generate(given), names, {**defaults, **own}, does, method)

    return made
