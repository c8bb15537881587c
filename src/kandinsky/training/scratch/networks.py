"""The networks that are trained from scratch: only here and in `clip_model` does training name them."""

from collections.abc import Mapping
from dataclasses import dataclass

from kandinsky.core.errors import ConfigError, nearest
from kandinsky.networks.clip import ClipTextConfig, ClipVisionConfig
from kandinsky.networks.movq import MoVQ as Autoencoder
from kandinsky.networks.movq import MoVQConfig
from kandinsky.networks.prior import Prior, PriorCondition, PriorConfig
from kandinsky.networks.unet2 import UNet2 as Decoder
from kandinsky.networks.unet2 import UNet2Condition as DecoderCondition
from kandinsky.networks.unet2 import UNet2Config
from kandinsky.training.config import network_config
from kandinsky.training.scratch.clip_model import ClipModel

__all__ = ["Autoencoder", "Decoder", "DecoderCondition", "NetworkFactory", "Prior", "PriorCondition"]

CONFIGS: dict[str, type] = {
    "movq": MoVQConfig,
    "clip_text": ClipTextConfig,
    "clip_vision": ClipVisionConfig,
    "prior": PriorConfig,
    "decoder": UNet2Config,
}
"""What [networks] may describe."""


@dataclass(frozen=True)
class NetworkFactory:
    """Makes networks of the sizes in `tables`; ConfigError for tables that describe none."""

    tables: Mapping[str, Mapping[str, object]]

    def __post_init__(self) -> None:
        for name, table in self.tables.items():
            if name not in CONFIGS:
                raise ConfigError(f"networks: there is no network {name!r}.", nearest(name, CONFIGS))
            network_config(CONFIGS[name], table, name)

    def _table(self, name: str) -> Mapping[str, object]:
        if name not in self.tables:
            raise ConfigError(f"networks.{name} is not set.", "Give the sizes of that network.")
        return self.tables[name]

    @property
    def clip_text(self) -> ClipTextConfig:
        """The configuration of the text tower."""
        return network_config(ClipTextConfig, self._table("clip_text"), "clip_text")

    def movq_config(self) -> MoVQConfig:
        """The configuration of the autoencoder."""
        return network_config(MoVQConfig, self._table("movq"), "movq")

    def movq(self) -> Autoencoder:
        """An untrained autoencoder."""
        return Autoencoder(self.movq_config())

    def clip(self) -> ClipModel:
        """Untrained text and vision towers."""
        vision = network_config(ClipVisionConfig, self._table("clip_vision"), "clip_vision")
        return ClipModel(self.clip_text, vision)

    def prior(self) -> Prior:
        """An untrained prior."""
        return Prior(network_config(PriorConfig, self._table("prior"), "prior"))

    def decoder_config(self) -> UNet2Config:
        """The configuration of the decoder."""
        return network_config(UNet2Config, self._table("decoder"), "decoder")

    def decoder(self) -> Decoder:
        """An untrained decoder."""
        network = Decoder(self.decoder_config())
        network.initialise()
        return network
