"""A folder of original files: networks without configurations, whose sizes are read off their tensors."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor, nn

from kandinsky.checkpoints.diffusers_folder import Folder, open_folder
from kandinsky.checkpoints.files import INDEX, read_json
from kandinsky.checkpoints.keymap import KeyMap
from kandinsky.checkpoints.maps.clip import CLIP_TEXT, CLIP_VISION, clip_text_config, clip_vision_config
from kandinsky.checkpoints.maps.mclip import MCLIP, infer_mclip_config
from kandinsky.checkpoints.maps.original_clip import (
    from_original_clip,
    infer_clip_text_config,
    infer_clip_vision_config,
)
from kandinsky.checkpoints.maps.original_files import LAYOUTS, Layout
from kandinsky.checkpoints.maps.original_kl import drop_training, infer_kl_config, original_kl_map
from kandinsky.checkpoints.maps.original_movq import infer_movq_config, original_movq_map, wraps_norms
from kandinsky.checkpoints.maps.original_prior import (
    infer_prior_config,
    original_prior_map,
    with_statistics,
)
from kandinsky.checkpoints.maps.original_unet2 import infer_unet2_config, original_unet2_map
from kandinsky.checkpoints.maps.t5 import TABLES, infer_t5_config, t5_map, without_decoder
from kandinsky.checkpoints.original_hub import CLIP_TOWERS, CLIP_VOCABULARY
from kandinsky.checkpoints.stored import Stored
from kandinsky.checkpoints.torchscript import is_torchscript, read_torchscript
from kandinsky.checkpoints.weights import load_strict, read_pickle, read_tensor_file, read_weights
from kandinsky.conditioning.tokenizer import Tokenizer, load_tokenizer
from kandinsky.core.errors import CheckpointError, TokenizerError
from kandinsky.networks.clip import ClipText, ClipVision
from kandinsky.networks.kl import AutoencoderKL
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.prior import Prior
from kandinsky.networks.t5 import T5Encoder
from kandinsky.networks.unet2 import UNet2
from kandinsky.networks.xlmr import MultilingualClip

M = TypeVar("M", bound=nn.Module)
Dtype = torch.dtype | None
CLIP_PAD_ID = 0
"""What the original code pads CLIP's texts with, whatever the tokenizer's files say."""


@dataclass(frozen=True)
class OriginalFolder:
    """An opened folder: its root, and which release its files are of.

    `clip` and `text_encoder` are folders elsewhere, in the layout of transformers, for what the folder lacks
    of these.
    """

    root: Path
    layout: Layout
    clip: Path | None = None
    text_encoder: Path | None = None

    @property
    def kind(self) -> str:
        """Which release its files are of."""
        return self.layout.kind

    @property
    def has_decoder(self) -> bool:
        """Whether a U-Net is there."""
        return any((self.root / name).is_file() for name in self.layout.unets.values())

    def chosen(self, variant: str | None = None) -> str:
        """Which U-Net is read: "inpainting", "flash", or "" for the first; see `Layout.unet_of`."""
        return self.layout.unet_of(variant, lambda name: (self.root / name).is_file())

    @property
    def has_prior(self) -> bool:
        """Whether a prior is there."""
        return self.layout.prior is not None and (self.root / self.layout.prior).is_file()

    @property
    def encoder(self) -> Path | None:
        """The folder of the text encoder and its tokenizer, None when there is none."""
        names = (self.layout.text_encoder, self.layout.published_text_encoder)
        folders = [self.root / name for name in names if name is not None]
        folders += [] if self.text_encoder is None else [self.text_encoder]
        return next((one for one in folders if one.is_dir()), None)

    @property
    def lacking_encoder(self) -> str | None:
        """The repository in which the text encoder is that its decoder lacks, None where it lacks none."""
        return self.layout.published_text_encoder if self.has_decoder and self.encoder is None else None

    @property
    def lacking_clip(self) -> tuple[str, ...]:
        """The files of CLIP, in the layout of transformers, without which its prior cannot read."""
        if not self.has_prior:
            return ()
        names = () if self.towers is not None else CLIP_TOWERS
        return names if self.vocabulary is not None else (*names, *CLIP_VOCABULARY)

    @property
    def towers(self) -> Path | None:
        """The file or the folder of CLIP's towers, None when there is none."""
        file, folder = (self.root / (name or "") for name in (self.layout.clip, self.layout.clip_folder))
        if file.is_file():
            return file
        folders = [folder] if self.clip is None else [folder, self.clip]
        return next((one for one in folders if (one / "config.json").is_file()), None)

    @property
    def vocabulary(self) -> Path | None:
        """The folder of CLIP's vocabulary, None when there is none."""
        folders = [self.root / name for name in self.layout.vocabularies]
        folders += [] if self.clip is None else [self.clip]
        known = ("vocab.json", "tokenizer.json")
        return next((one for one in folders if any((one / name).is_file() for name in known)), None)

    def file(self, name: str | None) -> Path:
        """The path of one of the release's files; CheckpointError when it is missing."""
        path = self.root / (name or "")
        if name is None or not path.is_file():
            raise CheckpointError(f"{self.root} lacks the file {name}.", "Download it beside the others.")
        return path

    def folder(self, name: str | None) -> Path:
        """The path of one of the release's folders; CheckpointError when it is missing."""
        path = self.root / (name or "")
        if name is None or not path.is_dir():
            raise CheckpointError(f"{self.root} lacks the folder {name!r}.", "Download it beside the others.")
        return path


@dataclass(frozen=True)
class Form(Generic[M]):
    """A kind of network in an original file: how its sizes are read off the tensors, and its names."""

    infer: Callable[[Mapping[str, Tensor]], Any]
    build: Callable[[Any], M]
    keys: Callable[[Any, Iterable[str]], KeyMap]
    names: tuple[str, ...] = ()

    def load(self, path: Path, tensors: Mapping[str, Tensor], dtype: Dtype) -> M:
        """The network of a file's tensors; CheckpointError, naming `path`, when they make none."""
        return cast(M, self.stored(path, lambda: tensors).load(dtype))

    def stored(self, path: Path, tensors: Callable[[], Mapping[str, Tensor]]) -> Stored:
        """The network where it lies: `tensors` maps its file's; CheckpointError as for `load`."""
        found = tensors()
        try:
            config = self.infer(found)
            keys = self.keys(config, found)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error.message}", error.hint) from error
        return Stored(tensors, keys, lambda: self.build(config), f"network of {path.name}", path)

    def tensors(self, module: nn.Module) -> dict[str, Tensor]:
        """The tensors of a network's file.

        Raises CheckpointError for a network whose sizes such a file could not tell.
        """
        config: Any = module.config
        tensors = self.keys(config, self.names).to_foreign(module.state_dict())
        check_told(config, self.infer(tensors))
        return tensors


UNET = Form(infer_unet2_config, UNet2, lambda config, _: original_unet2_map(config))
MOVQ = Form(
    infer_movq_config, MoVQ, lambda config, names: original_movq_map(config, wrapped=wraps_norms(names))
)
KL = Form(infer_kl_config, AutoencoderKL, lambda config, _: original_kl_map(config))
SECOND_TEXT = Form(
    lambda tensors: infer_t5_config(tensors, "gelu_tanh"), T5Encoder, lambda _, names: t5_map(names), TABLES
)
PRIOR = Form(infer_prior_config, Prior, lambda config, _: original_prior_map(config))


def multilingual(heads: int | None) -> Form[MultilingualClip]:
    """The form of the multilingual text encoder, the number of whose heads lies beside the tensors."""
    return Form(lambda tensors: infer_mclip_config(tensors, heads), MultilingualClip, lambda *_: MCLIP)


def check_told(config: object, told: object) -> None:
    """Raises CheckpointError when a file's tensors tell of another network than the one they are from."""
    if config != told:
        raise CheckpointError(
            f"Original files have no place for {config}: their tensors would be read as {told}.",
            "Only networks of the published kind can be written to them.",
        )


@dataclass(frozen=True, eq=False)
class ClipTowers:
    """CLIP: both towers, and the logarithm of their temperature."""

    text: ClipText
    vision: ClipVision
    logit_scale: Tensor


def open_original(path: str | Path) -> OriginalFolder | None:
    """Opens a folder of original files; None when it is none.

    Raises CheckpointError when files of two releases lie in it.
    """
    root = Path(path)
    if not (found := _layouts_in(root)) and (above := _layouts_in(root.absolute().parent)):
        # The folder within a release that holds its files: they are named from the one above.
        root, found = root.absolute().parent, [layout for layout in above if _is_below(layout, root.name)]
    if len(found) > 1:
        raise CheckpointError(
            f"{root} holds files of {len(found)} releases.", "Give each release a folder of its own."
        )
    return OriginalFolder(root, found[0]) if found else None


def _layouts_in(root: Path) -> list[Layout]:
    """The releases of which a network is there."""
    return [
        layout
        for layout in LAYOUTS
        if any(name and (root / name).is_file() for name in (*layout.unets.values(), layout.prior))
    ]


def _is_below(layout: Layout, folder: str) -> bool:
    return layout.unet.startswith(f"{folder}/")


def open_checkpoint(path: str | Path) -> Folder | OriginalFolder:
    """Opens a folder in either layout; CheckpointError when it is in none."""
    original = None if (Path(path) / INDEX).is_file() else open_original(path)
    return original or open_folder(path)


def read_unet(folder: OriginalFolder, variant: str | None = None, dtype: Dtype = None) -> UNet2:
    """The U-Net; `variant` "inpainting" asks for that one where both are there.

    This and the following keep the file's dtypes where `dtype` is None, and raise CheckpointError for files
    that are missing, damaged or of another network.
    """
    path = folder.file(folder.layout.unets[folder.chosen(variant)])
    return UNET.load(path, read_tensor_file(path), dtype)


def read_movq(folder: OriginalFolder, dtype: Dtype = None) -> MoVQ:
    """The autoencoder with a codebook."""
    return cast(MoVQ, stored_movq(folder).load(dtype))


def stored_movq(folder: OriginalFolder) -> Stored:
    """The same where it lies."""
    path = folder.file(folder.layout.codec)
    return MOVQ.stored(path, lambda: read_tensor_file(path))


def read_kl(folder: OriginalFolder, dtype: Dtype = None) -> AutoencoderKL:
    """The autoencoder with a posterior."""
    path = folder.file(folder.layout.codec)
    return KL.load(path, drop_training(read_tensor_file(path)), dtype)


def read_multilingual(folder: OriginalFolder, dtype: Dtype = None) -> MultilingualClip:
    """The multilingual text encoder; the number of its heads is in its configuration, or they are 64 wide."""
    path = folder.folder(folder.layout.text_encoder)
    json = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    heads = json.get("num_attention_heads")
    form = multilingual(heads if isinstance(heads, int) and heads > 0 else None)
    return form.load(path, read_weights(path, "pytorch_model"), dtype)


def read_second_text(folder: OriginalFolder, dtype: Dtype = None) -> T5Encoder:
    """The second text encoder."""
    path = folder.folder(folder.layout.second_text_encoder)
    return SECOND_TEXT.load(path, without_decoder(read_weights(path, "pytorch_model")), dtype)


def read_prior(folder: OriginalFolder, dtype: Dtype = None) -> Prior:
    """The prior, with the statistics of image embeddings that lie in a file of their own."""
    path = folder.file(folder.layout.prior)
    statistics = read_pickle(folder.file(folder.layout.statistics))
    return PRIOR.load(path, with_statistics(read_tensor_file(path), statistics), dtype)


def read_clip(folder: OriginalFolder, dtype: Dtype = None) -> ClipTowers:
    """CLIP's towers, from its own file (a TorchScript archive or plain tensors) or a transformers folder."""
    towers = folder.towers
    if towers is not None:
        return _original_clip(towers, dtype) if towers.is_file() else _transformers_clip(towers, dtype)
    raise CheckpointError(
        f"{folder.root} lacks CLIP: neither {folder.layout.clip} nor {folder.layout.clip_folder}/config.json "
        "is there.",
        "Put one of them beside the others, or give prior= a folder in diffusers layout.",
    )


def read_text_tokenizer(folder: OriginalFolder, second: bool = False) -> Tokenizer:
    """The tokenizer of a text encoder, whose files lie beside its weights; TokenizerError without them."""
    layout = folder.layout
    return load_tokenizer(folder.folder(layout.second_text_encoder if second else layout.text_encoder))


def clip_vocabulary(folder: OriginalFolder) -> Path:
    """The folder of CLIP's vocabulary; TokenizerError, naming where it was looked for, when there is none."""
    if folder.vocabulary is not None:
        return folder.vocabulary
    raise TokenizerError(
        f"{folder.root} lacks CLIP's vocabulary: looked for vocab.json with merges.txt, or tokenizer.json, "
        f"in {' and '.join(folder.layout.vocabularies)}.",
        "Copy them from any CLIP folder, or give prior= a folder in diffusers layout.",
    )


def read_clip_tokenizer(folder: OriginalFolder) -> Tokenizer:
    """CLIP's tokenizer, padding as the original code did."""
    return replace(load_tokenizer(clip_vocabulary(folder), "CLIPTokenizer"), pad_id=CLIP_PAD_ID)


def _original_clip(path: Path, dtype: Dtype) -> ClipTowers:
    tensors = read_torchscript(path) if is_torchscript(path) else read_tensor_file(path)
    # The causal mask is a number of the program, not of the network.
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("attn_mask")}
    text, vision = infer_clip_text_config(tensors), infer_clip_vision_config(tensors)
    found = from_original_clip(tensors)
    return ClipTowers(
        load_strict(lambda: ClipText(text), found.text, dtype, "text tower of CLIP"),
        load_strict(lambda: ClipVision(vision), found.vision, dtype, "vision tower of CLIP"),
        found.logit_scale,
    )


def _transformers_clip(path: Path, dtype: Dtype) -> ClipTowers:
    json, tensors = read_json(path / "config.json"), read_weights(path, "model")
    parts = [json.get(name) for name in ("text_config", "vision_config")]
    if not all(isinstance(part, Mapping) for part in parts) or "logit_scale" not in tensors:
        raise CheckpointError(f"{path} holds no CLIP with both its towers.", "Give a whole CLIPModel.")
    shared = {"projection_dim": json["projection_dim"]} if "projection_dim" in json else {}
    text, vision = (shared | dict(part or {}) for part in parts)
    text_config, vision_config = clip_text_config(text), clip_vision_config(vision)

    def of(*prefixes: str) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if name.startswith(prefixes)}

    return ClipTowers(
        load_strict(
            lambda: ClipText(text_config),
            CLIP_TEXT.to_native(of("text_")),
            dtype,
            "text tower of CLIP",
        ),
        load_strict(
            lambda: ClipVision(vision_config),
            CLIP_VISION.to_native(of("vision_", "visual_")),
            dtype,
            "vision tower of CLIP",
        ),
        tensors["logit_scale"],
    )
