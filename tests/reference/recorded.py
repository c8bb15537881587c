"""The numbers that the original code recorded, and the networks built from the files it would have read."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from kandinsky.checkpoints.keymap import KeyMap
from kandinsky.checkpoints.maps.unet2 import infer_unet2_config, original_unet2_map
from kandinsky.checkpoints.maps.unet3 import gathered, infer_unet3_config, original_unet3_map
from kandinsky.checkpoints.weights import load_strict
from kandinsky.networks.unet2 import UNet2, UNet2Condition
from kandinsky.networks.unet3 import UNet3
from tests.reference import drawn

FOLDER = Path(__file__).parent.parent / "data" / "reference"
RELEASE, HEAD, SECOND = "kandinsky20_release_2022", "kandinsky20_head_2023", "kandinsky21"
THIRD, THIRD_RELEASE = "kandinsky31", "kandinsky30_release"
WEIGHTS = {HEAD: RELEASE, THIRD_RELEASE: THIRD}
"""Cases that ran with the weights of another."""
LEAST = 3e-7
"""The smallest sensitivity that is listed; groups that did not move at all are granted it too."""


@cache
def facts(case: str) -> dict[str, Any]:
    """Configurations, sensitivities and runs of a case."""
    return dict(json.loads((FOLDER / "runs.json").read_text(encoding="utf-8"))[case])


@cache
def tensors(case: str) -> dict[str, Tensor]:
    """Inputs, draws and outputs of a case."""
    return load_file(FOLDER / case / "tensors.safetensors")


@cache
def weights(case: str, name: str) -> dict[str, Tensor]:
    """One of the case's weight files, under the original names, in float16."""
    case = WEIGHTS.get(case, case)
    if f"{case}/{name}" in drawn.recipes():
        return drawn.draw(f"{case}/{name}")
    return load_file(FOLDER / case / f"weights_{name}.safetensors")


def limit(case: str, group: str) -> float:
    """The largest relative deviation allowed to a group of tensors: ten times its rounding sensitivity."""
    listed = facts(case)["sensitivity"].get(group, {"relative": LEAST})
    return 10 * max(float(listed["relative"]), LEAST)


def levels_agree(case: str, run: str, images: np.ndarray, wanted: np.ndarray) -> bool:
    """Whether grey levels moved no more than rounding moves them.

    All but one value in a thousand stay within three times the recorded sensitivity, and those within ten
    times, as latents do: which value moves farthest depends on the processor's instructions.
    """
    levels = facts(case)["sensitivity"][run]["levels"]
    moved = np.abs(images.astype(int) - wanted.astype(int))
    return bool(np.mean(moved > max(1, 3 * levels)) <= 1e-3 and moved.max() <= max(1, 10 * levels))


def unet_file(case: str, inpainting: bool = False) -> dict[str, Tensor]:
    """The tensors of a U-Net's file; the inpainting file differs in its first convolution alone."""
    file = dict(weights(case, "unet"))
    return file | weights(case, "unet_inpainting_first_conv") if inpainting else file


def unet3_file(inpainting: bool = False) -> dict[str, Any]:
    """The content of a U-Net's file of the newest release; the inpainting one differs in two tensors."""
    network = dict(weights(THIRD, "unet"))
    other = dict(weights(THIRD, "unet_inpainting_in_layer" if inpainting else "unet_null"))
    null = other.pop("null_embedding")
    return {"unet": network | other, "null_embedding": null}


@cache
def unet3(inpainting: bool = False) -> UNet3:
    """The U-Net of the newest release, in float32."""
    file = gathered(unet3_file(inpainting), weights(THIRD, "t5_projection"))
    config = infer_unet3_config(file)
    return load_strict(lambda: UNet3(config), original_unet3_map(config).to_native(file), torch.float32)


@cache
def unet(case: str, inpainting: bool = False) -> UNet2:
    """The U-Net of an original file, in float32."""
    file = unet_file(case, inpainting)
    config = infer_unet2_config(file)
    return load_strict(lambda: UNet2(config), original_unet2_map(config).to_native(file), torch.float32)


def condition(case: str, rows: list[int], **more: Tensor) -> UNet2Condition:
    """What the U-Net is told with the recorded text states; each of `rows` is 0 (prompt) or 1 (empty)."""
    found = tensors(RELEASE if case == HEAD else case)
    if case == SECOND:
        return UNet2Condition(text_hidden=found["text.full"][rows], text_embedding=found["text.pooled"][rows], **more)
    return UNet2Condition(
        text_hidden=found["text1.full"][rows],
        text_embedding=found["text1.pooled"][rows],
        second_text_hidden=found["text2.full"][rows],
        **more,
    )


def identical(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    """Whether two state dicts hold the same names, numbers and types."""
    return ours.keys() == theirs.keys() and all(
        ours[name].dtype == tensor.dtype and torch.equal(ours[name], tensor) for name, tensor in theirs.items()
    )


def comes_back(key_map: KeyMap, file: dict[str, Tensor]) -> bool:
    """Whether a file read by a map and written again is the same file."""
    return identical(key_map.to_foreign(key_map.to_native(file)), file)
