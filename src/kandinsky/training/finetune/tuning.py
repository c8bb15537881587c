"""Fine-tuning a checkpoint's prior and decoder: adapters or all weights, by the losses that made them."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from kandinsky.adapters.lora import Adapter, attach
from kandinsky.checkpoints.lora import choose_places, names_of
from kandinsky.core.errors import ConfigError, DataError
from kandinsky.engine.loras import adaptable
from kandinsky.networks.blocks import WEIGHT_GROUPS
from kandinsky.training.config.objectives import (
    AdapterConfig,
    ControlConfig,
    DreamBoothObjective,
    FullObjective,
    InpaintingConfig,
    LoraObjective,
    Target,
    Tuned,
)
from kandinsky.training.config.run import Stage
from kandinsky.training.context import TrainContext
from kandinsky.training.data.images import ImageSet
from kandinsky.training.diffusion_losses import Loss, decoder_loss, prior_loss
from kandinsky.training.events import Event
from kandinsky.training.examples import (
    Examples,
    ExampleSource,
    TrainingData,
    plain,
    training_data,
    with_edges,
    with_regions,
)
from kandinsky.training.finetune.base_checkpoint import BaseCheckpoint, open_base
from kandinsky.training.finetune.sample_grids import draw_grid, draw_inpainted, draw_with_hints
from kandinsky.training.finetune.widen_unet import place_weights
from kandinsky.training.image_grid import ImageGrid
from kandinsky.training.objectives.denoising import KINDS
from kandinsky.training.objectives.times import TIME_SAMPLERS, sync_across_ranks
from kandinsky.training.seeds import generator
from kandinsky.training.task import StepContext, Task, Trainable

NAME = "training"
"""The name of an adapter while it learns."""
SHOWN, MEASURED = 4, 64


def tune_task(ctx: TrainContext, stage: Stage) -> Generator[Event, None, Task[Examples]]:
    """Adapters, or all weights of the checkpoint's networks but the frozen ones, on images with captions."""
    base = open_base(ctx, stage)
    readers = base.readers(stage.targets)
    data = yield from training_data(ctx, stage, base, ctx.data.size(stage, base.size), readers=readers)
    return tuning_task(ctx, stage, base, data)


def trainable_modules(base: BaseCheckpoint, objective: Tuned) -> dict[Target, nn.Module]:
    """What learns, by target: adapters, or the networks themselves."""
    if isinstance(objective, LoraObjective) or (isinstance(objective, DreamBoothObjective) and not objective.whole):
        return {target: add_adapters(base, target, objective.adapter) for target in objective.targets}
    frozen = objective.frozen if isinstance(objective, FullObjective) else ()
    networks = {target: base.learners(target, objective.with_texts) for target in objective.targets}
    names = [
        f"{component}.{name}"
        for learners in networks.values()
        for component, network in learners.items()
        for found in names_of(network).values()
        for name in found
    ]
    for part in frozen:
        if part not in WEIGHT_GROUPS and not any(part in name for name in names):
            raise ConfigError(
                f"objective.frozen: no weight has {part!r} in its name.",
                f"Names are such as {names[0]} and {names[-1]}.",
            )
    return {target: unfreeze(learners, frozen) for target, learners in networks.items()}


def add_adapters(base: BaseCheckpoint, target: str, settings: AdapterConfig) -> nn.Module:
    """Puts fresh adapters on a target's network, and on its text encoders if set; returns them together,
    by component. Raises ConfigError for layers that are not there.
    """
    networks = adaptable(base.model)
    if unknown := sorted(settings.layers.keys() - networks.keys()):
        raise ConfigError(
            f"objective.adapter.layers: there is no component {unknown[0]!r}.", f"Known: {', '.join(networks)}."
        )
    adapters = nn.ModuleDict()
    for name, network in base.learners(target, settings.text_encoders).items():
        places = choose_places(network, settings.layers.get(name))
        adapter = Adapter.new(network, places, settings.rank, settings.alpha, settings.dropout, settings.dora)
        attach(network, adapter, NAME)
        adapters[name] = adapter
    return adapters


def group_of(network: nn.Module, group: str) -> set[str]:
    """The names of a network's weights that belong to one of `WEIGHT_GROUPS`."""
    kinds, children = WEIGHT_GROUPS[group]
    return {
        f"{path}.{name}"
        for path, module in network.named_modules()
        if isinstance(module, kinds)
        for name, _ in module.named_parameters()
        if name.partition(".")[0] in children
    }


def unfreeze(networks: Mapping[str, nn.Module], frozen: tuple[str, ...] = ()) -> nn.Module:
    """Lets the weights of networks, by component, learn but those whose name in files contains one of
    `frozen`; returns the networks as `together` does. Raises ConfigError when nothing is left to learn.
    """
    for component, network in networks.items():
        names = names_of(network)
        groups = {name for group in frozen if group in WEIGHT_GROUPS for name in group_of(network, group)}
        for name, value in network.named_parameters():
            held = any(part in f"{component}.{foreign}" for part in frozen for foreign in names[name])
            # The prior's statistics of embeddings are measured, not learned.
            value.requires_grad_(not held and name not in groups and name not in ("clip_mean", "clip_std"))
    module = together(networks)
    if not any(value.requires_grad for value in module.parameters()):
        raise ConfigError("objective.frozen leaves nothing to learn.", "Freeze less.")
    return module


def together(networks: Mapping[str, nn.Module]) -> nn.Module:
    """Networks as one module: itself where there is one, else by component."""
    return nn.ModuleDict(dict(networks)) if len(networks) > 1 else next(iter(networks.values()))


def tuning_task(ctx: TrainContext, stage: Stage, base: BaseCheckpoint, data: TrainingData) -> Task[Examples]:
    """The task in which each target's modules learn the loss of its network, all on the same batches."""
    objective = stage.objective_as(Tuned)
    modules = trainable_modules(base, objective)
    _check_texts(base, objective)
    _check_conditions(stage, base, data)
    with_conditions = partial(_with_conditions, base, objective)
    times = nn.ModuleDict()
    trainables = []
    for target, module in modules.items():
        parts = (module, *module.children())
        learners = base.learners(target, objective.with_texts).values()
        whole = tuple(network for network in learners if any(network is part for part in parts))
        loss = LOSSES[target](base, objective, times)
        compiled = (base.network(target),)
        trainables.append(Trainable(target, module, loss, stage.optimiser, compiled=compiled, networks=whole))

    def grid(_: torch.Generator) -> ImageGrid:
        rows = range(min(SHOWN, len(data.shown)))
        source = with_conditions(plain(data.shown))
        batch = source.batch(rows, generator(ctx.seed, "shown"))
        if base.model.hints and batch.hints is not None:
            return draw_with_hints(base, batch.captions, batch.hints.cpu())
        if batch.repaint is not None:
            return draw_inpainted(base, batch.captions, data.shown.plain(rows), batch.repaint)
        return draw_grid(base, objective.prompts or batch.captions, data.shown.shape)

    return Task(
        tuple(trainables),
        with_conditions(data.source),
        times,
        partial(sync_across_ranks, times.values()),
        data.order,
        grid,
        HeldOut(ctx, data.held_out, trainables, with_conditions).losses,
    )


@dataclass(frozen=True)
class HeldOut:
    """The images that are measured on, up to `count` of each set; `source` makes examples of plain ones."""

    ctx: TrainContext
    sets: Sequence[ImageSet]
    trainables: Sequence[Trainable[Examples]]
    source: Callable[[ExampleSource], ExampleSource] = lambda examples: examples
    count: int = MEASURED

    def losses(self, draws: torch.Generator) -> dict[str, float]:
        """The parts of each trainable's loss, `trainable/part`: the mean over images of all shapes."""
        sums: dict[str, float] = {}
        counts = [min(self.count, len(images)) for images in self.sets]
        for images, count in zip(self.sets, counts, strict=True):
            batch = self.source(plain(images)).batch(range(count), generator(self.ctx.seed, "held out"))
            context = StepContext(batch, 0, self.ctx.device, draws, {})
            for trainable in self.trainables:
                for name, value in trainable.loss(context).parts.items():
                    key = f"{trainable.name}/{name}"
                    sums[key] = sums.get(key, 0.0) + float(value) * count / sum(counts)
        return sums


def _check_texts(base: BaseCheckpoint, objective: Tuned) -> None:
    read = [len(base.learners(target, with_texts=True)) > 1 for target in objective.targets]
    if objective.with_texts and not any(read):
        raise ConfigError(
            f"The {objective.target} of {base.model.name} reads no texts itself: no text encoder can learn.",
            'Set target = "prior" or "both", or leave text_encoders out.',
        )


def _check_conditions(stage: Stage, base: BaseCheckpoint, data: TrainingData) -> None:
    objective = stage.objective_as(Tuned)
    draws = "decoder" in objective.targets
    if base.model.hints and draws and not _from_edges(objective) and data.shown.hints is None:
        raise DataError(
            f"{base.pipe.model_id} follows hint images, and the data has none.",
            'Set data.hints, add a column "hint", or set objective.control.hints = "edges".',
        )
    if objective.masked == "region" and not base.inpaints:
        raise ConfigError('objective.masked is "region", but the decoder repaints none.', "Add [objective.inpainting].")
    seen = base.model.hints or (base.inpaints and base.model.tells_region == "masked_image")
    if stage.variants and (objective.masked == "alpha" or (seen and draws)):
        raise ConfigError(
            f"{stage.variants} variants are kept as latents, but the loss needs the images themselves.",
            "Set variants = 0.",
        )


def _with_conditions(base: BaseCheckpoint, objective: Tuned, source: ExampleSource) -> ExampleSource:
    """The examples with regions to repaint, or with hints, where the decoder takes such."""
    if base.model.hints:
        return with_edges(source) if _from_edges(objective) else source
    settings = objective.inpainting or InpaintingConfig()
    return with_regions(source, base.model.codec.downscale, settings.box) if base.inpaints else source


def _from_edges(objective: Tuned) -> bool:
    return (objective.control or ControlConfig()).hints == "edges"


def _decoder_loss(base: BaseCheckpoint, objective: Tuned, times: nn.ModuleDict) -> Loss:
    schedule = base.model.schedule_of("ddpm")
    wanted = objective.decoder.model_copy(update={"target": KINDS[schedule.prediction_type]})
    sampler = TIME_SAMPLERS[wanted.times](schedule.process.T)
    times["decoder"] = sampler

    def places(batch: Examples, latents: Tensor) -> Tensor | None:
        mask = {"no": None, "region": batch.repaint, "alpha": batch.alpha}[objective.masked]
        return None if mask is None else place_weights(mask, latents, objective.outside)

    network = base.network("decoder")
    return decoder_loss(base, network, base.batch_condition, schedule.process, wanted, sampler, places)


def _prior_loss(base: BaseCheckpoint, objective: Tuned, times: nn.ModuleDict) -> Loss:
    stage, wanted = base.need_prior(), objective.prior
    sampler = TIME_SAMPLERS[wanted.times](stage.schedule.process.T)
    times["prior"] = sampler
    return prior_loss(base, stage.network, base.predict_prior, stage.schedule.process, wanted, sampler)


LOSSES: dict[str, Callable[[BaseCheckpoint, Tuned, nn.ModuleDict], Loss]] = {
    "decoder": _decoder_loss,
    "prior": _prior_loss,
}
