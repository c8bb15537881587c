"""The diffusion prior of the original 2.1 files: `prior_fp16.ckpt`, its statistics in `ViT-L-14_stats.th`."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from kandinsky.checkpoints.keymap import ROW, Entry, KeyMap, interleaved, rename, renames
from kandinsky.checkpoints.maps.config_fields import HEAD_DIM, HINT, count, heads_of, shape, sized
from kandinsky.checkpoints.maps.original_clip import BLOCK
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.prior import PriorConfig

STATISTICS = ("clip_mean", "clip_std")
"""Our names for the two vectors of the file of statistics, also beside the prior's own tensors."""

_BLOCK, _FOREIGN = "blocks.{i}", "model.transformer.resblocks.{i}"
_MODULES = {
    "text_in": "text_enc_proj",
    "embedding_in": "text_emb_proj",
    "noisy_in": "clip_img_proj",
    "time_mlp.up": "time_embed.0",
    "time_mlp.down": "time_embed.2",
    "norm": "final_ln",
    "out": "out_proj",
}


def original_prior_map(config: PriorConfig) -> KeyMap:
    """The names of a prior in the original file, and of the statistics that `with_statistics` put beside."""
    return KeyMap(
        [
            *renames(_MODULES, foreign="model"),
            rename("query", "model.prd_emb"),
            rename("positions", "model.positional_embedding"),
            Entry(f"{_BLOCK}.attention.qkv.{{p}}", (f"{_FOREIGN}.attn.c_qkv.{{p}}",), interleaved(3, config.head_dim)),
            *renames(BLOCK | {"attention.out": "attn.c_proj"}, _BLOCK, _FOREIGN),
            *(Entry(name, (name,), ROW) for name in STATISTICS),
        ]
    )


def infer_prior_config(tensors: Mapping[str, Tensor], head_dim: int = HEAD_DIM) -> PriorConfig:
    """The sizes of the prior in an original file, read off its tensors.

    `head_dim` is the width of an attention head, which they do not tell. Raises CheckpointError when the
    tensors are not those of such a network.
    """
    embedding_dim, width = shape(tensors, "model.out_proj.weight", 2)
    probe = PriorConfig(heads_of(width, head_dim), head_dim, 1, embedding_dim, embedding_dim)
    return sized(
        PriorConfig,
        heads=probe.heads,
        head_dim=head_dim,
        layers=count(tensors, "model.transformer.resblocks."),
        embedding_dim=embedding_dim,
        text_width=shape(tensors, "model.text_enc_proj.weight", 2)[1],
        tokens=shape(tensors, "model.positional_embedding", 3)[1] - probe.extra_tokens,
    )


def with_statistics(tensors: Mapping[str, Tensor], statistics: object) -> dict[str, Tensor]:
    """The prior's tensors with those of the file of statistics beside them.

    `statistics` is what that file holds: the pair (mean, deviation) of image embeddings, each (D,). Raises
    CheckpointError when it is anything else.
    """
    vectors = list(statistics) if isinstance(statistics, Sequence) else []
    if len(vectors) != len(STATISTICS) or not all(isinstance(v, Tensor) and v.ndim == 1 for v in vectors):
        raise CheckpointError(
            f"The file of statistics holds a {type(statistics).__name__}, not a pair of vectors.", HINT
        )
    return {**tensors, **dict(zip(STATISTICS, vectors, strict=True))}


def without_statistics(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """What goes into the two original files: the prior's tensors, and the pair (mean, deviation) of (D,)."""
    mean, deviation = (tensors[name] for name in STATISTICS)
    return {name: t for name, t in tensors.items() if name not in STATISTICS}, (mean, deviation)
