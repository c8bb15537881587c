"""Models whose networks run on MindSpore."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

from torch import nn

from kandinsky.backends.mindspore.clip import ClipTextArrays, ClipVisionArrays
from kandinsky.backends.mindspore.movq import MoVQCodec
from kandinsky.backends.mindspore.prior import PriorArrays
from kandinsky.backends.mindspore.t5 import T5Arrays
from kandinsky.backends.mindspore.unet2 import CONDITIONS, UNet2Arrays
from kandinsky.backends.mindspore.unet3 import UNet3Arrays
from kandinsky.backends.mindspore.weights import Weights, read
from kandinsky.backends.mindspore.xlmr import MultilingualClipArrays
from kandinsky.checkpoints.lazy_weights import CPU, LazyWeights
from kandinsky.codecs.autoencoder_codec import AutoencoderCodec
from kandinsky.conditioning.conditions import Conditioner, TextEncoder
from kandinsky.conditioning.decoder_texts import DecoderTexts, TextsConditioner
from kandinsky.conditioning.image_prompt import ImagePromptConditioner
from kandinsky.conditioning.one_text import OneTextConditioner
from kandinsky.conditioning.prior_stage import PriorStage, unaccelerated
from kandinsky.core.errors import RequestError
from kandinsky.generations.lazy_vision import WAITS_FROM, LazyVisionTower
from kandinsky.generations.model import Model, Network
from kandinsky.networks.movq import MoVQ
from kandinsky.networks.t5 import T5Encoder
from kandinsky.networks.unet2 import UNet2
from kandinsky.networks.unet3 import UNet3
from kandinsky.networks.xlmr import MultilingualClip


@dataclass(frozen=True, eq=False)
class Host:
    """A model that was just loaded, with its networks on the meta device and their weights `stored` in files."""

    model: Model
    stored: Mapping[nn.Module, LazyWeights]

    def hosted(self) -> Model:
        """The model with all its networks on MindSpore; RequestError, before weights are read, where one has no form
        there."""
        model, unet = self.model, cast(nn.Module, self.model.network)
        movq = model.codec.network if isinstance(model.codec, AutoencoderCodec) else None
        known = isinstance(unet, UNet3) or (isinstance(unet, UNet2) and unet.config.condition in CONDITIONS)
        if not (known and isinstance(movq, MoVQ)):
            raise RequestError(
                f"{model.name} does not run on MindSpore: its networks are not there.", "Leave backend out."
            )
        conditioner = self._conditioner(model.conditioner)
        codec = MoVQCodec(movq.config, self._read(movq))
        return replace(model, network=self._unet(unet), codec=codec, conditioner=conditioner, modules={})

    def _read(self, network: nn.Module) -> Weights:
        return read(self.stored[network], network.state_dict(), self.model.dtype)

    def _unet(self, network: nn.Module) -> Network:
        if isinstance(network, UNet3):
            return UNet3Arrays(network.config, self._read(network))
        assert isinstance(network, UNet2)
        return UNet2Arrays(network.config, self._read(network))

    def _conditioner(self, conditioner: object) -> Conditioner:
        if isinstance(conditioner, OneTextConditioner):
            encoder = conditioner.encoder
            assert isinstance(encoder, T5Encoder)
            return conditioner.with_encoder(T5Arrays(encoder.config, self._read(encoder)), CPU)
        if isinstance(conditioner, TextsConditioner):
            text, image = conditioner.texts.first, conditioner.image
            assert isinstance(text.network, MultilingualClip)
            arrays: Any = MultilingualClipArrays(text.network.config, self._read(text.network))
            texts = DecoderTexts(TextEncoder(text.tokenizer, arrays, CPU))
            return replace(conditioner, texts=texts, image=None if image is None else self._by_images(image))
        assert isinstance(conditioner, ImagePromptConditioner)
        return self._by_images(conditioner)

    def _by_images(self, conditioner: ImagePromptConditioner) -> ImagePromptConditioner:
        stage = conditioner.stage
        return conditioner if stage is None else replace(conditioner, stage=self._stage(stage))

    def _stage(self, stage: PriorStage) -> PriorStage:
        # All three are called as the modules are whose places they take.
        text: Any = ClipTextArrays(stage.text.config, self._read(stage.text))
        network: Any = PriorArrays(stage.network.config, self._read(stage.network))
        tower, dtype, weights = stage.vision, self.model.dtype, self.stored[stage.vision]
        nothing = LazyVisionTower(tower, weights, CPU, dtype) if weights.count() >= WAITS_FROM else None
        vision: Any = ClipVisionArrays(tower.config, partial(self._read, tower), dtype, nothing)
        parts = {"text": text, "network": network, "vision": vision, "lazy_vision": vision}
        return replace(stage, **parts, accelerate=unaccelerated)
