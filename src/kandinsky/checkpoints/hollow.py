"""Networks without numbers: shapes alone, on the meta device, to be given weights."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)

_FILLS = frozenset(
    (
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.kaiming_uniform_,
        nn.init.xavier_uniform_,
        nn.init.trunc_normal_,
        Tensor.normal_,
        Tensor.uniform_,
        Tensor.fill_,
        Tensor.zero_,
    )
)


def hollow(build: Callable[[], M]) -> M:
    """What `build` makes, on the meta device; initial values are not drawn.

    On that device torch draws by a decomposition that imports its whole compiler first, which takes longer
    than reading the weights of a small model.
    """
    with torch.device("meta"), _Undrawn():
        return build()


class _Undrawn(TorchFunctionMode):
    """Leaves out every call that only fills a tensor."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func in _FILLS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)
