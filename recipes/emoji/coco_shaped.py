"""Writes the held-out drawings as COCO does: a file of captions and a folder of images.

    python recipes/emoji/coco_shaped.py out/emoji out/held-out
    kandinsky evaluate --protocol coco30k --coco-captions out/held-out/captions.json \\
        --coco-images out/held-out/images --sweep guidance_scale=1,2,4,8 --batch-size 8 --out out/curve

    kandinsky evaluate out/held-out/trained --reference out/held-out/images --metrics fid --crop 256

So the protocol of papers runs on a small set that a laptop can draw. Its numbers compare with one another only, so
two folders of the same number of images go with it: `trained`, real drawings that the checkpoint was trained on, is
what a perfect model would reach; `untrained` is what random weights draw of the captions.
"""

import argparse
import json
from pathlib import Path

import torch
from evaluate import forget, read_reference, subject
from PIL import Image

import kandinsky
from kandinsky.core.files import write_atomically
from kandinsky.evaluation.features import to_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the held-out emoji images in the form of COCO.")
    parser.add_argument("data", type=Path, help="the folder that build.py wrote")
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit", type=int, default=390, help="how many at most")
    options = parser.parse_args()
    size = int(kandinsky.load().model.defaults["width"])
    reference = read_reference(options.data, size, ["core"], ["en"], options.limit)
    images, captions = [], []
    texts = reference.captions["en"]
    for number, (name, caption) in enumerate(
        zip(write_images(reference.held_out.pixels, options.out / "images"), texts, strict=True)
    ):
        images.append({"id": number, "file_name": name})
        captions.append({"id": number, "image_id": number, "caption": caption})
    data = json.dumps({"images": images, "annotations": captions}, ensure_ascii=False)
    write_atomically(options.out / "captions.json", data.encode())
    order = torch.randperm(len(reference.trained.pixels), generator=torch.Generator().manual_seed(1))
    write_images(reference.trained.pixels[order[: len(texts)]], options.out / "trained")
    random = forget(kandinsky.load(batch_size=8))
    drawn = subject(random, []).generate(texts, range(len(texts)))
    write_images(drawn, options.out / "untrained")


def write_images(pixels: torch.Tensor, folder: Path) -> list[str]:
    """Writes images (N, 3, S, S) in [-1, 1] as numbered PNG files, and gives their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{number:04d}.png" for number in range(len(pixels))]
    for name, tile in zip(names, to_bytes(pixels), strict=True):
        Image.fromarray(tile.permute(1, 2, 0).numpy()).save(folder / name)
    return names


if __name__ == "__main__":
    main()
