"""`tiling` of `load`: who is given it, and images that stay what they are."""

import json

import numpy as np
import pytest

import kandinsky
from kandinsky.core.metadata import metadata_of
from tests.families import mostly_slow
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints

QUICK = {"seed": 3, "steps": 2, "width": 64, "height": 64}


def test_images_in_strips_are_the_images(tiny: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    monkeypatch.setattr("kandinsky.codecs.strips.AREA", 64 * 5)
    whole, striped = tiny.own(tiling=False), tiny.own(tiling=True)
    for fields in ({}, {"image": image, "strength": 0.4}):
        wanted, found = (pipe.generate("a fox", **QUICK, **fields) for pipe in (whole, striped))
        difference = np.asarray(wanted.images[0]).astype(int) - np.asarray(found.images[0])
        assert abs(difference).max() <= 1
    assert found.settings["tiling"] is True
    assert json.loads(json.dumps(metadata_of(found, 0).settings))["tiling"] is True
    assert "tiling" not in tiny.own().settings


@pytest.mark.parametrize("offload", mostly_slow(["parts", "layers"], "layers"))
def test_strips_go_with_weights_that_come_and_go(
    one_text: OneTextCheckpoints, offload: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kandinsky.codecs.strips.AREA", 64 * 5)
    wanted = one_text.ours(tiling=True).generate("a fox", **QUICK)
    found = one_text.ours(tiling=True, offload=offload).generate("a fox", **QUICK)
    assert np.array_equal(np.asarray(wanted.images[0]), np.asarray(found.images[0]))


def test_large_images_are_in_strips_by_themselves(tiny: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    from kandinsky.codecs import autoencoder_codec, strips

    coded: list[tuple[int, ...]] = []
    decode = strips.decode

    def watched(decoder: object, x: object, latents: object) -> object:
        coded.append(tuple(x.shape))  # type: ignore[attr-defined]
        return decode(decoder, x, latents)  # type: ignore[arg-type]

    monkeypatch.setattr(strips, "decode", watched)
    monkeypatch.setattr(autoencoder_codec, "LARGE", 64 * 64)
    tiny.own().generate("a fox", **QUICK)
    tiny.own(tiling=False).generate("a fox", **(QUICK | {"width": 128}))
    assert coded == []
    tiny.own(batch_size=2).generate("a fox", count=2, **(QUICK | {"width": 128}))
    assert coded == [(1, 4, 8, 16)] * 2


def test_other_settings_are_refused(tiny: Checkpoints) -> None:
    with pytest.raises(kandinsky.RequestError, match="tiling cannot be 512"):
        tiny.own(tiling=512)
