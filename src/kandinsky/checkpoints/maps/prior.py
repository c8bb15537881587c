"""The diffusion prior: `PriorTransformer`, or `prior_fp16.ckpt` with its statistics in `ViT-L-14_stats.th`."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import ROW, Entry, KeyMap, interleaved, rename, renames, stack
from kandinsky.checkpoints.maps import config_fields as fields
from kandinsky.checkpoints.maps.clip import ORIGINAL_BLOCK
from kandinsky.checkpoints.original import OriginalFolder
from kandinsky.checkpoints.original_file import OriginalFile
from kandinsky.checkpoints.untrusted_pickle import read_pickle
from kandinsky.checkpoints.weights import Tensors, read_tensor_file
from kandinsky.core.errors import CheckpointError, nearest
from kandinsky.networks.prior import PriorConfig

CLASS = "PriorTransformer"
_BLOCK, _FOREIGN = "blocks.{i}", "transformer_blocks.{i}"

PRIOR = KeyMap(
    [
        *renames(
            {
                "text_in": "encoder_hidden_states_proj",
                "embedding_in": "embedding_proj",
                "noisy_in": "proj_in",
                "time_mlp.up": "time_embedding.linear_1",
                "time_mlp.down": "time_embedding.linear_2",
                "norm": "norm_out",
                "out": "proj_to_clip_embeddings",
            }
        ),
        rename("query", "prd_embedding"),
        rename("positions", "positional_embedding"),
        stack(f"{_BLOCK}.attention.qkv.{{p}}", *(f"{_FOREIGN}.attn1.to_{x}.{{p}}" for x in "qkv")),
        *renames(
            {
                "attention.out": "attn1.to_out.0",
                "norm1": "norm1",
                "norm2": "norm3",
                "mlp.up": "ff.net.0.proj",
                "mlp.down": "ff.net.2",
            },
            _BLOCK,
            _FOREIGN,
        ),
        rename("clip_mean", "clip_mean"),
        rename("clip_std", "clip_std"),
    ],
    ignored=["causal_attention_mask"],
)

_FIXED: Json = {
    "added_emb_type": "prd",
    "additional_embeddings": 4,
    "embedding_proj_norm_type": None,
    "encoder_hid_proj_type": "linear",
    "norm_in_type": None,
    "time_embed_act_fn": "silu",
}
_SIZES: fields.Table = {
    "heads": ("num_attention_heads", 32),
    "head_dim": ("attention_head_dim", 64),
    "layers": ("num_layers", 20),
    "embedding_dim": ("embedding_dim", 768),
    "tokens": ("num_embeddings", 77),
}
_OPEN = {"clip_embed_dim": None, "dropout": 0.0, "embedding_proj_dim": None, "time_embed_dim": None}
"""Values of which any will do that goes with the sizes."""


def prior_config(json: Json) -> PriorConfig:
    """Reads a `PriorTransformer` config.json with diffusers' defaults; CheckpointError for another class or an unknown
    option."""
    fields.require(json, CLASS, **_FIXED)
    known = (*_FIXED, *_OPEN, *(key for key, _ in _SIZES.values()))
    for key in json:
        # Every key but the underscored ones is an argument of the network: an unknown one would change it.
        if key not in known and not key.startswith("_"):
            raise CheckpointError(f"config.json of a {CLASS} has an unknown option {key}.", nearest(key, known))
    sizes = fields.read_sizes(json, _SIZES)
    config = fields.build(PriorConfig, **sizes, text_width=sizes["embedding_dim"])
    given = {key: value for key, value in json.items() if key in _OPEN and value is not None}
    width, dim = config.width, config.embedding_dim
    fields.require(given, CLASS, clip_embed_dim=dim, embedding_proj_dim=dim, time_embed_dim=width)
    return config


def prior_json(config: PriorConfig) -> dict[str, object]:
    """The config.json of a prior; CheckpointError when text states and embeddings differ in width, for which the format
    has one number."""
    if config.text_width != config.embedding_dim:
        raise CheckpointError(
            f"A prior with text_width = {config.text_width} and embedding_dim = {config.embedding_dim} "
            "has no place in this format.",
            "Give both the same size.",
        )
    return {"_class_name": CLASS, **_FIXED, **_OPEN, **fields.write_sizes(config, _SIZES)}


STATISTICS = ("clip_mean", "clip_std")
"""Our names for the two vectors of the file of statistics, also among the prior's own tensors."""
_ORIGINAL = "model.transformer.resblocks.{i}"
_ORIGINAL_MODULES = {
    "text_in": "text_enc_proj",
    "embedding_in": "text_emb_proj",
    "noisy_in": "clip_img_proj",
    "time_mlp.up": "time_embed.0",
    "time_mlp.down": "time_embed.2",
    "norm": "final_ln",
    "out": "out_proj",
}


def original_prior_map(config: PriorConfig) -> KeyMap:
    """The names of a prior in the original file, and of the statistics that `with_statistics` added."""
    return KeyMap(
        [
            *renames(_ORIGINAL_MODULES, foreign="model"),
            rename("query", "model.prd_emb"),
            rename("positions", "model.positional_embedding"),
            Entry(f"{_BLOCK}.attention.qkv.{{p}}", (f"{_ORIGINAL}.attn.c_qkv.{{p}}",), interleaved(3, config.head_dim)),
            *renames(ORIGINAL_BLOCK | {"attention.out": "attn.c_proj"}, _BLOCK, _ORIGINAL),
            *(Entry(name, (name,), ROW) for name in STATISTICS),
        ]
    )


def infer_prior_config(tensors: Mapping[str, Tensor], head_dim: int = fields.HEAD_DIM) -> PriorConfig:
    """The sizes of the prior in an original file, read off its tensors; CheckpointError for other tensors. `head_dim`
    is the width of an attention head."""
    embedding_dim, width = fields.shape(tensors, "model.out_proj.weight", 2)
    probe = PriorConfig(fields.heads_of(width, head_dim), head_dim, 1, embedding_dim, embedding_dim)
    return fields.sized(
        PriorConfig,
        heads=probe.heads,
        head_dim=head_dim,
        layers=fields.count(tensors, "model.transformer.resblocks."),
        embedding_dim=embedding_dim,
        text_width=fields.shape(tensors, "model.text_enc_proj.weight", 2)[1],
        tokens=fields.shape(tensors, "model.positional_embedding", 3)[1] - probe.extra_tokens,
    )


def with_statistics(tensors: Mapping[str, Tensor], statistics: object) -> dict[str, Tensor]:
    """The prior's tensors with those of the file of statistics, a pair (mean, deviation) of (D,); CheckpointError."""
    vectors = list(statistics) if isinstance(statistics, Sequence) else []
    if len(vectors) != len(STATISTICS) or not all(isinstance(v, Tensor) and v.ndim == 1 for v in vectors):
        raise CheckpointError(
            f"The file of statistics holds a {type(statistics).__name__}, not a pair of vectors.", fields.HINT
        )
    return {**tensors, **dict(zip(STATISTICS, vectors, strict=True))}


def without_statistics(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
    """The contents of the two original files: the prior's tensors, and the pair (mean, deviation) of (D,)."""
    mean, deviation = (tensors[name] for name in STATISTICS)
    return {name: t for name, t in tensors.items() if name not in STATISTICS}, (mean, deviation)


def _read_original(folder: OriginalFolder, path: Path) -> Tensors:
    return with_statistics(read_tensor_file(path), read_pickle(folder.file(folder.files.statistics)))


ORIGINAL_PRIOR = OriginalFile(
    lambda folder, _: folder.file(folder.files.prior),
    lambda tensors, _: infer_prior_config(tensors),
    lambda config, _: original_prior_map(config),
    lambda files, _, tensors: dict(
        zip((str(files.prior), str(files.statistics)), without_statistics(tensors), strict=True)
    ),
    read=_read_original,
)
