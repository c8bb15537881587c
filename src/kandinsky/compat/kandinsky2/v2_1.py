"""Kandinsky 2.1 by the original code's names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from PIL.Image import Image
from torch import Tensor

from kandinsky.compat.calls import generating, signed
from kandinsky.compat.diffusers.callbacks import warned
from kandinsky.compat.kandinsky2.facade import Facade
from kandinsky.compat.kandinsky2.inputs import inputs_of
from kandinsky.compat.originals import OriginalNoise
from kandinsky.conditioning.decoder_texts import TextsConditioner
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.images import Picture, open_image
from kandinsky.core.prompts import Embedding
from kandinsky.diffusion.times import respaced
from kandinsky.generations.k21 import original_prior_schedule, original_schedules
from kandinsky.generations.model import Model
from kandinsky.networks.xlmr import MultilingualClip

DEFAULTS: dict[str, object] = {
    "batch_size": 1,
    "guidance_scale": 7,
    "h": 512,
    "negative_decoder_prompt": "",
    "negative_prior_prompt": "",
    "num_steps": 100,
    "prior_cf_scale": 4,
    "prior_steps": "25",
    "sampler": "ddim_sampler",
    "strength": 0.7,
    "w": 512,
}
"""What a parameter is unless it is given; all others are required."""
SETTINGS = "num_steps batch_size guidance_scale h w sampler prior_cf_scale prior_steps"

made = generating(DEFAULTS)


class Kandinsky2_1(Facade):  # noqa: N801  (the name that existing code uses)
    """Kandinsky 2.1; images come as lists of PIL images, embeddings as tensors (batch_size, D)."""

    generate_text2img = made(
        f"prompt {SETTINGS} negative_prior_prompt negative_decoder_prompt",
        "Images of a prompt, of exactly w x h.",
        "generate_text2img",
    )
    generate_img2img = made(
        f"prompt pil_img strength {SETTINGS}",
        "Images that keep the more of `pil_img` the higher `strength` in 0 to 1 is.",
        "generate_img2img",
    )
    generate_inpainting = made(
        f"prompt pil_img img_mask {SETTINGS} negative_prior_prompt negative_decoder_prompt",
        "Images in which `pil_img` is kept where `img_mask` is 1 and repainted elsewhere. Unlike in the "
        "original code, `negative_decoder_prompt` acts.",
        "generate_inpainting",
    )
    mix_images = signed(
        lambda model, given: model._mix(**given),
        f"images_texts weights {SETTINGS} negative_prior_prompt negative_decoder_prompt",
        DEFAULTS,
        "Images of the weighted sum of texts and images, one and the same for all of them. Raises "
        "RequestError when there are not as many weights as items.",
        "mix_images",
    )

    def _generate(self, given: dict[str, Any]) -> list[Image]:
        """The images of a prompt in any of the three tasks, told apart by the inputs they have."""
        fields = inputs_of(given, given["w"], given["h"])
        if "negative_prior_prompt" in given:
            fields["prior_negative_prompt"] = given["negative_prior_prompt"]
            fields["negative_prompt"] = given["negative_decoder_prompt"] or None
        return self._decoded(given["prompt"], fields, given, given["batch_size"])

    def _mix(
        self,
        images_texts: Sequence[object],
        weights: Sequence[float],
        batch_size: int,
        prior_cf_scale: float,
        prior_steps: str | int,
        negative_prior_prompt: str,
        negative_decoder_prompt: str,
        **settings: object,
    ) -> list[Image]:
        """The images of a mix, `batch_size` of one sum; `settings` are those of the decoder."""
        if not images_texts or len(images_texts) != len(weights):
            raise RequestError(
                f"{len(images_texts)} items are mixed with {len(weights)} weights.", "Give one per item."
            )
        tail = (prior_cf_scale, prior_steps, negative_prior_prompt)
        parts = [
            weight
            * (self.generate_clip_emb(item, 1, *tail) if isinstance(item, str) else self.encode_images(item, True))
            for item, weight in zip(images_texts, weights, strict=True)
        ]
        mixed = torch.stack(parts).sum(dim=0).repeat(batch_size, 1)
        against = (
            self.generate_clip_emb(negative_decoder_prompt, batch_size, *tail)
            if negative_decoder_prompt
            else self.create_zero_img_emb(batch_size)
        )
        prompts = [Embedding(row, other) for row, other in zip(mixed, against, strict=True)]
        told = {**settings, "prior_cf_scale": prior_cf_scale, "prior_steps": prior_steps}
        return self._decoded(prompts, {}, told, 1)

    def generate_clip_emb(
        self,
        prompt: str,
        batch_size: int = 1,
        prior_cf_scale: float = 4,
        prior_steps: str | int = "25",
        negative_prior_prompt: str = "",
    ) -> Tensor:
        """Image embeddings of a prompt through the prior, (batch_size, D)."""
        stage = self._stage(prior_steps)
        texts = [stage.encode_text(text) for text in (negative_prior_prompt, prompt)]
        steps = len(stage.schedule.times(1))
        noise = OriginalNoise(self.noise, 1 + steps, axes=2, doubled=True)
        guided = prior_cf_scale > 1 and prompt != negative_prior_prompt
        rows = [text for text in (texts if guided else texts[1:]) for _ in range(batch_size)]
        prepared = stage.prepare(rows, steps)
        run = stage.sample(prepared, noise, batch_size, steps, float(prior_cf_scale) if guided else None)
        embedding: Tensor = warned(run)
        noise.finish()
        return embedding

    def encode_images(self, image: Any, is_pil: bool = False) -> Tensor:
        """The image embedding (B, D) of a PIL image or, unless `is_pil`, of normalised pixels (B, 3, S,
        S)."""
        stage = self._stage()
        if is_pil or not isinstance(image, Tensor):
            return stage.encode_image(Picture(open_image(image)))
        with torch.no_grad():
            embedding: Tensor = stage.see(image)
        return embedding

    def create_zero_img_emb(self, batch_size: int) -> Tensor:
        """The embedding that stands for no image, (batch_size, D)."""
        return self._stage().zero_embedding.repeat(batch_size, 1)

    @property
    def text_encoder(self) -> MultilingualClip:
        """The multilingual text encoder."""
        return cast(MultilingualClip, self._conditioner.texts.first.network)

    @property
    def tokenizer1(self) -> Tokenizer:
        """The multilingual text encoder's tokenizer."""
        return self._conditioner.texts.first.tokenizer

    @torch.no_grad()
    def encode_text(
        self, text_encoder: MultilingualClip, tokenizer: Tokenizer, prompt: str, batch_size: int
    ) -> tuple[Tensor, Tensor]:
        """Hidden states (2 x batch_size, 77, W) and embeddings (2 x batch_size, P): the prompt's, then the
        empty text's."""
        tokens = tokenizer.encode([prompt] * batch_size + [""] * batch_size, 77)
        place = text_encoder.projection.weight.device
        hidden, embedding = text_encoder(tokens.ids.to(place), tokens.mask.to(place))
        return hidden, embedding

    @property
    def _conditioner(self) -> TextsConditioner:
        conditioner = self.model.conditioner
        assert isinstance(conditioner, TextsConditioner)  # what this release is always wired with
        return conditioner

    def _stage(self, prior_steps: str | int | None = None) -> PriorStage:
        """The prior as the original code runs it; `prior_steps` is a count, or sections such as "10,5" or
        "ddim25"."""
        stage = self._conditioner.prior
        if stage is None:
            raise CheckpointError("This model was loaded without its prior.", "Give the folder of it too.")
        if prior_steps is None:
            return stage
        changed = replace(stage, schedule=original_prior_schedule(str(prior_steps)))
        # The original code would compute it again for every call.
        changed.__dict__["zero_embedding"] = stage.zero_embedding
        return changed

    def _decoded(self, prompt: Any, fields: Mapping[str, Any], given: Mapping[str, Any], count: int) -> list[Image]:
        """`count` images of each prompt by the settings `given`."""
        stage = self._stage(given["prior_steps"])
        steps = len(respaced(str(given["prior_steps"]), stage.schedule.process.T))
        noise = OriginalNoise(self.noise, 1 + steps, axes=2, doubled=True, plain=int("strength" in fields))
        prior = {"prior_steps": steps, "prior_guidance_scale": given["prior_cf_scale"]}
        return self._images(self._model(stage), prompt, given, {**fields, **prior, "count": count}, noise)

    def _model(self, stage: PriorStage) -> Model:
        """The model as the original code runs it, whichever layout its files had."""
        model, conditioner = self.model, self._conditioner
        schedules = self._bound(original_schedules(replace_known_region=model.extra_channels == 0))
        assert conditioner.image is not None
        image = replace(conditioner.image, stage=stage)
        return replace(
            model,
            conditioner=replace(conditioner, image=image, negative_texts=False),
            schedule=schedules["ddim"],
            schedules=schedules,
        )
