"""Code in the form that users have: only its import lines and the paths of its models are changed.

Each piece for diffusers is run twice, with diffusers and with ours, and must make the same image. Pieces
for the original code run with ours alone; what it makes is held to the original's own record elsewhere.
"""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from kandinsky.checkpoints.maps.scheduler import TEXT_IMAGE_SCHEDULES
from tests.reference.folders import write_first, write_second
from tests.tiny import Checkpoints
from tests.tiny_one_text import OneTextCheckpoints
from tests.tiny_text_image import TextImageCheckpoints

CODE = Path(__file__).parent / "code"
# Which of the tiny checkpoints stands for a published one.
EARLIER = {
    "kandinsky-community/kandinsky-2-1-prior": "prior",
    "kandinsky-community/kandinsky-2-1": "decoder",
    "kandinsky-community/kandinsky-2-1-inpaint": "inpainting",
}
PUBLISHED = {
    "kandinsky-community/kandinsky-2-2-prior": "prior",
    "kandinsky-community/kandinsky-2-2-decoder": "text2img",
    "kandinsky-community/kandinsky-2-2-decoder-inpaint": "inpaint",
    "kandinsky-community/kandinsky-2-2-controlnet-depth": "control",
}
SLOW = {"compiled_unet"}
SNIPPETS = [
    pytest.param(path, marks=[pytest.mark.slow] if path.stem in SLOW else [], id=path.stem)
    for path in sorted(CODE.glob("*.py"))
]


@pytest.fixture(scope="session")
def models(
    tiny: Checkpoints,
    text_image: TextImageCheckpoints,
    one_text: OneTextCheckpoints,
    third_release: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """The published names' folders, decoders with a README that names their prior, and original files."""
    assert tiny.prior
    assert tiny.decoders
    assert text_image.prior
    assert text_image.decoder
    assert text_image.inpainting
    assert one_text.oracle
    root = tmp_path_factory.mktemp("models")
    places = {name: root / name for name in (*PUBLISHED, *EARLIER)}
    for name, place in places.items():
        source = tiny.root / PUBLISHED[name] if name in PUBLISHED else text_image.root / EARLIER[name]
        shutil.copytree(source, place)
        generation = re.findall(r".*/kandinsky-\d-\d", name)[0]
        prior = root / f"{generation}-prior"
        if not name.endswith("-prior"):
            (place / "README.md").write_text(f"---\nprior:\n  - {prior}\n---\n")
    second = places["kandinsky-community/kandinsky-2-1"] / "ddpm_scheduler"
    second.mkdir()
    (second / "scheduler_config.json").write_text(json.dumps(TEXT_IMAGE_SCHEDULES["ddpm_scheduler"]))
    write_first(root / "original" / "2_0")
    write_second(root / "original" / "2_1")
    newest = {"kandinsky-community/kandinsky-3": one_text.root / "decoder", "/tmp/kandinsky3": third_release}
    return {**places, **newest, "/tmp/kandinsky2": root / "original"}


def with_paths(code: str, models: dict[str, Path]) -> str:
    for name, place in models.items():
        code = code.replace(f'"{name}"', repr(str(place)))
    return code


def with_imports(code: str) -> str:
    """The same code for our package: only import lines differ."""
    code = re.sub(r"(?m)^from kandinsky([23]) import", r"from kandinsky.compat.kandinsky\1 import", code)
    oracle = r"(?m)^from (?:diffusers|transformers)[\w.]* import"
    return re.sub(oracle, "from kandinsky.compat.diffusers import", code)


def run(code: str) -> dict[str, Any]:
    # Some pieces draw from torch's own generator without a seed of their own.
    torch.manual_seed(0)
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(code, "snippet", "exec"), space)
    return space


def pixels(image: Image.Image) -> "np.ndarray[Any, np.dtype[Any]]":
    return np.asarray(image, dtype=int)


@contextmanager
def corrected() -> Iterator[None]:
    """diffusers without what it is known to do wrong here, and without a compiler that changes no image.

    It noises embeddings outside of the space that its prior works in.
    """
    kind = diffusers.KandinskyV22PriorEmb2EmbPipeline
    noised = kind.prepare_latents

    def normalised(self: Any, emb: Any, *arguments: Any, **keywords: Any) -> Any:
        return noised(self, (emb - self.prior.clip_mean) / self.prior.clip_std, *arguments, **keywords)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(kind, "prepare_latents", normalised)
        patch.setattr(torch, "compile", lambda module, **_: module)
        yield


@pytest.mark.parametrize("path", SNIPPETS)
def test_the_same_image_from_the_same_code(
    path: Path, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("cat.png", "sketch.png")):
        noise = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 64), Image.Resampling.BICUBIC).save(name)
    code = with_paths(path.read_text(encoding="utf-8"), models)
    changed = with_imports(code)
    lines = [a for a, b in zip(code.splitlines(), changed.splitlines(), strict=True) if a != b]
    assert lines
    assert all(line.startswith("from ") for line in lines)
    ours = run(changed)["image"]
    assert ours.size == (64, 64)
    if path.stem.startswith("original_"):
        return
    with corrected():
        difference = np.abs(pixels(ours) - pixels(run(code)["image"]))
    # The random decoder amplifies rounding; most pixels are equal all the same.
    assert (difference > 2).mean() < 0.01
    assert (difference > 0).mean() < 0.1
