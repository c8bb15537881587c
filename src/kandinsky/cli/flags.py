"""The flags of commands that load a model, as typed."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from typer import Argument, Option

Model = partial(Option, rich_help_panel="Model")
Output = partial(Option, rich_help_panel="Output")
Measure = partial(Option, rich_help_panel="Measures")
Protocol = partial(Option, rich_help_panel="Protocols")
Serving = partial(Option, rich_help_panel="Server")


@dataclass(frozen=True)
class ModelFlags:
    """The flags of commands that load a model, as typed."""

    model: Annotated[
        str | None, Model(help="A folder or a hub id; else the embedded model, which draws 64 x 64 pixels.")
    ] = None
    prior: Annotated[str | None, Model(help="Its prior, where it is not found by itself.")] = None
    device: Annotated[str | None, Model(help="auto, cpu, cuda, cuda:1 or mps.")] = None
    dtype: Annotated[str | None, Model(help="auto, float32, float16 or bfloat16.")] = None
    variant: Annotated[str | None, Model(help="Weight files, such as fp16.")] = None
    revision: Annotated[str | None, Model(help="A branch, tag or commit of the hub.")] = None
    behaviour: Annotated[str | None, Model(help="Which published way to run it, such as head-2023.")] = None
    lora: Annotated[
        list[str] | None, Model(metavar="[NAME=]SOURCE[:SCALE]", help="An adapter (LoRA), such as few-step; repeat it.")
    ] = None
    words: Annotated[list[str] | None, Model(metavar="FILE", help="Learned words (textual inversion); repeat it.")] = (
        None
    )
    offload: Annotated[str | None, Model(help="CPU offload for little memory: auto, none, parts or layers.")] = None
    quantize: Annotated[str | None, Model(help="Weights in int8 or int4.")] = None
    prompt_cache: Annotated[
        Path | None, Model(metavar="FOLDER", help="Keep encoded texts in a folder for the next time.")
    ] = None
    tiling: Annotated[bool | None, Model(help="Code images in strips, for less memory; large ones always.")] = None
    compile: Annotated[bool | None, Model(help="Run the U-Net by torch.compile: for many images on a GPU.")] = None
    backend: Annotated[str | None, Model(help="mindspore: what runs the networks, for models that it has.")] = None
    quiet: Annotated[bool, Output("--quiet", "-q", help="Errors only.")] = False
    verbose: Annotated[bool, Output("--verbose", "-v", help="Say what is loaded and drawn, and how long it takes.")] = (
        False
    )


@dataclass(frozen=True)
class Flags(ModelFlags):
    """The flags of `kandinsky generate`, as typed, but those that are fields of the request."""

    prompts: Annotated[
        list[str] | None,
        Argument(
            metavar="PROMPT",
            help="What to draw; several make several images. - is stdin, a .txt or .csv file holds many.",
        ),
    ] = None
    mix: Annotated[
        list[str] | None,
        Option(metavar="TEXT_OR_FILE:WEIGHT", help="A part of a mix; repeat it.", rich_help_panel="Prompt"),
    ] = None
    output: Annotated[
        str | None,
        Output(
            "--output",
            "-o",
            metavar="PLACE",
            help="A .png, .jpg or .webp file, a folder/, a pattern with {prompt}, {seed}, {index}, or - for stdout.",
        ),
    ] = None
    overwrite: Annotated[bool, Output("--overwrite", help="Replace files that are there.")] = False
    size: Annotated[
        str | None, Option(metavar="WxH", help="Both sides in pixels, such as 96x64.", rich_help_panel="Steering")
    ] = None
    repeat: Annotated[
        str | None,
        Output("--from", metavar="IMAGE", help="Repeat this image, ours or another tool's; flags change it."),
    ] = None
    preview: Annotated[bool, Output("--preview", help="Keep a preview file up to date.")] = False
    batch_size: Annotated[int | None, Output(min=1, help="How many images are drawn at once.")] = None
    grid: Annotated[bool, Output("--grid", help="Write one labelled sheet instead of single images.")] = False
    xy: Annotated[
        tuple[str, str] | None,
        Output(metavar="X=A,B,... Y=C,D,...", help="Write one sheet: a column for each X, a row for each Y."),
    ] = None
    as_json: Annotated[bool, Output("--json", help="Print a line of JSON for each image.")] = False
    requests: Annotated[Path | None, Option(hidden=True)] = None


@dataclass(frozen=True, kw_only=True)
class BatchFlags(ModelFlags):
    """The flags of `kandinsky batch`, as typed, but those that are fields of the request."""

    list: Annotated[Path, Argument(metavar="REQUESTS", help="A .jsonl, .csv, .txt or COCO .json file; - for stdin.")]
    out: Annotated[
        str, Argument(metavar="OUT", help="The folder of images, its store and its manifest; or an address (s3://...).")
    ]
    format: Annotated[str, Output(help="png, jpg or webp.")] = "png"
    shards: Annotated[int, Output(min=0, metavar="ROWS", help="Into WebDataset shards of so many rows.")] = 0
    batch_size: Annotated[int | None, Output(min=1, help="How many images are drawn at once.")] = None
    workers: Annotated[int, Output(min=1, help="How many processes draw, each on a GPU of its own.")] = 1
    ray: Annotated[str | None, Output(metavar="ADDRESS", help="On a Ray cluster; local starts one here.")] = None
    ledger: Annotated[Path | None, Output(metavar="DIR", help="The folder of the store, where OUT is an address.")] = (
        None
    )
    limit: Annotated[int | None, Output(min=1, metavar="ROWS", help="The first rows only.")] = None
    retry_failed: Annotated[bool, Output("--retry-failed", help="Draw rows again that failed.")] = False
    dry_run: Annotated[bool, Output("--dry-run", help="Check the rows and say what would be done.")] = False


@dataclass(frozen=True, kw_only=True)
class ServeFlags(ModelFlags):
    """The flags of `kandinsky serve`, as typed."""

    host: Annotated[str, Serving(help="The address to listen at; one that others reach needs a token.")] = "127.0.0.1"
    port: Annotated[int, Serving(min=1, max=65535, help="The port to listen at.")] = 8000
    data: Annotated[Path, Serving(metavar="DIR", help="Where jobs and images are kept.")] = Path("kandinsky-data")
    token: Annotated[
        list[str] | None, Serving(metavar="[NAME=]TOKEN", help="Who may come in; repeat it, or set KANDINSKY_TOKEN.")
    ] = None
    allow_host: Annotated[list[str] | None, Serving(metavar="NAME", help="A host name to answer to; repeat it.")] = None
    fetch_from: Annotated[
        list[str] | None, Serving(metavar="HOST", help="Whose images edits may name by https; repeat it.")
    ] = None
    batch_size: Annotated[int | None, Serving(min=1, help="How many images are drawn at once.")] = None
    webhook: Annotated[
        str | None, Serving(metavar="URL", help="Told when a batch ends; KANDINSKY_WEBHOOK_SECRET signs that.")
    ] = None
    log: Annotated[Literal["text", "json"], Serving(help="How lines of the log look.")] = "text"
    log_prompts: Annotated[bool, Serving("--log-prompts", help="Write prompts into the log.")] = False
    drain: Annotated[
        float | None, Serving(min=0, max=3600, metavar="SECONDS", help="For what has begun when it is stopped.")
    ] = None
    keep_uploads: Annotated[
        float | None, Serving(min=0.1, metavar="DAYS", help="How long images that no job needs are kept.")
    ] = None
    most_uploads: Annotated[
        float | None,
        Serving(min=0.001, metavar="GB", help="How much images that were sent may fill; so may /v1/files."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class EvaluateFlags(ModelFlags):
    """The flags of `kandinsky evaluate`, as typed, but those that are fields of the request."""

    images: Annotated[Path | None, Argument(metavar="IMAGES", help="A folder of images, or what a batch left.")] = None
    metrics: Annotated[
        str | None, Measure(help="Of fid, kid, precision, recall, inception and clip, with commas between.")
    ] = None
    reference: Annotated[Path | None, Measure(metavar="DIR|STATS.npz", help="Real images, or their statistics.")] = None
    resize: Annotated[Literal["clean", "tensorflow"], Measure(help="How images get the network's size.")] = "clean"
    crop: Annotated[int | None, Measure(min=8, metavar="SIDE", help="Cut centred squares of that side first.")] = None
    clip: Annotated[str, Measure(metavar="MODEL", help="A checkpoint, or open_clip:MODEL/PRETRAINED.")] = "emoji"
    inception: Annotated[Path | None, Measure(metavar="FILE", help="A TorchScript of the whole network.")] = None
    save_stats: Annotated[Path | None, Measure(metavar="FILE.npz", help="Keep the statistics of the images.")] = None
    limit: Annotated[int | None, Measure(min=1, help="The first images, or so many captions.")] = None
    out: Annotated[Path | None, Measure(metavar="FILE.json|DIR", help="For the report; the folder of a protocol.")] = (
        None
    )
    protocol: Annotated[Literal["coco30k"] | None, Protocol(help="Draw, then measure as papers do.")] = None
    coco_captions: Annotated[Path | None, Protocol(metavar="FILE.json", help="Such as captions_val2014.json.")] = None
    coco_images: Annotated[Path | None, Protocol(metavar="DIR", help="The images of the captions.")] = None
    coco_rule: Annotated[
        Literal["all", "matched"], Protocol(help="Compare with all images, or with those of the captions drawn.")
    ] = "all"
    sweep: Annotated[str | None, Protocol(metavar="FIELD=A,B,...", help="Such as guidance_scale=1,2,4,8.")] = None
    batch_size: Annotated[int | None, Protocol(min=1, help="How many images are drawn at once.")] = None
    workers: Annotated[int, Protocol(min=1, help="How many processes draw.")] = 1
    ray: Annotated[str | None, Protocol(metavar="ADDRESS", help="On a Ray cluster; local starts one here.")] = None


@dataclass(frozen=True, kw_only=True)
class InterpolateFlags(ModelFlags):
    """The flags of `kandinsky interpolate`, as typed, but those that are fields of the request."""

    ends: Annotated[list[str], Argument(metavar="A B...", help="Texts or image files, in their order.")]
    output: Annotated[
        str, Output("--output", "-o", metavar="FILM", help="A .gif, .webp or .mp4 file, or a folder/ of frames.")
    ]
    frames: Annotated[int, Output(min=2, help="Images from each to the next, both counted.")] = 24
    fps: Annotated[float, Output(min=0.1, help="Images a second.")] = 12.0
    bounce: Annotated[bool, Output("--bounce", help="Go there and back again.")] = False
    overwrite: Annotated[bool, Output("--overwrite", help="Replace a film that is there.")] = False
    batch_size: Annotated[int | None, Output(min=1, help="How many images are drawn at once.")] = None
