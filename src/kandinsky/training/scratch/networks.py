"""The networks that are trained from scratch, built of the tables under [networks]."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import nn

from kandinsky.checkpoints.components import ComponentSpec
from kandinsky.checkpoints.maps.networks import CLIP_TEXT, CLIP_VISION, MOVQ, PRIOR, UNET
from kandinsky.core.errors import ConfigError, nearest
from kandinsky.training.config.table import network_config
from kandinsky.training.scratch.clip_model import ClipModel

C = TypeVar("C")
M = TypeVar("M", bound=nn.Module)
Tables = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class NetworkTable(Generic[C, M]):
    """A network of one kind, of the sizes in the table `name`; called, it makes one that is untrained."""

    name: str
    spec: ComponentSpec[C, M]
    tables: Tables

    @property
    def config(self) -> C:
        """Its configuration; ConfigError where the table is missing or describes none."""
        if self.name not in self.tables:
            raise ConfigError(f"networks.{self.name} is not set.", "Give the sizes of that network.")
        return network_config(self.spec.sizes, self.tables[self.name], self.name)

    def __call__(self) -> M:
        return self.spec.build(self.config)


class NetworkFactory:
    """Makes networks of the sizes in `tables`; ConfigError for tables that describe none."""

    def __init__(self, tables: Tables) -> None:
        self.movq = NetworkTable("movq", MOVQ, tables)
        self.clip_text = NetworkTable("clip_text", CLIP_TEXT, tables)
        self.clip_vision = NetworkTable("clip_vision", CLIP_VISION, tables)
        self.prior = NetworkTable("prior", PRIOR, tables)
        self.unet = NetworkTable("decoder", UNET, tables)
        kinds = (self.movq, self.clip_text, self.clip_vision, self.prior, self.unet)
        known = {kind.name: kind for kind in kinds}
        for name in tables:
            if name not in known:
                raise ConfigError(f"networks: there is no network {name!r}.", nearest(name, known))
            _ = known[name].config

    def clip(self) -> ClipModel:
        """Untrained text and vision towers."""
        return ClipModel(self.clip_text.config, self.clip_vision.config)

    def decoder(self) -> nn.Module:
        """An untrained decoder."""
        network = self.unet()
        network.initialise()
        return network
