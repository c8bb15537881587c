"""The models of the memory benchmarks: published sizes at full width, and all parts fit at every fraction."""

import pytest

from benchmarks.against_diffusers.published import Contents
from benchmarks.narrow_models import GENERATIONS
from kandinsky.checkpoints.weights import meta_init

MILLIONS = {
    "2.0": {"unet": 1223.5, "vae": 83.7, "text_encoder": 559.6, "text_encoder_2": 146.9},
    "2.1": {"unet": 1228.7, "movq": 67.8, "text_encoder": 559.6},
    "2.2": {"unet": 1253.1, "movq": 67.8, "prior_prior": 1026.2, "prior_image_encoder": 1844.9},
    "3.0": {"unet": 3055.3, "text_encoder": 8721.8, "movq": 270.6},
}
"""Of weights; text encoders of priors have a smaller vocabulary here."""


def sizes(contents: Contents) -> dict[str, float]:
    """Millions of weights of each part."""
    found = {}
    for name, part in contents.parts.items():
        module = meta_init(lambda part=part: part.form.build(part.config))  # type: ignore[misc]
        found[name] = sum(weights.numel() for weights in module.parameters()) / 1e6
    return found


@pytest.mark.parametrize("generation", MILLIONS)
def test_models_are_of_the_published_sizes(generation: str) -> None:
    full = sizes(GENERATIONS[generation](1))
    for name, millions in MILLIONS[generation].items():
        assert full[name] == pytest.approx(millions, abs=0.06)
    narrow = sizes(GENERATIONS[generation](8))
    assert narrow.keys() == full.keys()
    # Widths that are divided by 8 leave a 64th of a matrix; a MoVQ cannot be as narrow.
    assert narrow["unet"] == pytest.approx(full["unet"] / 64, rel=0.02)
