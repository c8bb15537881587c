"""Fine-tuning a checkpoint's prior and decoder: adapters or all weights, by the losses that made them."""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from kandinsky.adapters.lora import Adapter, attach
from kandinsky.checkpoints.lora import choose_places, names_of
from kandinsky.core.errors import ConfigError, DataError
from kandinsky.engine.loras import adaptable
from kandinsky.networks import layers, unet2, unet3_blocks
from kandinsky.tasks.start import hint_condition
from kandinsky.training.config import (
    DecoderObjective,
    FullObjective,
    LoraObjective,
    PriorObjective,
    Stage,
)
from kandinsky.training.data.pictures import AUGMENTATIONS
from kandinsky.training.events import Event
from kandinsky.training.objectives.denoising import Posterior, error_of
from kandinsky.training.objectives.times import TIME_SAMPLERS, settled
from kandinsky.training.seeds import generator
from kandinsky.training.stages.base import KINDS, Base
from kandinsky.training.stages.decoder import denoising_losses, noise_of
from kandinsky.training.stages.examples import (
    Examples,
    Lesson,
    Plain,
    WithEdges,
    WithRegions,
    lesson_of,
)
from kandinsky.training.stages.regions import counting
from kandinsky.training.stages.showing import draw_following, draw_repainted, draw_sheet
from kandinsky.training.stages.sources import PictureSource
from kandinsky.training.stages.workshop import Workshop
from kandinsky.training.task import Losses, Player, Sheet, Source, Task, Turn
from kandinsky.training.tuning_config import (
    AdapterConfig,
    ControlConfig,
    InpaintingConfig,
    Target,
    Tuned,
)

NAME = "training"
"""The name of an adapter while it learns."""
SHOWN, MEASURED = 4, 64

GROUPS: dict[str, tuple[tuple[type[nn.Module], ...], frozenset[str]]] = {
    "resblocks": (
        (unet2.Resnet, unet3_blocks.Resnet),
        frozenset({"norm1", "conv1", "film", "norm2", "conv2", "convolutions"}),
    ),
    "attention": (
        (unet2.Attention, unet3_blocks.SelfAttention, unet3_blocks.CrossAttention, layers.Attention),
        frozenset({"qkv", "q", "out"}),
    ),
}
"""Names that `frozen` accepts besides parts of names: as the original code grouped weights.

Of residual blocks the shortcut still learns, of attention the keys and values of the context.
"""

Loss = Callable[[Turn], Losses]


def lora_task(shop: Workshop, stage: Stage) -> Generator[Event, None, Task]:
    """Low-rank adapters of the checkpoint's networks, on pictures with captions."""
    objective: LoraObjective = stage.objective
    base = shop.base(stage)
    lesson = yield from lesson_of(shop, stage, base)
    modules = {target: add_adapters(base, target, objective.adapter) for target in objective.targets}
    return tuning_task(shop, stage, base, lesson, modules)


def full_task(shop: Workshop, stage: Stage) -> Generator[Event, None, Task]:
    """All weights of the checkpoint's networks but the frozen ones, on pictures with captions."""
    objective: FullObjective = stage.objective
    base = shop.base(stage)
    lesson = yield from lesson_of(shop, stage, base)
    networks = {target: base.learners(target, objective.with_texts) for target in objective.targets}
    names = [
        f"{component}.{name}"
        for learners in networks.values()
        for component, network in learners.items()
        for found in names_of(network).values()
        for name in found
    ]
    for part in objective.frozen:
        if part not in GROUPS and not any(part in name for name in names):
            raise ConfigError(
                f"objective.frozen: no weight has {part!r} in its name.",
                f"Names are such as {names[0]} and {names[-1]}.",
            )
    modules = {target: unfreeze(learners, objective.frozen) for target, learners in networks.items()}
    return tuning_task(shop, stage, base, lesson, modules)


def add_adapters(base: Base, target: str, settings: AdapterConfig) -> nn.Module:
    """Puts fresh adapters on a target's network, and on its text encoders when asked; returns them together.

    They are called as files call their components. Raises ConfigError for layers that are not there.
    """
    networks = adaptable(base.model)
    if unknown := sorted(settings.layers.keys() - networks.keys()):
        raise ConfigError(
            f"objective.adapter.layers: there is no component {unknown[0]!r}.",
            f"Known: {', '.join(networks)}.",
        )
    adapters = nn.ModuleDict()
    for name, network in base.learners(target, settings.text_encoders).items():
        places = choose_places(network, settings.layers.get(name))
        adapter = Adapter.new(network, places, settings.rank, settings.alpha, settings.dropout, settings.dora)
        attach(network, adapter, NAME)
        adapters[name] = adapter
    return adapters


def group_of(network: nn.Module, group: str) -> set[str]:
    """The names of a network's weights that belong to one of `GROUPS`."""
    kinds, children = GROUPS[group]
    return {
        f"{path}.{name}"
        for path, module in network.named_modules()
        if isinstance(module, kinds)
        for name, _ in module.named_parameters()
        if name.partition(".")[0] in children
    }


def unfreeze(networks: Mapping[str, nn.Module], frozen: tuple[str, ...] = ()) -> nn.Module:
    """Lets all weights of networks, by component, learn but those whose name in files contains one of
    `frozen`, and the statistics; returns the networks together, as `together` has them.

    Raises ConfigError when that is nothing.
    """
    for component, network in networks.items():
        names = names_of(network)
        groups = {name for group in frozen if group in GROUPS for name in group_of(network, group)}
        for name, value in network.named_parameters():
            held = any(part in f"{component}.{foreign}" for part in frozen for foreign in names[name])
            # The prior's statistics of embeddings are measured, not learned.
            value.requires_grad_(not held and name not in groups and name not in ("clip_mean", "clip_std"))
    module = together(networks)
    if not any(value.requires_grad for value in module.parameters()):
        raise ConfigError("objective.frozen leaves nothing to learn.", "Freeze less.")
    return module


def together(networks: Mapping[str, nn.Module]) -> nn.Module:
    """Networks as the one module of a player: itself where there is one, else by component."""
    return nn.ModuleDict(dict(networks)) if len(networks) > 1 else next(iter(networks.values()))


def tuning_task(
    shop: Workshop,
    stage: Stage,
    base: Base,
    lesson: Lesson,
    modules: Mapping[Target, nn.Module],
) -> Task:
    """The task in which `modules` learn, by target, the loss of that target's network on the same batches."""
    objective: Tuned = stage.objective
    _check_texts(base, objective)
    _check_told(stage, base, lesson)
    source = _told_more(base, objective, lesson.source)
    shown = lesson.shown
    times = nn.ModuleDict()
    players = []
    for target, module in modules.items():
        loss = LOSSES[target](base, objective, times)
        compiled = (base.network(target),)
        parts = (module, *module.children())
        learners = base.learners(target, objective.with_texts).values()
        whole = tuple(network for network in learners if any(network is part for part in parts))
        player = Player(target, module, loss, stage.optimiser, compiled=compiled, networks=whole)
        players.append(player)

    def measure(draws: torch.Generator) -> dict[str, float]:
        return held_out_losses(shop, lesson, players, draws, partial(_told_more, base, objective))

    def sheet(_: torch.Generator) -> Sheet:
        rows = range(min(SHOWN, len(shown)))
        plain = _told_more(base, objective, Plain(PictureSource(shown, AUGMENTATIONS["none"])))
        batch: Examples = plain.batch(rows, generator(shop.config.seed, "shown"))
        if base.model.hints and batch.hints is not None:
            return draw_following(base, batch.captions, batch.hints.cpu())
        if batch.repaint is not None:
            return draw_repainted(base, batch.captions, shown.plain(rows), batch.repaint)
        return draw_sheet(base, objective.prompts or batch.captions, shown.shape)

    settle = partial(settled, times.values())
    return Task(tuple(players), source, times, settle, lesson.order, sheet, measure)


def held_out_losses(
    shop: Workshop,
    lesson: Lesson,
    players: Sequence[Player],
    draws: torch.Generator,
    told_more: Callable[[Source], Source] = lambda plain: plain,
) -> dict[str, float]:
    """The parts of each player's loss on the held-out pictures, the mean over those of all shapes."""
    sums: dict[str, float] = {}
    counts = [min(MEASURED, len(pictures)) for pictures in lesson.held_out]
    for pictures, count in zip(lesson.held_out, counts, strict=True):
        source = told_more(Plain(PictureSource(pictures, AUGMENTATIONS["none"])))
        batch = source.batch(range(count), generator(shop.config.seed, "held out"))
        turn = Turn(batch, 0, shop.device, draws, {})
        for player in players:
            for name, value in player.loss(turn).parts.items():
                key = f"{player.name}/{name}"
                sums[key] = sums.get(key, 0.0) + float(value) * count / sum(counts)
    return sums


def _check_texts(base: Base, objective: Tuned) -> None:
    read = [len(base.learners(target, with_texts=True)) > 1 for target in objective.targets]
    if objective.with_texts and not any(read):
        raise ConfigError(
            f"The {objective.target} of {base.model.name} reads no texts itself: no text encoder can learn.",
            'Set target = "prior" or "both", or leave text_encoders out.',
        )


def _check_told(stage: Stage, base: Base, lesson: Lesson) -> None:
    objective: Tuned = stage.objective
    draws = "decoder" in objective.targets
    if base.model.hints and draws and not _from_edges(objective) and lesson.shown.hints is None:
        raise DataError(
            f"{base.pipe.model_id} follows hint pictures, and the data has none.",
            'Set data.hints, add a column "hint", or set objective.control.hints = "edges".',
        )
    if objective.masked == "region" and not base.repaints:
        raise ConfigError(
            'objective.masked is "region", but the decoder repaints none.', "Add [objective.inpainting]."
        )
    seen = base.model.hints or (base.repaints and base.model.tells_region == "masked_picture")
    if stage.variants and (objective.masked == "alpha" or (seen and draws)):
        raise ConfigError(
            f"{stage.variants} variants are kept as latents, but the loss needs the pictures themselves.",
            "Set variants = 0.",
        )


def _told_more(base: Base, objective: Tuned, source: Source) -> Source:
    """The examples with regions to repaint, or with hints, where the decoder is told of such."""
    if base.model.hints:
        return WithEdges(source) if _from_edges(objective) else source
    settings = objective.inpainting or InpaintingConfig()
    return WithRegions(source, base.model.codec.downscale, settings.box) if base.repaints else source


def _from_edges(objective: Tuned) -> bool:
    return (objective.control or ControlConfig()).hints == "edges"


def decoder_loss(base: Base, objective: Tuned, times: nn.ModuleDict) -> Loss:
    """The decoder's loss, see `stages.decoder`: of what the checkpoint's own decoder says."""
    schedule = base.model.schedule_of("ddpm")
    process = schedule.process
    posterior = Posterior.of(process, base.device)
    wanted: DecoderObjective = objective.decoder.model_copy(
        update={"target": KINDS[schedule.prediction_type]}
    )
    network = base.network("decoder")
    sampler = TIME_SAMPLERS[wanted.times](process.T)
    times["decoder"] = sampler

    def loss(turn: Turn) -> Losses:
        batch: Examples = turn.batch
        found = batch.encoded(base)
        count = len(batch.captions)
        dropped = turn.uniform(count) < wanted.condition_dropout
        told = base.tell_decoder(batch.captions, found.get("embeddings"), dropped)
        t, weights = sampler.draw(count, turn.generator, turn.device)
        x0 = found["latents"]
        if base.repaints:
            told = replace(told, extra=base.tell_region(batch.pixels, x0, batch.repaint))
        if base.model.hints:
            assert batch.hints is not None
            told = replace(told, hint=hint_condition(base.model, batch.hints))
        mask = {"no": None, "region": batch.repaint, "alpha": batch.alpha}[objective.masked]
        counted = None if mask is None else counting(mask, x0, objective.outside)
        noise = noise_of(turn, x0, wanted)
        parts = denoising_losses(network, x0, told, t, noise, wanted, process, posterior, counted)
        total = sum(parts.values(), torch.zeros(count, device=turn.device))
        if torch.is_grad_enabled():
            sampler.learn(t, total)
        return weighted(weights * total, parts, batch.weights.to(turn.device))

    return loss


def prior_loss(base: Base, objective: Tuned, times: nn.ModuleDict) -> Loss:
    """The prior's loss, see `stages.prior`: the error of clean, normalised image embeddings."""
    stage = base.need_prior()
    wanted: PriorObjective = objective.prior
    process = stage.schedule.process
    sampler = TIME_SAMPLERS[wanted.times](process.T)
    times["prior"] = sampler

    def loss(turn: Turn) -> Losses:
        batch: Examples = turn.batch
        x0 = stage.network.normalise(batch.encoded(base)["embeddings"])
        count = len(x0)
        dropped = (turn.uniform(count) < wanted.condition_dropout).tolist()
        said = ["" if drop else text for text, drop in zip(batch.captions, dropped, strict=True)]
        t, weights = sampler.draw(count, turn.generator, turn.device)
        x = process.add_noise(x0, turn.normal(x0), t)
        losses = error_of(wanted, stage.network(x, t, base.tell_prior(said)), x0)
        if torch.is_grad_enabled():
            sampler.learn(t, losses)
        return weighted(weights * losses, {wanted.loss: losses}, batch.weights.to(turn.device))

    return loss


def weighted(total: Tensor, parts: dict[str, Tensor], weights: Tensor) -> Losses:
    """Losses of rows (B,) as one: the sum of their weighted values, divided by the rows of weight one.

    So a batch of instance rows and as many class rows is the mean of the first plus a weight times the mean
    of the others (Ruiz et al. 2022, eq. 2).
    """
    count = (weights == 1).sum().clamp(min=1)
    shown = {name: value.detach().mean() for name, value in parts.items()}
    return Losses((weights * total).sum() / count, shown)


LOSSES: dict[str, Callable[[Base, Tuned, nn.ModuleDict], Loss]] = {
    "decoder": decoder_loss,
    "prior": prior_loss,
}
