"""Folders of published sizes without a weight: a release's configurations, and small tokenizers."""

import json
from pathlib import Path
from typing import Any

from tests.parity.oracles import MOVQ_PUBLISHED, UNET_PUBLISHED
from tests.tiny_text_image import save_decoder, save_prior

UNET: dict[str, Any] = UNET_PUBLISHED | {
    "sample_size": 96,
    "encoder_hid_dim": 1024,
    "encoder_hid_dim_type": "text_image_proj",
    "addition_embed_type": "text_image",
}
TEXT: dict[str, Any] = {
    "vocab_size": 250002,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "max_position_embeddings": 514,
    "transformerDimSize": 1024,
    "imageDimSize": 768,
    "transformerDimensions": 1024,
    "numDims": 768,
}
CLIP: dict[str, Any] = {"hidden_act": "quick_gelu", "projection_dim": 768}
CLIP_TEXT: dict[str, Any] = CLIP | {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
}
CLIP_VISION: dict[str, Any] = CLIP | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_attention_heads": 16,
    "num_hidden_layers": 24,
    "image_size": 224,
    "patch_size": 14,
}
PRIOR: dict[str, Any] = {
    "num_attention_heads": 32,
    "attention_head_dim": 64,
    "num_layers": 20,
    "embedding_dim": 768,
    "num_embeddings": 77,
}
DECODER = {"unet": UNET, "text_encoder": TEXT, "movq": MOVQ_PUBLISHED}
PRIORS = {"prior": PRIOR, "text_encoder": CLIP_TEXT, "image_encoder": CLIP_VISION}
PREPROCESSOR = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
NUMBERS = {
    "unet": 1_228_661_768,
    "prior": 1_022_030_080,
    "text_encoder": 123_650_304,
    "image_encoder": 303_966_208,
    "movq": 67_832_495,
}
"""Published counts of parameters."""


def text_image_outline(root: Path) -> tuple[Path, Path]:
    """Decoder and prior of 2.1 under `root`."""
    save_decoder(root / "decoder")
    save_prior(root / "prior")
    for folder, parts in (("decoder", DECODER), ("prior", PRIORS)):
        for name, sizes in parts.items():
            change(root / folder / name / "config.json", sizes)
    change(root / "prior" / "image_processor" / "preprocessor_config.json", PREPROCESSOR)
    for weights in root.rglob("*.safetensors"):
        weights.unlink()
    return root / "decoder", root / "prior"


def change(path: Path, values: dict[str, Any]) -> None:
    """Replaces keys of a JSON file."""
    old = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**old, **values}), encoding="utf-8")
