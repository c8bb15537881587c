"""`python -m kandinsky.compat.train_textual_inversion`: the flags and files of the original script for 2.1.

It learns a word in both text encoders by the route of that script, the gradient through the prior's steps,
and leaves `learned_embeds.bin` in its format. Here any batch size works, a run that was interrupted
continues with `--resume`, and `TOKEN.safetensors` for `kandinsky generate --words` is written too.
"""

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kandinsky.compat.kandinsky2.files import original_folder
from kandinsky.compat.terminal import progress_bar
from kandinsky.core.errors import ConfigError, KandinskyError

CACHE = "/tmp/kandinsky2"
METHOD = "textual_inversion"
SHOWN = (
    "a photo of a {}",
    "a photo of a {}",
    "Professional high-quality art of a {}. photorealistic, 4k, HQ",
    "Professional high-quality art of a {}. photorealistic, 4k, HQ",
)
"""What the original draws of the word."""
SHOWN_STEPS, PRIOR_STEPS, PRIOR_GUIDANCE = 50, 5, 4.0
FAILED, STOPPED = 1, 130
LAST = "learned_embeds.bin"
EMBEDDINGS, IMAGES = "{}_epoch_embeds.bin", "{}_epoch_images.jpg"


def parser() -> argparse.ArgumentParser:
    """The flags, with the original script's defaults."""
    made = argparse.ArgumentParser(
        prog="python -m kandinsky.compat.train_textual_inversion",
        description="Learn a word from a few images, as the original script for Kandinsky 2.1 did.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    flags: list[tuple[str, Any, Any, str]] = [
        ("data_root", str, None, "folder of images; captions are not read"),
        ("placeholder_token", str, None, "the new word"),
        ("initializer_token", str, None, "a known word of one token, where the new one begins"),
        ("cache_root", str, CACHE, "folder in which 2_1 holds the original files, fetched when missing"),
        ("learnable_property", str, "object", "object or style"),
        ("output_dir", str, "textual-inversion", "where the results go"),
        ("device", str, "cuda:0", "such as cuda:0 or cpu"),
        ("img_size", int, 512, "side of the images in pixels"),
        ("train_batch_size", int, 1, "images a step"),
        ("epochs", int, 1000, "how often each image is seen"),
        ("learning_rate", float, 1e-4, "of AdamW"),
        ("num_workers", int, 0, "does nothing, of which a warning tells: images are decoded once"),
        ("adam_beta1", float, 0.9, "of AdamW"),
        ("adam_beta2", float, 0.999, "of AdamW"),
        ("adam_weight_decay", float, 1e-2, "of AdamW"),
        ("adam_epsilon", float, 1e-8, "of AdamW"),
        ("log_image_frequency", int, -1, "epochs between images; -1 draws none"),
        ("log_embed_frequency", int, 500, "epochs between files of the word"),
        ("seed", int, 0, "of everything random in it; not in the original"),
    ]
    for name, kind, default, said in flags:
        made.add_argument(f"--{name}", type=kind, default=default, required=default is None, help=said)
    made.add_argument("--center_crop", action="store_true", help="cut images to squares, do not squeeze")
    made.add_argument("--resume", action="store_true", help="continue a run; not in the original")
    return made


def configuration(given: argparse.Namespace, model: Path, images: int) -> dict[str, Any]:
    """The run that the flags ask for, on so many `images`; ConfigError for numbers that make none."""
    for name in ("epochs", "train_batch_size", "log_embed_frequency"):
        if getattr(given, name) < 1:
            raise ConfigError(f"--{name} is {getattr(given, name)}.", "Give a number from 1 up.")
    epoch = steps_of(given, images)
    draws = given.log_image_frequency > 0
    return {
        "out": given.output_dir,
        "device": given.device,
        "seed": given.seed,
        "data": {"folder": given.data_root, "size": given.img_size, "fit": "cut" if given.center_crop else "squeeze"},
        "model": {"name": str(model)},
        "method": METHOD,
        "batch": given.train_batch_size,
        "max_steps": given.epochs * epoch,
        "log_every": epoch,
        "save_every": given.log_embed_frequency * epoch,
        "sample_every": given.log_image_frequency * epoch if draws else 0,
        "augmentation": {"mirror": 0.5, "white": 1.0},
        "clip_norm": None,
        "schedule": {"kind": "constant", "warmup": 0},
        "ema": {"decay": 0.0},
        "optimiser": {
            "lr": given.learning_rate,
            "betas": [given.adam_beta1, given.adam_beta2],
            "weight_decay": given.adam_weight_decay,
            "eps": given.adam_epsilon,
        },
        "objective": {
            "token": given.placeholder_token,
            "init_from": given.initializer_token,
            "property": given.learnable_property,
            "route": "sampled",
            "prior_steps": PRIOR_STEPS,
            "prior_guidance_scale": PRIOR_GUIDANCE,
            "shown": SHOWN,
            "shown_steps": SHOWN_STEPS,
        },
    }


def steps_of(given: argparse.Namespace, images: int) -> int:
    """How many steps an epoch has."""
    return -(-images // int(given.train_batch_size))


def run(given: argparse.Namespace) -> Iterator[Any]:
    """The run as its events; beside them the original's files appear in `output_dir`.

    Raises what `kandinsky.training.run_config` does, and HubError for files that cannot be fetched.
    """
    from PIL import Image

    from kandinsky.checkpoints.textual_inversion import read_words, write_original_words
    from kandinsky.training import events, run_config
    from kandinsky.training.checkpoint import read
    from kandinsky.training.data.folder import read_bare_folder

    images = len(read_bare_folder(given.data_root).records)
    model = original_folder("2.1", False, given.cache_root)
    out, epoch = Path(given.output_dir), steps_of(given, images)
    for event in run_config(configuration(given, model, images), resume=given.resume):
        match event:
            case events.Saved(step=step, path=path) if step % (epoch * given.log_embed_frequency) == 0:
                learned = read(path, {"words.ema"}).tensors["words.ema"]
                rows = {name.removeprefix("rows."): value for name, value in learned.items()}
                target = out / EMBEDDINGS.format(step // epoch)
                write_original_words(target, {given.placeholder_token: rows})
            case events.Sampled(step=step, path=path):
                (out / "images").mkdir(exist_ok=True)
                with Image.open(path) as sheet:
                    sheet.save(out / "images" / IMAGES.format(step // epoch), quality=95)
            case events.Exported(path=path):
                write_original_words(out / LAST, read_words(path))
        yield event


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the flags, runs and shows progress; returns the exit code, an error being one line."""
    from kandinsky.training import events

    given = parser().parse_args(arguments)
    if given.num_workers:
        _say("warning: --num_workers does nothing: images are decoded once, by this process")
    try:
        with progress_bar() as show:
            for event in run(given):
                match event:
                    case events.Preparing(what=what, done=done, total=total):
                        show(done, total, what)
                    case events.Progress(step=step, total=total, losses=losses):
                        show(step, total or 0, f"loss {losses.get('loss', math.nan):.4g}")
                    case events.Warned(message=message):
                        _say(f"warning: {message}")
                    case events.Stopped(step=step):
                        _say(f"stopped at step {step}; continue with --resume")
                        return STOPPED
    except KandinskyError as error:
        _say(f"error: {error}")
        return FAILED
    _say(f"the word is in {Path(given.output_dir) / LAST}")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    sys.exit(main())
