"""What the stages of one run share: pictures, tokenizer, and the networks that earlier stages made."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.core.errors import ConfigError, nearest
from kandinsky.engine.pipeline import Pipeline, load, open_sources
from kandinsky.generations import Model, Source
from kandinsky.networks.clip import ClipTextConfig, ClipVisionConfig
from kandinsky.networks.movq import MoVQ, MoVQConfig
from kandinsky.networks.prior import Prior, PriorConfig
from kandinsky.networks.unet2 import UNet2, UNet2Config
from kandinsky.training.config import (
    DataConfig,
    DistillObjective,
    DreamBoothObjective,
    Stage,
    TrainConfig,
    network_config,
    validated,
)
from kandinsky.training.data.buckets import bucketed
from kandinsky.training.data.captions import CaptionMix, Grammar
from kandinsky.training.data.folder import Folder, read_bare_folder, read_folder
from kandinsky.training.data.hints import with_hints
from kandinsky.training.data.imports import unpack_dataset, unpack_shards
from kandinsky.training.data.pictures import AUGMENTATIONS, Augmentation, PictureSet, open_pictures
from kandinsky.training.data.tokenizer_training import caption_corpus, train_tokenizer, write_tokenizer
from kandinsky.training.ema import copy_into
from kandinsky.training.loop import CHECKPOINTS
from kandinsky.training.seeds import generator, seed_globals
from kandinsky.training.stages.base import Base
from kandinsky.training.stages.regions import following, widened
from kandinsky.training.stages.towers import Towers
from kandinsky.training.state import HASHES, newest_whole
from kandinsky.training.tuning_config import Tuned

LAST_TOKENIZER_FILE = "special_tokens_map.json"

NETWORKS: dict[str, type] = {
    "movq": MoVQConfig,
    "clip_text": ClipTextConfig,
    "clip_vision": ClipVisionConfig,
    "prior": PriorConfig,
    "decoder": UNet2Config,
}


M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Frozen(Generic[M]):
    """A network that an earlier stage made, in evaluation mode; `stamp` changes with its weights."""

    module: M
    stamp: str


class Workshop:
    """One run's shared things, each made when first needed."""

    def __init__(
        self, config: TrainConfig, device: torch.device, opens: Callable[..., Pipeline] = load
    ) -> None:
        self.config, self.device, self._opens = config, device, opens
        for name in config.networks:
            if name not in NETWORKS:
                raise ConfigError(f"networks: there is no network {name!r}.", nearest(name, NETWORKS))
            network_config(NETWORKS[name], config.networks[name], name)
        self._pictures: dict[int, PictureSet] = {}
        self._usual_size: int | None = None

    def folder(self, name: str) -> Path:
        """Where a stage keeps its checkpoints, losses and samples."""
        return self.config.out / name

    def base(self, stage: Stage) -> Base:
        """The checkpoint that fine-tuning begins with, loaded anew for each stage: one must not see another's
        changes.

        Its networks are in float32 where they learn as a whole; else they only need the stage's precision.
        """
        wanted = self.config.model
        half = stage.precision != "fp32" and not self.learns_whole(stage)
        names = {"bf16": "bfloat16", "fp16": "float16"}
        pipe = self._opens(
            wanted.name,
            prior=wanted.prior,
            variant=wanted.variant,
            revision=wanted.revision,
            behaviour=wanted.behaviour,
            lora=wanted.lora,
            device=self.device,
            dtype=names[stage.precision] if half else "float32",
        )
        self._usual_size = int(pipe.model.defaults["width"])
        pipe.model = self._grown(stage, pipe.model)
        return Base(pipe)

    def _grown(self, stage: Stage, model: Model) -> Model:
        """The model with the layers for regions or hints that it lacks and the stage asks for."""
        objective = stage.objective
        if not isinstance(objective, Tuned):
            return model
        if objective.inpainting is not None and not model.extra_channels:
            self._check_whole(stage, "regions", "repaints")
            return widened(model, objective.inpainting.first_layer)
        if objective.control is not None and not model.hints:
            self._check_whole(stage, "hints", "follows hints")
            return following(model, objective.control.first_layer)
        return model

    def _check_whole(self, stage: Stage, told: str, does: str) -> None:
        """Prepares to draw new layers; ConfigError for adapters, which have no place for them."""
        if not self.learns_whole(stage):
            raise ConfigError(
                f"Adapters cannot hold the channels that a decoder needs to be told of {told}.",
                f'Set method = "full", or begin with a decoder that {does}.',
            )
        seed_globals(self.config.seed)

    @staticmethod
    def learns_whole(stage: Stage) -> bool:
        """Whether networks of a checkpoint learn as a whole, and not something beside them."""
        either = isinstance(stage.objective, DreamBoothObjective | DistillObjective)
        return stage.method == "full" or (either and stage.objective.whole)

    @cached_property
    def sources(self) -> tuple[Source, Source | None]:
        """The folders of the checkpoint that fine-tuning begins with: the decoder's and the prior's."""
        wanted = self.config.model
        return open_sources(wanted.name, wanted.prior, wanted.variant, wanted.revision)

    @cached_property
    def data_folder(self) -> Path:
        """Where the pictures lie as files: the folder, or where shards and datasets are unpacked."""
        data = self.config.data
        if data.dataset is not None:
            return unpack_dataset(data.dataset, data.split, data.image_column, data.caption_column)
        return unpack_shards(data.folder) or data.folder

    def data_stamp(self) -> str:
        """A hash of the names and contents of the pictures, captions and hints that a run learns from."""
        digest = hashlib.sha256()
        for root in (self.data_folder, self.config.data.hints):
            if root is None:
                continue
            files = [root] if root.is_file() else sorted(path for path in root.rglob("*") if path.is_file())
            for path in files:
                digest.update(path.relative_to(root).as_posix().encode())
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def means(self, stage: Stage, player: str) -> dict[str, Tensor]:
        """What a player of a finished stage learned; CheckpointError when there is no whole checkpoint."""
        return self._means(self.folder(stage.name), player)[0]

    def size(self, stage: Stage) -> int:
        """The side of a stage's pictures; unless said, a checkpoint is fine-tuned at the size it draws."""
        data = self.config.data
        usual = None if "size" in data.model_fields_set else self._usual_size
        return stage.size or usual or data.size

    def pictures(self, stage: Stage, grammar: Grammar | None = None) -> PictureSet:
        """The training split at the stage's size, held-out pictures included.

        With a `grammar` the folder needs no captions.
        """
        data = self.config.data
        size = self.size(stage)
        if size not in self._pictures:
            self._pictures[size] = open_pictures(
                self._folder(bare=grammar is not None),
                size,
                groups=data.groups,
                styles=data.styles,
                keep_wasteful=data.keep_wasteful,
                captions=caption_mix(data),
                cache=data.cache,
                grammar=grammar,
                fit=data.fit,
                measure_colours=data.measure_colours,
                common=data.common,
            ).to(self.device)
        return self._pictures[size]

    def _folder(self, *, bare: bool = False) -> Folder:
        """The records of the data, with captions or `bare`, and with their hints where there are some."""
        folder = read_bare_folder(self.data_folder) if bare else read_folder(self.data_folder)
        hints = self.config.data.hints
        return folder if hints is None else with_hints(folder, hints)

    def bucketed(self, stage: Stage, grammar: Grammar | None = None) -> list[PictureSet]:
        """The pictures of a stage in the buckets of their shapes, see `data.buckets`."""
        data = self.config.data
        assert data.buckets is not None
        folder = self._folder(bare=grammar is not None)
        # A bucket of test pictures alone would be empty.
        learned = replace(folder, records=tuple(one for one in folder.records if one.split == "train"))
        return [
            open_pictures(
                group,
                shape,
                groups=data.groups,
                styles=data.styles,
                keep_wasteful=data.keep_wasteful,
                captions=caption_mix(data),
                cache=data.cache,
                grammar=grammar,
                fit=data.fit,
            ).to(self.device)
            for shape, group in bucketed(learned, self.size(stage), data.buckets).items()
        ]

    def split(self, stage: Stage, grammar: Grammar | None = None) -> tuple[PictureSet, PictureSet | None]:
        """The pictures to learn from, and those held out (None when there are none)."""
        (learned,), held_out = self._held_out([self.pictures(stage, grammar)])
        return learned, next(iter(held_out), None)

    def shapes(
        self, stage: Stage, grammar: Grammar | None = None
    ) -> tuple[list[PictureSet], list[PictureSet]]:
        """The pictures to learn from, and those held out, each in sets of one shape."""
        buckets = self.config.data.buckets is not None
        return self._held_out(self.bucketed(stage, grammar) if buckets else [self.pictures(stage, grammar)])

    def _held_out(self, sets: list[PictureSet]) -> tuple[list[PictureSet], list[PictureSet]]:
        count, total = self.config.data.held_out, sum(len(pictures) for pictures in sets)
        if count == 0:
            return sets, []
        if count >= total:
            raise ConfigError(
                f"data.held_out is {count}, but there are only {total} pictures.", "Hold out fewer."
            )
        chosen = torch.randperm(total, generator=generator(self.config.seed, "held out"))[:count]
        kept = torch.ones(total, dtype=torch.bool).index_fill(0, chosen, False)
        if self.config.data.common > 1:
            files = torch.cat([pictures.files for pictures in sets])
            kept = ~torch.isin(files, files[chosen])
        parts = list(zip(sets, torch.split(kept, [len(one) for one in sets]), strict=True))
        learned = [pictures.where(mask) for pictures, mask in parts if bool(mask.any())]
        return learned, [pictures.where(~mask) for pictures, mask in parts if not bool(mask.all())]

    @cached_property
    def tokenizer_folder(self) -> Path:
        """The folder of the tokenizer: the configured one, or one trained on the captions and kept in
        `out`.
        """
        if self.config.tokenizer is not None:
            return self.config.tokenizer
        folder = self.config.out / "tokenizer"
        if not (folder / LAST_TOKENIZER_FILE).is_file():
            corpus = caption_corpus(read_folder(self.data_folder))
            learned = train_tokenizer(corpus, self.clip_text.vocab_size)
            write_tokenizer(learned, folder, self.clip_text.positions)
        return folder

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; ConfigError when it has more ids than the text tower."""
        tokenizer = load_tokenizer(self.tokenizer_folder)
        if tokenizer.vocabulary_size > self.clip_text.vocab_size:
            raise ConfigError(
                f"The tokenizer in {self.tokenizer_folder} has {tokenizer.vocabulary_size} ids, "
                f"networks.clip_text.vocab_size is {self.clip_text.vocab_size}.",
                "Make the text tower's vocabulary at least as large.",
            )
        return tokenizer

    def ids(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token ids (B, L) and mask (B, L) bool of texts, L what the text tower reads."""
        batch = self.tokenizer.encode(list(texts), self.clip_text.positions)
        return batch.ids, batch.mask

    @cached_property
    def clip_text(self) -> ClipTextConfig:
        """The configuration of the text tower."""
        return network_config(ClipTextConfig, self._table("clip_text"), "clip_text")

    @cached_property
    def clip_vision(self) -> ClipVisionConfig:
        """The configuration of the vision tower."""
        return network_config(ClipVisionConfig, self._table("clip_vision"), "clip_vision")

    @cached_property
    def decoder(self) -> UNet2Config:
        """The configuration of the decoder."""
        return network_config(UNet2Config, self._table("decoder"), "decoder")

    def new_movq(self) -> MoVQ:
        """An untrained autoencoder."""
        return MoVQ(network_config(MoVQConfig, self._table("movq"), "movq"))

    def new_towers(self) -> Towers:
        """Untrained text and vision towers."""
        return Towers(self.clip_text, self.clip_vision)

    def new_prior(self) -> Prior:
        """An untrained prior."""
        return Prior(network_config(PriorConfig, self._table("prior"), "prior"))

    def new_decoder(self) -> UNet2:
        """An untrained decoder."""
        network = UNet2(self.decoder)
        network.initialise()
        return network

    def _table(self, name: str) -> dict[str, object]:
        if name not in self.config.networks:
            raise ConfigError(f"networks.{name} is not set.", "Give the sizes of that network.")
        return self.config.networks[name]

    def frozen_movq(self, stage: Stage) -> Frozen[MoVQ]:
        """The autoencoder that this stage works with."""
        return self._frozen(stage, "movq", self.new_movq())

    def frozen_towers(self, stage: Stage) -> Frozen[Towers]:
        """The text and vision towers that this stage works with."""
        return self._frozen(stage, "clip", self.new_towers(), "towers.")

    def start(self, stage: Stage, player: str, module: nn.Module, prefix: str = "") -> None:
        """Copies the running means of the stage named by `init`, if any, into a module.

        Of the player's tensors those are taken whose names begin with `prefix`.
        """
        if stage.init is not None:
            self._load(self._named(stage.init), player, module, prefix)

    def start_if_there(self, stage: Stage, player: str, module: nn.Module, prefix: str) -> bool:
        """Does what `start` does when the stage named by `init` has such tensors; returns whether it had."""
        if stage.init is None:
            return False
        means, _ = self._means(self._named(stage.init), player)
        found = any(name.startswith(prefix) for name in means)
        if found:
            self._load(self._named(stage.init), player, module, prefix)
        return found

    def last(self, method: str) -> Stage:
        """The last stage of a method; ConfigError when there is none."""
        for stage in reversed(self.config.stage):
            if stage.method == method:
                return stage
        raise ConfigError(f"The configuration has no stage of method {method!r}.", "Add and train one.")

    def finished(self, stage: Stage, module: M) -> M:
        """Copies what a stage made into a module and returns it."""
        self._load(self.folder(stage.name), stage.method, module, "")
        return module.eval().requires_grad_(False)

    def _frozen(self, stage: Stage, method: str, module: M, prefix: str = "") -> Frozen[M]:
        stamp = self._load(self._source(stage, method), method, module, prefix)
        module.to(self.device).eval().requires_grad_(False)
        return Frozen(module, stamp)

    @staticmethod
    def _means(folder: Path, player: str) -> tuple[dict[str, Tensor], str]:
        """What a stage made, finished where that is a step of its own, and a stamp of it."""
        checkpoint = newest_whole(folder / CHECKPOINTS, {f"{player}.ema"}, {f"{player}.final"})
        means = checkpoint.tensors.get(f"{player}.final", checkpoint.tensors[f"{player}.ema"])
        return means, (checkpoint.path / HASHES).read_text() if checkpoint.path else ""

    def _load(self, folder: Path, player: str, module: nn.Module, prefix: str) -> str:
        means, stamp = self._means(folder, player)
        chosen = {name.removeprefix(prefix): mean for name, mean in means.items() if name.startswith(prefix)}
        try:
            copy_into(module, chosen)
        except (KeyError, RuntimeError) as error:
            raise ConfigError(
                f"{folder} holds a {player!r} of other sizes ({error}).", "Keep `networks` as it was then."
            ) from error
        return stamp

    def _named(self, name: str) -> Path:
        """The folder of the stage of that name, or else the folder itself."""
        known = {stage.name for stage in self.config.stage}
        return self.folder(name) if name in known else Path(name)

    def _source(self, stage: Stage, method: str) -> Path:
        """The folder of the stage that gives this network."""
        if method in stage.uses:
            return self._named(stage.uses[method])
        found = None
        for other in self.config.stage:
            if other.name == stage.name:
                break
            found = other.name if other.method == method else found
        if found is None:
            raise ConfigError(
                f"stage {stage.name!r} needs a {method!r}, and no stage before it makes one.",
                f"Add such a stage, or say uses.{method} = <folder of a finished one>.",
            )
        return self.folder(found)


def encoders_stamp(modules: Mapping[str, nn.Module]) -> str:
    """Changes with the networks of a checkpoint that make latents and embeddings."""
    made_by = ("movq", "vae", "image_encoder")
    return weights_stamp({name: modules[name] for name in made_by if name in modules})


def weights_stamp(modules: Mapping[str, nn.Module]) -> str:
    """A hash of the names and weights of networks: what was encoded by others is encoded anew."""
    digest = hashlib.sha256()
    for name in sorted(modules):
        for key, value in modules[name].state_dict().items():
            digest.update(f"{name}.{key}".encode())
            digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def caption_mix(data: DataConfig) -> CaptionMix | None:
    """The caption probabilities of a configuration, None for the usual ones."""
    return validated(CaptionMix, data.captions, "data.captions") if data.captions else None


def augmentation(stage: Stage) -> Augmentation:
    """The augmentation that a stage names or spells out; ConfigError for an unknown one."""
    if isinstance(stage.augmentation, dict):
        return network_config(Augmentation, stage.augmentation, "augmentation")
    if stage.augmentation not in AUGMENTATIONS:
        raise ConfigError(
            f"There is no augmentation {stage.augmentation!r}.", nearest(stage.augmentation, AUGMENTATIONS)
        )
    return AUGMENTATIONS[stage.augmentation]
