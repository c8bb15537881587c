"""The command `kandinsky`: flags and help. What a command does is imported when it runs: help is quick."""

import inspect
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from kandinsky.cli import settings
from kandinsky.cli.commands import Commands, OnceCommand, UsageError
from kandinsky.cli.console import any_letter, interruptible, report, say, verbose
from kandinsky.cli.flags import BatchFlags, EvaluateFlags, Flags, InterpolateFlags, ModelFlags, ServeFlags
from kandinsky.core.errors import KandinskyError

FAILED = 1
DEBUG = "--debug"

app = typer.Typer(
    name="kandinsky",
    help="Draw, edit and mix images with the Kandinsky models, and train them.",
    no_args_is_help=True,
    cls=Commands,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Tuning = partial(Option, rich_help_panel="Fine-tuning")
FIELDS, TYPED = "kandinsky.request", "kandinsky.typed"
"""Where the context of a command holds the fields of the request that were given, and the names that were typed."""


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


class RequestCommand(OnceCommand):
    """A command that has a flag for each field of the request, made when its flags are first looked at.

    What is not typed comes from variables `KANDINSKY_*`, then from the configuration file.
    """

    _own: list[Any]
    _all: list[Any] | None

    @property
    def params(self) -> list[Any]:
        """The parameters, those of the request in front of the model's."""
        if self._all is None:
            first, second, *others = self._own
            self._all = [first, second, *_request_flags(), *others]
            for parameter in self._all:
                if settings.is_configurable(parameter.name):
                    parameter.envvar, parameter.show_envvar = settings.variable(parameter.name), False
        return self._all

    @params.setter
    def params(self, own: list[Any]) -> None:
        self._own, self._all = own, None

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Reads the command line; a flag that another tool has is answered with ours."""
        extra["default_map"] = settings.defaults(str(info_name), self.params)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except UsageError as error:
            name = str(getattr(error, "option_name", "")).lstrip("-").replace("-", "_")
            if name and (hint := settings.flag_hint(name)):
                error.message = f"{error.message}. {hint}"  # type: ignore[attr-defined]
            raise

    def invoke(self, ctx: Any) -> object:
        """Runs the command; the fields of the request that were given are in the context's `meta`, and which of all
        parameters were typed."""
        own = [parameter.name for parameter in self._own]
        typed = {name for name in ctx.params if getattr(ctx.get_parameter_source(name), "name", "") == "COMMANDLINE"}
        fields = {name: ctx.params.pop(name) for name in list(ctx.params) if name not in own}
        ctx.meta[FIELDS] = {name: value for name, value in fields.items() if value is not None}
        ctx.meta[TYPED] = typed
        return super().invoke(ctx)


def _request_flags() -> list[Any]:
    """A flag for each field of a request, from its declaration."""
    from kandinsky.core.requests import about
    from kandinsky.core.signatures import limits_of

    def flags(**given: object) -> None:
        """Takes the flags."""

    flags.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=Option(
                    None,
                    *said.names,
                    help=f"{said.help}{limits_of(name)}",
                    metavar=said.metavar,
                    rich_help_panel=said.group,
                ),
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
    if flags.requests is not None:
        raise typer.BadParameter(f"--requests is now a command: kandinsky batch {flags.requests} FOLDER")
    if not (flags.prompts or flags.mix or flags.repeat):
        raise typer.BadParameter("say what to draw, such as 'a red apple'", param_hint="PROMPT")
    from kandinsky.cli import generate as command

    command.generate(flags, context.meta[FIELDS], context.meta[TYPED])


def batch(context: typer.Context, **given: object) -> None:
    """Draw a list of requests into a folder; run again, it goes on where it stopped."""
    from kandinsky.cli import batch as command

    if not command.batch(BatchFlags(**given), context.meta[FIELDS]):  # type: ignore[arg-type]
        raise typer.Exit(FAILED)


def evaluate(context: typer.Context, **given: object) -> None:
    """Measure images: how far from real ones they are, how well they show their captions; or a model as papers do."""
    from kandinsky.cli import evaluate as command

    command.evaluate(EvaluateFlags(**given), context.meta[FIELDS])  # type: ignore[arg-type]


def interpolate(context: typer.Context, **given: object) -> None:
    """Draw a film from one text or image to the next, through mixes of them."""
    from kandinsky.cli import interpolate as command

    command.interpolate(InterpolateFlags(**given), context.meta[FIELDS])  # type: ignore[arg-type]


def serve(context: typer.Context, **given: object) -> None:
    """Answer requests over HTTP: the OpenAI Images API, and jobs that nothing loses."""
    from kandinsky.cli import serve as command

    command.serve(ServeFlags(**given))  # type: ignore[arg-type]


def _signature(flags: type[ModelFlags]) -> inspect.Signature:
    """The context, the command's own flags, then those of the model."""
    found = inspect.signature(flags).parameters
    own = [
        found[name] for name in (*flags.__annotations__, *(name for name in found if name not in flags.__annotations__))
    ]
    context = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    return inspect.Signature([context, *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own)])


def _talking(command: Callable[..., None]) -> Callable[..., None]:
    """Shows the library's log where --verbose is given."""

    def talking(context: typer.Context, **given: object) -> None:
        if given.get("verbose"):
            verbose()
        command(context, **given)

    talking.__name__, talking.__doc__ = command.__name__, command.__doc__
    return talking


for _command, _flags in (
    (generate, Flags),
    (batch, BatchFlags),
    (interpolate, InterpolateFlags),
    (evaluate, EvaluateFlags),
):
    _run = interruptible(_talking(_command))
    _run.__signature__ = _signature(_flags)  # type: ignore[attr-defined]
    app.command(cls=RequestCommand)(_run)
_run = interruptible(_talking(serve))
_run.__signature__ = _signature(ServeFlags)  # type: ignore[attr-defined]
app.command(cls=OnceCommand)(_run)


@app.command(cls=OnceCommand)
@interruptible
def show(
    image: Annotated[Path, Argument(metavar="IMAGE", help="Of this library, A1111 and its kin, ComfyUI or InvokeAI.")],
    as_json: Annotated[bool, Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Print what the file of an image says of how it was made."""
    from kandinsky.cli import show as command

    command.show(image, as_json=as_json)


@app.command()
@interruptible
def config(
    as_json: Annotated[bool, Option("--json", help="Print JSON, for programs.")] = False,
    init: Annotated[bool, Option("--init", help="Write a commented file to begin with.")] = False,
) -> None:
    """Show the settings that are not typed: from variables KANDINSKY_*, then from the configuration file."""
    if init:
        say(str(settings.write_template()))
    else:
        settings.show(as_json=as_json)


models_app = typer.Typer(invoke_without_command=True, help="List, fetch, verify and remove models on this machine.")
app.add_typer(models_app, name="models")


@models_app.callback()
@interruptible
def models(
    context: typer.Context, as_json: Annotated[bool, Option("--json", help="Print JSON, for programs.")] = False
) -> None:
    """List the models that are on this machine, with their sizes; or fetch, verify, find and remove them."""
    if context.invoked_subcommand is None:
        from kandinsky.cli import models as command

        command.show(as_json=as_json)


@models_app.command()
@interruptible
def pull(
    model: Annotated[str, Argument(metavar="MODEL", help="A hub id.")],
    prior: Annotated[str | None, Option(help="Its prior, where it is not found by itself.")] = None,
    variant: Annotated[str | None, Option(help="Weight files, such as fp16.")] = None,
    revision: Annotated[str | None, Option(help="A branch, tag or commit of the hub.")] = None,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Errors only.")] = False,
) -> None:
    """Download a model with its prior, so that it loads without a network."""
    from kandinsky.cli import models as command

    command.pull(model, prior, variant, revision, quiet=quiet)


@models_app.command()
@interruptible
def verify(model: Annotated[str | None, Argument(metavar="MODEL", help="One of the list; else all.")] = None) -> None:
    """Compare the files of models with the sums that the hub gave them."""
    from kandinsky.cli import models as command

    if not command.verify(model):
        raise typer.Exit(FAILED)


@models_app.command()
@interruptible
def rm(
    model: Annotated[str, Argument(metavar="MODEL", help="One of the list.")],
    yes: Annotated[bool, Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a downloaded model from this machine."""
    from kandinsky.cli import models as command

    command.remove(model, yes=yes)


@models_app.command()
@interruptible
def where(model: Annotated[str | None, Argument(metavar="MODEL", help="One of the list.")] = None) -> None:
    """Print the folder of a model, or the one in which downloaded models are."""
    from kandinsky.cli import models as command

    command.where(model)


@app.command()
@interruptible
def doctor(as_json: Annotated[bool, Option("--json", help="Print JSON, for programs.")] = False) -> None:
    """Say what this machine is and what it can run."""
    from kandinsky.cli import doctor as command

    command.show(as_json=as_json)


@app.command(cls=OnceCommand)
@interruptible
def train(
    config: Annotated[Path | None, Argument(metavar="CONFIG", help="The run to do: a TOML file, or a recipe.")] = None,
    recipe: Annotated[str | None, Option(help="A run that came with this package.")] = None,
    list_recipes: Annotated[bool, Option("--list", help="Show the runs that came with this package.")] = False,
    method: Annotated[str | None, Tuning(help="lora, dreambooth, textual_inversion, full or distill.")] = None,
    init: Annotated[str | None, Tuning(metavar="METHOD", help="Write a commented CONFIG.toml.")] = None,
    model: Annotated[str | None, Tuning(help="The checkpoint to begin with.")] = None,
    prior: Annotated[str | None, Tuning(help="The prior of that checkpoint, where it is not found by itself.")] = None,
    target: Annotated[str | None, Tuning(help="decoder, prior or both.")] = None,
    token: Annotated[str | None, Tuning(help="The new word.")] = None,
    init_from: Annotated[str | None, Tuning(help="A known word it begins as.")] = None,
    prompt: Annotated[str | None, Tuning(help="The subject's name.")] = None,
    class_prompt: Annotated[str | None, Tuning(help="The name of its class.")] = None,
    hints: Annotated[
        str | None, Tuning(metavar="FOLDER|edges", help="Hint images that the decoder learns to follow.")
    ] = None,
    size: Annotated[int | None, Tuning(help="Pixels along a side of the images that are learned from.")] = None,
    steps: Annotated[int | None, Tuning(help="Steps of training.")] = None,
    data: Annotated[Path | None, Option(help="The folder of images and captions.")] = None,
    out: Annotated[Path | None, Option(help="Where checkpoints, losses and samples go.")] = None,
    resume: Annotated[bool, Option("--resume", help="Continue where it stopped.")] = False,
    export_only: Annotated[bool, Option("--export-only", help="Only write the newest checkpoints as a model.")] = False,
    plan: Annotated[bool, Tuning("--plan", help="Only count the memory that a step takes.")] = False,
    seed: Annotated[int | None, Option(help="The seed of everything random in the run.")] = None,
    device: Annotated[str | None, Option(help="cpu or cuda.")] = None,
    threads: Annotated[int | None, Option(help="Threads of the CPU.")] = None,
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
        command.check_method(method, {"data": data, **words}, planned=plan)
    run_of = {"data": data, "out": out, "seed": seed, "device": device, "threads": threads}
    changes = command.overrides(
        hints, **run_of, **words, model=model, prior=prior, size=size, steps=steps, target=target
    )
    if command.processes() > 1 and not plan:
        raise typer.Exit(command.launch(command.processes(), sys.argv[1:]))
    path = command.source(config, recipe or method)
    with command.flags_named(changes):
        if plan:
            command.show_plan(path, changes)
        elif export_only:
            command.export(path, changes)
        else:
            command.train(path, changes, resume=resume, quiet=quiet)


@app.command(cls=OnceCommand)
@interruptible
def convert(
    source: Annotated[str, Argument(metavar="SOURCE|CONFIG", help="A folder or hub id in either layout, or a run.")],
    dest: Annotated[Path, Argument(metavar="DEST|INPUT", help="The new folder, or a run's result.")],
    output: Annotated[Path | None, Argument(metavar="OUTPUT", help="The new folder, after CONFIG and INPUT.")] = None,
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


@app.command("help", hidden=True)
def help_(command: Annotated[str | None, Argument(metavar="COMMAND")] = None) -> None:
    """Show what there is, or how a command is used."""
    app([*([] if command is None else [command]), "--help"], prog_name="kandinsky")


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
    any_letter()
    try:
        run()
    except SystemExit as ended:
        if sys.argv[1:2] == ["generate"] and (ended.code is None or isinstance(ended.code, int)):
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(ended.code or 0)
        raise
