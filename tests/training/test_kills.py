"""Every method, killed from outside at random moments of steps and saves, ends as if nothing had happened."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from kills import KINDS, assert_same_end, run_to
from small import draw_images, small_config

from kandinsky.training import run_config

STEPS = {"batch": 2, "max_steps": 7, "save_every": 2, "log_every": 1, "variants": 2}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "textual_inversion": {"token": "zwx", "init_from": "red"},
    "lora": {"target": "both", "adapter": {"rank": 2, "dropout": 0.1, "text_encoders": True}},
    "dreambooth": {
        "prompt": "a zwx disc",
        "class_prompt": "a disc",
        "class_images": 2,
        "class_steps": 1,
        "adapter": {"rank": 2},
    },
    "full": {"target": "both"},
    "prior": {"times": "second_moment"},
    "decoder": {"min_snr": 5.0},
}
SCRATCH = ("prior", "decoder")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, and a tiny model made of them in the folder `run`."""
    folder = tmp_path_factory.mktemp("kills")
    draw_images(folder / "images")
    [*run_config(small_config(folder))]
    return folder


def config(root: Path, out: Path, method: str) -> dict[str, Any]:
    stage = STEPS | {"method": method, "objective": OBJECTIVES[method]}
    if method in SCRATCH:
        uses = {name: str(root / "run" / name) for name in ("movq", "clip")}
        whole = small_config(root, out=str(out), tokenizer=str(root / "run" / "tokenizer"))
        return whole | {"stage": [stage | {"uses": uses}]}
    return {
        "out": str(out),
        "data": {"folder": str(root / "images"), "size": 16},
        "model": {"name": str(root / "run" / "checkpoint")},
        "threads": 1,
        "device": "cpu",
        **stage,
    }


def killed_and_resumed(root: Path, method: str, tmp_path: Path, kills: int) -> Counter[str]:
    """Kills a run and those that resume it, `kills` times in all, at moments of each kind in turn; each that
    ends is compared and followed by a new one. Returns how often it was killed at moments of each kind.
    """
    whole = config(root, tmp_path / "whole", method)
    moments = run_to(whole, None)
    assert moments is not None
    draw, run, killed = random.Random(method), 0, Counter[str]()
    while killed.total() < kills:
        run += 1
        parts = config(root, tmp_path / f"parts-{run}", method)
        # Four kills of one run at most: then it may end.
        for _ in range(min(4, kills - killed.total())):
            kind = KINDS[killed.total() % len(KINDS)]
            if run_to(parts, (kind, draw.randint(1, moments[kind]))) is not None:
                break
            killed[kind] += 1
        run_to(parts, None)
        assert_same_end(parts, whole, method)
    return killed


@pytest.mark.parametrize("method", list(OBJECTIVES))
def test_two_kills(method: str, root: Path, tmp_path: Path) -> None:
    assert killed_and_resumed(root, method, tmp_path, 2) == {"disk": 1, "event": 1}


@pytest.mark.slow
@pytest.mark.parametrize("method", list(OBJECTIVES))
def test_twenty_kills_between_saves_and_inside_them(method: str, root: Path, tmp_path: Path) -> None:
    assert killed_and_resumed(root, method, tmp_path, 20) == {"disk": 10, "event": 10}
