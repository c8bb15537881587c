"""The command `kandinsky`: flags and help. What a command does is imported when it runs: help is quick."""

import inspect
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option
from typer.core import TyperCommand

from kandinsky.cli.console import interruptible, report, say
from kandinsky.core.errors import KandinskyError

FAILED = 1
DEBUG = "--debug"

app = typer.Typer(
    name="kandinsky",
    help="Draw, edit and mix images with the Kandinsky models, and train them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = partial(Option, rich_help_panel="Model")
Output = partial(Option, rich_help_panel="Output")
Tuning = partial(Option, rich_help_panel="Fine-tuning")
FIELDS = "kandinsky.request"
"""Where the context of a command holds the typed fields of the request."""


def _version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def main(
    _version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
    _debug: Annotated[bool, Option(DEBUG, help="Show where an error came from. Works anywhere.")] = False,
) -> None:
    """Draw, edit and mix images with the Kandinsky models, and train them."""


@dataclass(frozen=True)
class Flags:
    """The flags of `kandinsky generate`, as typed, but those that are fields of the request."""

    prompts: Annotated[
        list[str] | None, Argument(metavar="[PROMPT]...", help="What to draw; several prompts make several images.")
    ] = None
    mix: Annotated[
        list[str] | None,
        Option(metavar="TEXT_OR_FILE:WEIGHT", help="A part of a mix; repeat it.", rich_help_panel="Prompt"),
    ] = None
    model: Annotated[str | None, Model(help="A folder or a hub id; else the embedded model.")] = None
    prior: Annotated[str | None, Model(help="Its prior, where it is not found by itself.")] = None
    device: Annotated[str | None, Model(help="cpu, cuda or mps.")] = None
    dtype: Annotated[str | None, Model(help="float32, float16 or bfloat16.")] = None
    variant: Annotated[str | None, Model(help="Weight files, such as fp16.")] = None
    revision: Annotated[str | None, Model(help="A branch, tag or commit of the hub.")] = None
    behaviour: Annotated[str | None, Model(help="Which published way to run it, such as head-2023.")] = None
    lora: Annotated[list[str] | None, Model(metavar="SOURCE[:SCALE]", help="An adapter; repeat it.")] = None
    words: Annotated[list[str] | None, Model(metavar="FILE", help="Learned words; repeat it.")] = None
    offload: Annotated[str | None, Model(help="Little memory: auto, none, parts or layers.")] = None
    quantize: Annotated[str | None, Model(help="Weights in int8 or int4.")] = None
    prompt_cache: Annotated[Path | None, Model(metavar="FOLDER", help="Where to keep texts once read.")] = None
    tiling: Annotated[bool | None, Model(help="Code images in strips, for less memory; large ones always.")] = None
    compile: Annotated[bool | None, Model(help="Run the U-Net by torch.compile: for many images on a GPU.")] = None
    output: Annotated[Path | None, Output("--output", "-o", help="A .png, .jpg or .webp file, or a folder.")] = None
    repeat: Annotated[Path | None, Output("--from", metavar="IMAGE", help="Repeat this image; flags change it.")] = None
    requests: Annotated[Path | None, Output(metavar="FILE.jsonl", help="A request a line, into the folder -o.")] = None
    batch_size: Annotated[int | None, Output(help="How many of the requests are drawn at once.")] = None
    preview: Annotated[bool, Output("--preview", help="Keep a preview file up to date.")] = False
    quiet: Annotated[bool, Output("--quiet", "-q", help="Errors only.")] = False


class GenerateCommand(TyperCommand):
    """A command that has a flag for each field of the request, made when its flags are first looked at."""

    _own: list[Any]
    _all: list[Any] | None

    @property
    def params(self) -> list[Any]:
        """The parameters, those of the request in front of the model's."""
        if self._all is None:
            prompt, mix, *others = self._own
            self._all = [prompt, mix, *_request_flags(), *others]
        return self._all

    @params.setter
    def params(self, own: list[Any]) -> None:
        self._own, self._all = own, None

    def invoke(self, ctx: Any) -> object:
        """Runs the command; the fields of the request that were typed are in the context's `meta`."""
        own = [parameter.name for parameter in self._own]
        fields = {name: ctx.params.pop(name) for name in list(ctx.params) if name not in own}
        ctx.meta[FIELDS] = {name: value for name, value in fields.items() if value is not None}
        return super().invoke(ctx)


def _request_flags() -> list[Any]:
    """A flag for each field of a request, from its declaration."""
    from kandinsky.core.requests import about

    def flags(**given: object) -> None:
        """Takes the flags."""

    flags.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=Option(None, *said.names, help=said.help, metavar=said.metavar, rich_help_panel=said.group),
                annotation=said.type,
            )
            for name, said in about().items()
            if name != "prompt"
        ]
    )
    made = typer.Typer(add_completion=False)
    made.command(add_help_option=False)(flags)
    return typer.main.get_command(made).params


def generate(context: typer.Context, **given: object) -> None:
    """Draw images, change them, or repeat one from its file."""
    flags = Flags(**given)  # type: ignore[arg-type]
    if not (flags.prompts or flags.mix or flags.repeat or flags.requests):
        raise typer.BadParameter("say what to draw, such as 'a red apple'", param_hint="PROMPT")
    if flags.batch_size is not None and flags.requests is None:
        raise typer.BadParameter("goes with --requests: other images are drawn one by one")
    fields = context.meta[FIELDS]
    if flags.requests is None:
        from kandinsky.cli import generate as command

        command.generate(flags, fields)
        return
    from kandinsky.cli import requests_file

    requests_file.generate(flags, flags.requests, fields)


generate.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *inspect.signature(Flags).parameters.values(),
    ]
)
app.command(cls=GenerateCommand)(interruptible(generate))


@app.command()
@interruptible
def models(as_json: Annotated[bool, Option("--json", help="For programs.")] = False) -> None:
    """List the models that are on this machine, with their sizes."""
    from kandinsky.cli import models as command

    command.show(as_json=as_json)


@app.command()
@interruptible
def doctor(as_json: Annotated[bool, Option("--json", help="For programs.")] = False) -> None:
    """Say what this machine is and what it can run."""
    from kandinsky.cli import doctor as command

    command.show(as_json=as_json)


@app.command()
@interruptible
def train(
    config: Annotated[
        Path | None, Argument(metavar="[CONFIG]", help="The run to do: a TOML file, or a recipe.")
    ] = None,
    recipe: Annotated[str | None, Option(help="A run that came with this package.")] = None,
    list_recipes: Annotated[bool, Option("--list", help="Show the runs that came with this package.")] = False,
    method: Annotated[str | None, Tuning(help="lora, dreambooth, textual_inversion, full or distill.")] = None,
    init: Annotated[str | None, Tuning(metavar="METHOD", help="Write a commented CONFIG.toml.")] = None,
    model: Annotated[str | None, Tuning(help="The checkpoint to begin with.")] = None,
    prior: Annotated[str | None, Tuning(help="Its prior.")] = None,
    target: Annotated[str | None, Tuning(help="decoder, prior or both.")] = None,
    token: Annotated[str | None, Tuning(help="The new word.")] = None,
    init_from: Annotated[str | None, Tuning(help="A known word it begins as.")] = None,
    prompt: Annotated[str | None, Tuning(help="The subject's name.")] = None,
    class_prompt: Annotated[str | None, Tuning(help="The name of its class.")] = None,
    hints: Annotated[
        str | None, Tuning(metavar="FOLDER|edges", help="Hint images that the decoder learns to follow.")
    ] = None,
    size: Annotated[int | None, Tuning(help="Of images, in pixels.")] = None,
    steps: Annotated[int | None, Tuning(help="How many.")] = None,
    data: Annotated[Path | None, Option(help="The folder of images and captions.")] = None,
    out: Annotated[Path | None, Option(help="Where checkpoints, losses and samples go.")] = None,
    resume: Annotated[bool, Option("--resume", help="Continue where it stopped.")] = False,
    export_only: Annotated[bool, Option("--export-only", help="Only write the newest checkpoints as a model.")] = False,
    plan: Annotated[bool, Tuning("--plan", help="Only count the memory that a step takes.")] = False,
    seed: Annotated[int | None, Option(help="Of everything random in it.")] = None,
    device: Annotated[str | None, Option(help="cpu or cuda.")] = None,
    threads: Annotated[int | None, Option(help="Of the CPU.")] = None,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Errors only.")] = False,
) -> None:
    """Train networks, or fine-tune a checkpoint, as a file, a recipe or a method says."""
    from kandinsky.cli import train as command

    if list_recipes:
        command.list_recipes()
        return
    if init is not None:
        say(str(command.write_template(init, out)))
        return
    if sum(given is not None for given in (config, recipe, method)) != 1:
        raise typer.BadParameter("give one of CONFIG.toml, --recipe NAME and --method METHOD", param_hint="CONFIG.toml")
    words = {"token": token, "init_from": init_from, "prompt": prompt, "class_prompt": class_prompt}
    if method is not None:
        command.check_method(method, {"data": data, **words})
    run_of = {"data": data, "out": out, "seed": seed, "device": device, "threads": threads}
    changes = command.overrides(
        hints, **run_of, **words, model=model, prior=prior, size=size, steps=steps, target=target
    )
    if command.processes() > 1 and not plan:
        raise typer.Exit(command.launch(command.processes(), sys.argv[1:]))
    path = command.source(config, recipe or method)
    if plan:
        command.show_plan(path, changes)
    elif export_only:
        command.export(path, changes)
    else:
        command.train(path, changes, resume=resume, quiet=quiet)


@app.command()
@interruptible
def convert(
    source: Annotated[str, Argument(metavar="SOURCE|CONFIG", help="A folder or hub id in either layout, or a run.")],
    dest: Annotated[Path, Argument(metavar="DEST|INPUT", help="The new folder, or a run's result.")],
    output: Annotated[Path | None, Argument(metavar="[OUTPUT]", help="The new folder, after CONFIG and INPUT.")] = None,
    to: Annotated[str | None, Option(help="The layout to write: diffusers or original.")] = None,
    save_keys: Annotated[list[str] | None, Option(help="Of a run: unet, prior or text_encoder; repeat it.")] = None,
    colossalai: Annotated[bool, Option("--colossalai", help="INPUT is a folder of shards with their index.")] = False,
    prior: Annotated[str | None, Option(help="Its prior, to be written into the same folder.")] = None,
    variant: Annotated[str | None, Option(help="Which weight files, such as fp16 or inpainting.")] = None,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Errors only.")] = False,
) -> None:
    """Write a model in the other layout, or networks of a run (CONFIG INPUT OUTPUT) as components."""
    from kandinsky.cli import convert as command

    if (output is None) == (to is None):
        raise typer.BadParameter("give SOURCE DEST --to LAYOUT, or CONFIG INPUT OUTPUT", param_hint="OUTPUT")
    if output is not None:
        command.components(source, dest, output, save_keys or ["unet"], sharded=colossalai, quiet=quiet)
        return
    assert to is not None
    command.convert(source, dest, to, prior=prior, variant=variant, quiet=quiet)


@app.command()
def version() -> None:
    """Show the version."""
    from kandinsky.core.metadata import library_version

    say(f"kandinsky {library_version()}")


def run(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line and ends the process: 0 done, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.

    An error of this library becomes one line on stderr; with --debug anywhere before a `--`, its traceback too.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    own = given[: given.index("--")] if "--" in given else given
    debug = DEBUG in own
    if debug:
        given.remove(DEBUG)
    try:
        app(given, prog_name="kandinsky")
    except KandinskyError as error:
        if debug:
            raise
        report(error)
        sys.exit(FAILED)


def program() -> None:
    """Runs the command line as a process of its own.

    Images are written when `generate` ends, so that the interpreter is not taken apart then: with torch in
    it that takes as long as a third of its import.
    """
    try:
        run()
    except SystemExit as ended:
        if sys.argv[1:2] == ["generate"] and (ended.code is None or isinstance(ended.code, int)):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code or 0)
        raise
