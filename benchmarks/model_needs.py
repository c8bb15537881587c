"""What each published model needs, counted on the meta device: parameters, weights on disk and in memory.

    python -m benchmarks.model_needs

prints the tables of docs/models.md, which a test compares. No weights are read or fetched.
"""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.narrow_models import GENERATIONS
from kandinsky.checkpoints.weights import meta_init
from kandinsky.networks.clip import ClipTextConfig

CLIP_VOCABULARY = 49_408
"""The published one; the benchmarks borrow a smaller tokenizer."""
ONLY_FOR_IMAGES = "prior_image_encoder"
"""It is loaded when an image is part of a prompt."""
NAMES = {
    "unet": "U-Net",
    "movq": "MoVQ",
    "vae": "autoencoder",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
    "prior_prior": "prior",
    "prior_text_encoder": "CLIP text",
    "prior_image_encoder": "CLIP vision",
}
GIB = 2**30


def parameters(generation: str) -> dict[str, int]:
    """The parameters of each network of a generation."""
    found = {}
    for name, part in GENERATIONS[generation](1).parts.items():
        config = part.config
        if isinstance(config, ClipTextConfig):
            config = replace(config, vocab_size=CLIP_VOCABULARY)
        network = meta_init(lambda build=part.form.build, config=config: build(config))  # type: ignore[misc]
        found[name] = sum(one.numel() for one in network.parameters())
    return found


def of_parts() -> Iterator[str]:
    """The first table: parameters by network, in millions."""
    yield "| model | networks, in millions of parameters | total |\n| --- | --- | --- |"
    for generation in GENERATIONS:
        parts = parameters(generation)
        shown = ", ".join(f"{NAMES[name]} {count / 1e6:,.0f}" for name, count in parts.items())
        yield f"| {generation} | {shown} | {sum(parts.values()) / 1e6:,.0f} |"


HEADS = (
    "weights on disk, 16-bit",
    "32-bit",
    "in memory, float16",
    "float32",
    '`offload="parts"`, float16',
    '`offload="layers"`, float16',
)
ONE_LAYER_AT_A_TIME = {"3.0": "text_encoder"}
"""The network that `offload="layers"` brings in parts."""


def of_memory() -> Iterator[str]:
    """The second table: GiB of weights, all of them and what is in memory at once."""
    yield f"| model | {' | '.join(HEADS)} |\n| --- {'| --- ' * len(HEADS)}|"
    for generation in GENERATIONS:
        parts = parameters(generation)
        texts = {name: count for name, count in parts.items() if name != ONLY_FOR_IMAGES}
        layered = max(count for name, count in texts.items() if name != ONE_LAYER_AT_A_TIME.get(generation))
        every, held = sum(parts.values()), sum(texts.values())
        cells = [2 * every, 4 * every, 2 * held, 4 * held, 2 * max(texts.values()), 2 * layered]
        yield f"| {generation} | " + " | ".join(f"{size / GIB:.1f} GiB" for size in cells) + " |"


def page() -> str:
    """Both tables, as Markdown."""
    return "\n".join([*of_parts(), "", *of_memory()]) + "\n"


if __name__ == "__main__":
    print(page(), end="")
