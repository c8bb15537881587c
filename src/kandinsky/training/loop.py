"""The one training loop: a stream of events that can be stopped and resumed exactly."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kandinsky.core.errors import CheckpointError, ConfigError, KandinskyError
from kandinsky.training import events
from kandinsky.training.checkpoint import (
    Checkpoint,
    LearnerValues,
    RunValues,
    newest,
    random_state,
    restore_random_state,
    save,
)
from kandinsky.training.config.run import Stage
from kandinsky.training.data.samplers import EpochSampler, Order
from kandinsky.training.image_grid import write_grid
from kandinsky.training.learner import Learner, shards
from kandinsky.training.logs import LossLog
from kandinsky.training.run_folder import CHECKPOINTS
from kandinsky.training.seeds import generator, seed_globals
from kandinsky.training.task import StepContext, Task, TrainState


def train(run: TrainState) -> Iterator[events.Event]:
    """Trains until the stage's limit and yields what happens; closing the generator stops without saving.

    The first SIGINT saves and ends the stream with `Stopped`; a second one is the usual KeyboardInterrupt.
    Raises ConfigError when the folder already holds a run and `resume` is not set, KandinskyError
    when a loss is not finite (checkpoints up to then are kept), OutputError when nothing can be written.
    """
    stage = run.stage
    run.folder.mkdir(parents=True, exist_ok=True)
    run.world.wait()
    found = newest(run.folder / CHECKPOINTS)
    run.world.wait()
    if (found.checkpoint or found.refused) and not run.resume:
        raise ConfigError(
            f"{run.folder} already holds a run.",
            "Continue it with --resume, or choose another folder with --out (`out`).",
        )
    for message in found.refused:
        yield events.Warned(f"{message} The one before it is used.")
    live = _Live(run)
    if shards(stage, run.world) and not live.sharded:
        yield events.Warned(
            f"Stage {stage.name!r} has no network that learns as a whole: each process keeps all of them."
        )
    log_size = live.restore(found.checkpoint) if found.checkpoint else 0
    count = sum(value.numel() for learner in live.learners for value in learner.parameters.values())
    yield events.Started(stage.name, live.step, stage.max_steps, count)
    with ExitStack() as stack:
        log = stack.enter_context(LossLog(run.folder, log_size, live.step)) if run.world.first else None
        yield from live.go(log, stack.enter_context(_interruptible()))
    run.world.wait()
    if live.done:
        yield events.Finished(stage.name, live.step, run.folder, live.losses)
    else:
        yield events.Stopped(stage.name, live.step, "interrupted")


def progress(stage: Stage, step: int, seconds: float) -> float:
    """How much of a stage is done, in [0, 1]: by its steps when they are limited, else by its time."""
    if stage.max_steps is not None:
        return min(1.0, step / stage.max_steps)
    return min(1.0, seconds / (60 * (stage.max_minutes or math.inf)))


def is_over(stage: Stage, step: int, seconds: float) -> bool:
    """Whether a stage has reached one of its limits."""
    out_of_time = stage.max_minutes is not None and seconds >= 60 * stage.max_minutes
    return out_of_time or (stage.max_steps is not None and step >= stage.max_steps)


def order_of(task: Task[Any], batch: int, seed: int) -> Order:
    """The order in which a task's examples come."""
    order = task.order or partial(EpochSampler, len(task.data))
    return order(batch, seed)


class _Live:
    """What changes while a run goes."""

    def __init__(self, run: TrainState) -> None:
        self.run, self.stage, self.task = run, run.stage, run.task
        seed_globals(run.seed)
        self.learners = [Learner(trainable, run.stage, run.device, run.world) for trainable in run.task.trainables]
        if run.task.extra is not None:
            run.task.extra.to(run.device)
        self.sampler = order_of(run.task, run.stage.batch, run.seed)
        self.position = self.sampler.state()
        self.step, self.seconds = 0, 0.0
        self.finished = False
        self.losses: dict[str, float] = {}
        self._finite = torch.ones((), dtype=torch.bool, device=run.device)

    @property
    def done(self) -> bool:
        return is_over(self.stage, self.step, self.seconds)

    def go(self, log: LossLog | None, interrupted: Callable[[], bool]) -> Iterator[events.Event]:
        """Steps until the end or an interruption; each ends with its events. Only one process has a log."""
        started_at, start_time = self.step, time.monotonic()
        saved_at = self.step if self.step else -1
        with ExitStack() as stack:
            feed = self._feed(stack)
            while not self._stops(interrupted):
                began = time.monotonic()
                batches, self.position = next(feed)
                values = self._update(batches)
                self.step += 1
                saving = self.step % self.stage.save_every == 0
                logging = self.step % self.stage.log_every == 0
                if logging or saving or self.run.device.type == "cpu":
                    self._check_finite()
                if logging:
                    self.losses = {name: float(value) for name, value in values.items()}
                    if log is not None:
                        log.write(self.step, self.losses)
                self.seconds += time.monotonic() - began
                yield self._progress(self.step - started_at, time.monotonic() - start_time)
                if log is None and not self.sharded:
                    continue
                if self.stage.sample_every and (self.step % self.stage.sample_every == 0 or self.done):
                    yield from self._show(log)
                if saving:
                    yield from self._save(log)
                    saved_at = self.step
        if saved_at != self.step or (self.done and not self.finished):
            self._check_finite()
            if log is not None or self.sharded:
                yield from self._save(log)

    def _stops(self, interrupted: Callable[[], bool]) -> bool:
        stop, self.seconds = self.run.world.agreed(interrupted(), self.seconds, self.run.device)
        return stop or self.done

    def restore(self, checkpoint: Checkpoint) -> int:
        """Continues from a checkpoint; returns how long the loss log was then. CheckpointError for one whose values are
        of another run, or damaged."""
        try:
            return self._restore(checkpoint)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
            raise CheckpointError(
                f"{checkpoint.path} cannot be continued from ({type(error).__name__}: {error}).",
                "Remove this checkpoint to continue from the one before it.",
            ) from error

    def _restore(self, checkpoint: Checkpoint) -> int:
        tensors, values = checkpoint.tensors, checkpoint.values
        for learner in self.learners:
            learner.restore(tensors, values["learners"][learner.trainable.name])
        if self.task.extra is not None:
            self.task.extra.load_state_dict(tensors["extra"])
        self.sampler.restore(values["data"])
        self.position = self.sampler.state()
        self.step, self.seconds = checkpoint.step, float(values["seconds"])
        self.losses = {str(name): float(value) for name, value in values["losses"].items()}
        self.finished = bool(values.get("finished", False))
        restore_random_state(tensors["random"], values["random"], self.run.device)
        return int(values["log_size"])

    @property
    def sharded(self) -> bool:
        """Whether networks are sharded: then all processes draw samples and gather checkpoints."""
        return any(learner.sharded is not None for learner in self.learners)

    def _save(self, log: LossLog | None) -> Iterator[events.Event]:
        """Saves a checkpoint, in the process that has the log."""
        tensors: dict[str, dict[str, Tensor]] = {}
        learners: dict[str, LearnerValues] = {}
        for learner in self.learners:
            parts, learners[learner.trainable.name] = learner.state()
            tensors |= parts
            if self.done:
                tensors |= learner.finished()
        if self.task.extra is not None:
            tensors["extra"] = self.task.extra.state_dict()
        tensors["random"], random_values = random_state(self.run.device)
        self.finished = self.done
        if log is None:
            return
        values: RunValues = {
            "finished": self.finished,
            "learners": learners,
            "data": self.position,
            "seconds": self.seconds,
            "losses": self.losses,
            "random": random_values,
            "log_size": log.synced_size(),
        }
        folder = self.run.folder / CHECKPOINTS
        path = save(folder, Checkpoint(self.step, tensors, values), self.stage.keep)
        yield events.Saved(self.stage.name, self.step, path)

    def _update(self, batches: list[object]) -> dict[str, Tensor]:
        """One optimiser step of every trainable; returns what to log, still on the device."""
        part = progress(self.stage, self.step, self.seconds)
        shared: list[dict[str, Tensor]] = [{} for _ in batches]
        first = self.run.world.rank * self.stage.accumulate
        values: dict[str, Tensor] = {}
        for number, learner in enumerate(self.learners):
            if self.step < learner.trainable.begins:
                continue
            draws = [self._draws("loss", first + micro, number) for micro in range(len(batches))]
            steps = [
                StepContext(batch, self.step, self.run.device, random, common)
                for batch, random, common in zip(batches, draws, shared, strict=True)
            ]
            others = [other for other in self.learners if other is not learner]
            losses = learner.update(steps, others, part, self.step)
            self._finite &= losses["loss"].isfinite() & losses["grad_norm"].isfinite()
            prefix = f"{learner.trainable.name}/" if len(self.learners) > 1 else ""
            values |= {prefix + name: value for name, value in losses.items()}
        if self.task.sync is not None:
            self.task.sync(self.run.world)
        return values

    def _feed(self, stack: ExitStack) -> Iterator[tuple[list[object], dict[str, int]]]:
        """The batches of each step and where the data order stands after them; made one step ahead on a GPU.

        Batches depend on nothing but their step: making them early changes nothing.
        """
        first = self.step

        def make(step: int) -> tuple[list[object], dict[str, int]]:
            batches = []
            world, each = self.run.world, self.stage.accumulate
            for micro in range(each * world.size):
                indices = self.sampler.next()
                # Processes share the batches that a single one would accumulate.
                if micro // each == world.rank:
                    draws = generator(self.run.seed, self.stage.name, "data", step, micro)
                    batches.append(self.task.data.batch(indices, draws))
            return batches, self.sampler.state()

        if self.run.device.type == "cpu":
            while True:
                yield make(first)
                first += 1
        pool = stack.enter_context(ThreadPoolExecutor(1))
        ahead = pool.submit(make, first)
        while True:
            ready = ahead.result()
            first += 1
            ahead = pool.submit(make, first)
            yield ready

    def _show(self, log: LossLog | None) -> Iterator[events.Event]:
        """Sample grid and measurements, with the averaged weights in place and the global draws untouched."""
        devices = [self.run.device] if self.run.device.type == "cuda" else []
        with ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=devices))
            stack.enter_context(torch.no_grad())
            for learner in self.learners:
                stack.enter_context(learner.evaluating())
            grid = self.task.grid(self._draws("sheet")) if self.task.grid else None
            measures = self.task.measure(self._draws("measure")) if self.task.measure else {}
        if log is None:
            return
        if measures:
            log.write(self.step, {f"held_out/{name}": value for name, value in measures.items()})
            yield events.Measured(self.stage.name, self.step, measures)
        if grid is not None:
            folder = self.run.folder / "samples"
            folder.mkdir(exist_ok=True)
            log.image(self.step, grid)
            path = write_grid(folder / f"{self.step:08d}.png", grid)
            yield events.Sampled(self.stage.name, self.step, path)

    def _draws(self, purpose: str, *numbers: int) -> torch.Generator:
        path = (self.step, *numbers) if numbers else ()
        return generator(self.run.seed, self.stage.name, purpose, *path, device=self.run.device)

    def _progress(self, steps: int, elapsed: float) -> events.Event:
        stage = self.stage
        fraction = progress(stage, self.step, self.seconds)
        per_step = elapsed / steps
        left = math.inf if stage.max_steps is None else (stage.max_steps - self.step) * per_step
        if stage.max_minutes is not None:
            left = min(left, 60 * stage.max_minutes - self.seconds)
        rate = self.learners[0].rate
        speed = stage.batch * stage.accumulate * self.run.world.size / max(per_step, 1e-9)
        return events.Progress(
            stage.name, self.step, stage.max_steps, fraction, self.losses, rate, speed, max(0.0, left)
        )

    def _check_finite(self) -> None:
        if not bool(self._finite):
            raise KandinskyError(
                f"The loss of stage {self.stage.name!r} is not finite at step {self.step}.",
                "Checkpoints up to then are kept; lower the learning rate and resume.",
            )


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, the first SIGINT only raises a flag; only the main thread can catch signals."""
    hit = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield hit.is_set
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_: object) -> None:
        hit.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield hit.is_set
    finally:
        signal.signal(signal.SIGINT, before)
