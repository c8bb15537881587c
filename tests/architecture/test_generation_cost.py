"""What a generation costs: a network, a map, a wiring, a row; nothing else may know its classes."""

import ast
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import kandinsky
from kandinsky import generations
from kandinsky.checkpoints.checkpoint import Checkpoint
from kandinsky.checkpoints.components import CheckpointSpec, ComponentSpec
from kandinsky.checkpoints.convert import write_folder
from kandinsky.checkpoints.files import Json
from kandinsky.checkpoints.keymap import KeyMap, renames
from kandinsky.checkpoints.maps.config_fields import build, read_sizes, require, write_sizes
from kandinsky.checkpoints.maps.networks import MOVQ
from kandinsky.checkpoints.maps.scheduler import LATENT_BETAS, decoder_schedule_json, schedule_from_json
from kandinsky.checkpoints.original import OriginalFolder, Source
from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
from kandinsky.conditioning.conditions import Batch, Conditions
from kandinsky.core.errors import CheckpointError
from kandinsky.core.events import Event
from kandinsky.core.requests import Request
from kandinsky.generations.loading import Generation, Placement, StageLoader
from kandinsky.generations.model import Model
from kandinsky.networks.film_table import FilmTable
from kandinsky.networks.movq import MoVQ, MoVQConfig
from kandinsky.networks.prepared import PreparedNetwork

ROOT = Path(kandinsky.__file__).resolve().parent
HOMES = ("generations", "checkpoints/maps", "networks", "conditioning", "backends/mindspore", "compat")
"""Where the classes of a generation's networks and conditioners may be named."""
NETWORKS = ("clip", "kl", "movq", "prior", "t5", "unet2", "unet2_conditioning", "unet3", "unet3_blocks", "xlmr")
CONDITIONERS = ("decoder_texts", "image_prompt", "one_text", "prior_stage", "text_image", "two_texts")
CONCRETE = {
    *(f"kandinsky.networks.{name}" for name in NETWORKS),
    *(f"kandinsky.conditioning.{name}" for name in CONDITIONERS),
}


def names_a_class(source: str) -> bool:
    """Whether a file imports such a class, or the module that holds them."""
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    named = [(node.module or "", alias.name) for node in imports for alias in node.names]
    return any(name[0].isupper() if module in CONCRETE else f"{module}.{name}" in CONCRETE for module, name in named)


def test_no_file_outside_their_homes_names_networks_or_conditioners() -> None:
    found = [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if not path.relative_to(ROOT).as_posix().startswith(tuple(f"{home}/" for home in HOMES))
        and names_a_class(path.read_text(encoding="utf-8"))
    ]
    assert not found, f"files that name a class of one generation: {found}"


def test_a_named_class_is_seen() -> None:
    assert names_a_class("from kandinsky.networks.unet2 import UNet2")
    assert names_a_class("from kandinsky.networks import layers, unet3")
    assert names_a_class("def f():\n    from kandinsky.conditioning.one_text import OneTextConditioner")
    assert not names_a_class("from kandinsky.networks.layers import Attention\nimport kandinsky.networks.prior")


# The network.


@dataclass(frozen=True)
class FifthConfig:
    in_channels: int = 4
    width: int = 8
    multiple: int = 1


@dataclass(frozen=True, eq=False)
class FifthCondition:
    text: Tensor
    extra: Tensor | None = None

    def joined(self, other: "FifthCondition") -> "FifthCondition":
        return FifthCondition(torch.cat([self.text, other.text]))


class Fifth(nn.Module):
    def __init__(self, config: FifthConfig) -> None:
        super().__init__()
        self.config = config
        self.first = nn.Conv2d(config.in_channels, config.width, 3, padding=1)
        self.last = nn.Conv2d(config.width, config.in_channels, 3, padding=1)

    def prepare(
        self, condition: FifthCondition, times: Sequence[float], deep_at: Collection[float] | None = None
    ) -> PreparedNetwork[Tensor]:
        width = self.config.width
        table = FilmTable(self.films, times, condition.text[:, None].expand(-1, width), width)
        return PreparedNetwork(self, table, lambda row: table.split(row)[0])

    def films(self, t: Tensor, pooled: Tensor) -> list[Tensor]:
        return [pooled + t[:, None, None] / 1000]

    def denoise(self, x: Tensor, fixed: Tensor) -> Tensor:
        eps: Tensor = self.last(torch.sin(self.first(x) + fixed[:, :, None, None]))
        return eps

    def request_modules(self) -> list[nn.Module]:
        return []


# The map.

SIZES = {"in_channels": ("in_channels", 4), "width": ("hidden", 8)}


def fifth_config(json: Json) -> FifthConfig:
    require(json, "FifthUNet")
    return build(FifthConfig, **read_sizes(json, SIZES))  # type: ignore[arg-type]


FIFTH = ComponentSpec(
    "unet",
    "kandinsky",
    "FifthUNet",
    FifthConfig,
    Fifth,
    fifth_config,
    lambda config: {"_class_name": "FifthUNet", **write_sizes(config, SIZES)},  # type: ignore[arg-type]
    lambda *_: KeyMap(renames({"first": "conv_in", "last": "conv_out"})),
)

# The wiring.


class LengthConditioner:
    """Tells the network how long the text is."""

    def check(self, request: Request, guided: bool) -> None:
        """Any text will do."""

    def encode(
        self, batches: Sequence[Batch], request: Request, guided: bool
    ) -> Generator[Event, None, list[Conditions]]:
        yield from ()
        found = []
        for batch in batches:
            text = torch.tensor([float(len(str(row.prompt))) for row in batch.rows])
            uncond = FifthCondition(torch.zeros_like(text)) if guided else None
            found.append(Conditions(FifthCondition(text), uncond))
        return found


def load(source: Source, stage: StageLoader | None, place: Placement) -> Model:
    assert not isinstance(source, OriginalFolder)
    network, movq = place.put(FIFTH.open(source)), place.put(MOVQ.open(source))
    return Model(
        name="Kandinsky 5",
        conditioner=LengthConditioner(),
        network=network,
        codec=AutoencoderCodec(movq),
        schedule=schedule_from_json(source.config("scheduler")),
        defaults={"steps": 3, "guidance_scale": 2.0, "width": 64, "height": 64, "strength": 0.3},
        device=place.device,
        dtype=place.dtype,
        modules={"unet": network, "movq": movq},
    )


# The row.

ROW = Generation(CheckpointSpec(decoder=(FIFTH, MOVQ), decoders=("FifthPipeline",)), load)


def test_a_fifth_generation_loads_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nothing changed but the list of generations."""
    torch.manual_seed(0)
    fifth = Fifth(FifthConfig())
    movq = MoVQ(MoVQConfig(channels=(32, 32, 32, 32), layers=1, codebook_size=32))
    checkpoint = Checkpoint(ROW.spec, {"unet": lambda: fifth, "movq": lambda: movq}, {}, {})
    schedule = decoder_schedule_json(*LATENT_BETAS, clip=False)
    write_folder(checkpoint, tmp_path, "FifthPipeline", schedules={"scheduler": schedule})
    with pytest.raises(CheckpointError, match="FifthPipeline, which is not a known decoder"):
        kandinsky.load(tmp_path, device="cpu")
    monkeypatch.setattr(generations, "GENERATIONS", [*generations.GENERATIONS, ROW])
    pipe = kandinsky.load(tmp_path, device="cpu", dtype="float32")
    assert torch.equal(pipe.model.modules["unet"].first.weight, fifth.first.weight)  # type: ignore[union-attr, arg-type]
    images = [
        pipe.generate(prompt, seed=1, **fields).images[0].tobytes()
        for prompt, fields in (("a fox", {}), ("a fox", {}), ("a red fox", {}), ("a fox", {"sampler": "ddim"}))
    ]
    assert images[0] == images[1]
    assert len(set(images)) == 3
