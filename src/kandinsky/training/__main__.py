"""`python -m kandinsky.training CONFIG`, which `accelerate launch -m` starts once a GPU."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from kandinsky.core.errors import KandinskyError
from kandinsky.training import events, run_config
from kandinsky.training.distributed import launched, leave

FAILED, STOPPED = 1, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a configuration and prints what happens, from the first process; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m kandinsky.training", description="Run a training configuration.")
    parser.add_argument("config", type=Path, help="a TOML file")
    parser.add_argument("--data", help="the folder of images and captions")
    parser.add_argument("--out", help="where checkpoints, losses and samples go")
    parser.add_argument("--device", help="cpu or cuda")
    parser.add_argument("--resume", action="store_true", help="continue where it stopped")
    given = parser.parse_args(arguments)
    changes = {name: getattr(given, name) for name in ("out", "device") if getattr(given, name)}
    changes |= {"data": {"folder": given.data}} if given.data else {}
    stopped = False
    try:
        for event in run_config(given.config, resume=given.resume, overrides=changes):
            stopped = isinstance(event, events.Stopped)
            if launched().first and (line := _line(event)):
                sys.stdout.write(f"{line}\n")
                sys.stdout.flush()
    except KandinskyError as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED
    finally:
        leave()
    return STOPPED if stopped else 0


def _line(event: events.Event) -> str:
    match event:
        case events.Progress(stage=stage, step=step, losses=losses) if losses:
            return f"{stage} step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in losses.items())
        case events.Saved(path=path) | events.Sampled(path=path) | events.Exported(path=path):
            return str(path)
        case events.LearnsFrom(stage=stage):
            return f"{stage} {event.line}"
        case events.Warned(message=message):
            return f"warning: {message}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
