"""The diffusion prior of the original 2.1 files: `prior_fp16.ckpt`, its statistics in `ViT-L-14_stats.th`."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from kandinsky.checkpoints.keymap import Entry, KeyMap, rename
from kandinsky.checkpoints.layouts import ROW, interleaved
from kandinsky.checkpoints.maps.sizes import HEAD_DIM, HINT, count, heads_of, shape, sized
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.prior import PriorConfig

STATISTICS = ("clip_mean", "clip_std")
"""Our names for the two vectors of the file of statistics, also beside the prior's own tensors."""

_BLOCK, _FOREIGN = "blocks.{i}", "model.transformer.resblocks.{i}"


def original_prior_map(config: PriorConfig) -> KeyMap:
    """The names of a prior in the original file, and of the statistics that `with_statistics` put beside."""
    return KeyMap(
        [
            rename("text_in.{p}", "model.text_enc_proj.{p}"),
            rename("embedding_in.{p}", "model.text_emb_proj.{p}"),
            rename("noisy_in.{p}", "model.clip_img_proj.{p}"),
            rename("time_mlp.up.{p}", "model.time_embed.0.{p}"),
            rename("time_mlp.down.{p}", "model.time_embed.2.{p}"),
            rename("query", "model.prd_emb"),
            rename("positions", "model.positional_embedding"),
            rename(f"{_BLOCK}.norm1.{{p}}", f"{_FOREIGN}.ln_1.{{p}}"),
            Entry(
                f"{_BLOCK}.attention.qkv.{{p}}",
                (f"{_FOREIGN}.attn.c_qkv.{{p}}",),
                interleaved(3, config.head_dim),
            ),
            rename(f"{_BLOCK}.attention.out.{{p}}", f"{_FOREIGN}.attn.c_proj.{{p}}"),
            rename(f"{_BLOCK}.norm2.{{p}}", f"{_FOREIGN}.ln_2.{{p}}"),
            rename(f"{_BLOCK}.mlp.up.{{p}}", f"{_FOREIGN}.mlp.c_fc.{{p}}"),
            rename(f"{_BLOCK}.mlp.down.{{p}}", f"{_FOREIGN}.mlp.c_proj.{{p}}"),
            rename("norm.{p}", "model.final_ln.{p}"),
            rename("out.{p}", "model.out_proj.{p}"),
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
