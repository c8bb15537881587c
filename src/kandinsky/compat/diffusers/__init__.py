"""Names that code for the diffusers library uses: change its import line to this package and it runs here.

Each pipeline is a thin table of names over the core: the same networks, conditions, starts and the one
loop. Where diffusers is known to be wrong, these do what their documentation says.
"""

from typing import Any

from kandinsky.compat.diffusers import attention, models, outputs, pipelines, schedulers, tokenizers, utils
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline

_OFFERED: dict[str, Any] = {
    "DiffusionPipeline": DiffusionPipeline,
    **attention.PROCESSORS,
    **models.PARTS,
    **pipelines.PIPELINES,
    **schedulers.SCHEDULERS,
    **pipelines.AUTOMATIC,
    **{kind.__name__: kind for kind in (outputs.ImagePipelineOutput, outputs.KandinskyPriorPipelineOutput)},
    **{kind.__name__: kind for kind in (tokenizers.CLIPImageProcessor, *tokenizers.TOKENIZERS)},
    **{function.__name__: function for function in (utils.load_image, utils.make_image_grid)},
}
globals().update(_OFFERED)
__all__ = sorted(_OFFERED)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    # The names themselves are in the module; this tells type checkers of them.
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
