"""Kandinsky 2.1 by the original code's names."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from kandinsky.compat.kandinsky2.inputs import SIDE, change_of, repainted, sampler_name, sized
from kandinsky.compat.kandinsky2.noise import OriginalNoise
from kandinsky.compat.kandinsky2.running import Facade, returned
from kandinsky.conditioning.prior_stage import PriorStage
from kandinsky.conditioning.text_image import TextImageConditioner
from kandinsky.conditioning.tokenizer import Tokenizer
from kandinsky.core.errors import CheckpointError, RequestError
from kandinsky.core.images import Picture, open_picture, round_up
from kandinsky.core.prompts import Embedding
from kandinsky.diffusion.times import respaced
from kandinsky.generations.k21 import original_prior_schedule, original_schedules
from kandinsky.generations.model import Model
from kandinsky.networks.xlmr import MultilingualClip


class Kandinsky2_1(Facade):  # noqa: N801  (the name that existing code uses)
    """Kandinsky 2.1; pictures come as lists of PIL pictures, embeddings as tensors (batch_size, D)."""

    def generate_text2img(
        self,
        prompt: str,
        num_steps: int = 100,
        batch_size: int = 1,
        guidance_scale: float = 7,
        h: int = 512,
        w: int = 512,
        sampler: str = "ddim_sampler",
        prior_cf_scale: float = 4,
        prior_steps: str | int = "25",
        negative_prior_prompt: str = "",
        negative_decoder_prompt: str = "",
    ) -> list[Image]:
        """Pictures of a prompt, of exactly w x h."""
        fields = self._fields(num_steps, batch_size, guidance_scale, h, w, sampler)
        fields |= {"prior_negative_prompt": negative_prior_prompt}
        fields |= {"negative_prompt": negative_decoder_prompt or None}
        return self._cropped(prompt, fields, prior_cf_scale, prior_steps)

    def generate_img2img(
        self,
        prompt: str,
        pil_img: Any,
        strength: float = 0.7,
        num_steps: int = 100,
        batch_size: int = 1,
        guidance_scale: float = 7,
        h: int = 512,
        w: int = 512,
        sampler: str = "ddim_sampler",
        prior_cf_scale: float = 4,
        prior_steps: str | int = "25",
    ) -> list[Image]:
        """Pictures that keep the more of `pil_img` the higher `strength` in 0 to 1 is."""
        fields = self._fields(num_steps, batch_size, guidance_scale, h, w, sampler)
        fields |= {"image": sized(pil_img, w, h), "strength": change_of(strength)}
        return self._pictures(prompt, fields, prior_cf_scale, prior_steps, plain=1)

    def generate_inpainting(
        self,
        prompt: str,
        pil_img: Any,
        img_mask: Any,
        num_steps: int = 100,
        batch_size: int = 1,
        guidance_scale: float = 7,
        h: int = 512,
        w: int = 512,
        sampler: str = "ddim_sampler",
        prior_cf_scale: float = 4,
        prior_steps: str | int = "25",
        negative_prior_prompt: str = "",
        negative_decoder_prompt: str = "",
    ) -> list[Image]:
        """Pictures in which `pil_img` is kept where `img_mask` is 1 and repainted elsewhere.

        Unlike in the original code, `negative_decoder_prompt` acts.
        """
        fields = self._fields(num_steps, batch_size, guidance_scale, h, w, sampler)
        fields |= {"image": sized(pil_img, w, h), "mask": repainted(img_mask, w, h)}
        fields |= {"prior_negative_prompt": negative_prior_prompt}
        fields |= {"negative_prompt": negative_decoder_prompt or None}
        return self._pictures(prompt, fields, prior_cf_scale, prior_steps)

    def mix_images(
        self,
        images_texts: Sequence[Any],
        weights: Sequence[float],
        num_steps: int = 100,
        batch_size: int = 1,
        guidance_scale: float = 7,
        h: int = 512,
        w: int = 512,
        sampler: str = "ddim_sampler",
        prior_cf_scale: float = 4,
        prior_steps: str | int = "25",
        negative_prior_prompt: str = "",
        negative_decoder_prompt: str = "",
    ) -> list[Image]:
        """Pictures of the weighted sum of texts and pictures, one and the same for all of them.

        Raises RequestError when there are not as many weights as items.
        """
        if not images_texts or len(images_texts) != len(weights):
            raise RequestError(
                f"{len(images_texts)} items are mixed with {len(weights)} weights.", "Give one per item."
            )
        tail = (prior_cf_scale, prior_steps, negative_prior_prompt)
        parts = [
            weight
            * (
                self.generate_clip_emb(item, 1, *tail)
                if isinstance(item, str)
                else self.encode_images(item, True)
            )
            for item, weight in zip(images_texts, weights, strict=True)
        ]
        mixed = torch.stack(parts).sum(dim=0).repeat(batch_size, 1)
        against = (
            self.generate_clip_emb(negative_decoder_prompt, batch_size, *tail)
            if negative_decoder_prompt
            else self.create_zero_img_emb(batch_size)
        )
        prompts = [Embedding(row, other) for row, other in zip(mixed, against, strict=True)]
        fields = self._fields(num_steps, 1, guidance_scale, h, w, sampler)
        return self._cropped(prompts, fields, prior_cf_scale, prior_steps)

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
        noise = OriginalNoise(self.noise, prior_steps=steps)
        guided = prior_cf_scale > 1 and prompt != negative_prior_prompt
        rows = [text for text in (texts if guided else texts[1:]) for _ in range(batch_size)]
        prepared = stage.prepare(rows, steps)
        run = stage.sample(prepared, noise, batch_size, steps, float(prior_cf_scale) if guided else None)
        embedding = returned(run)
        noise.finish()
        return embedding

    def encode_images(self, image: Any, is_pil: bool = False) -> Tensor:
        """The image embedding (B, D) of a PIL picture or, unless `is_pil`, of normalised pixels (B, 3, S,
        S)."""
        stage = self._stage()
        if is_pil or not isinstance(image, Tensor):
            return stage.encode_picture(Picture(open_picture(image)))
        with torch.no_grad():
            embedding: Tensor = stage.vision(image.to(stage.device, stage.dtype))
        return embedding

    def create_zero_img_emb(self, batch_size: int) -> Tensor:
        """The embedding that stands for no picture, (batch_size, D)."""
        return self._stage().zero_embedding.repeat(batch_size, 1)

    @property
    def text_encoder(self) -> MultilingualClip:
        """The multilingual text encoder."""
        return self._conditioner.texts.first.network

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
    def _conditioner(self) -> TextImageConditioner:
        conditioner = self.pipe.model.conditioner
        assert isinstance(conditioner, TextImageConditioner)  # what this release is always wired with
        return conditioner

    def _stage(self, prior_steps: str | int | None = None) -> PriorStage:
        """The prior as the original code runs it; `prior_steps` is a count, or sections such as "10,5" or
        "ddim25"."""
        stage = self._conditioner.image.stage
        if stage is None:
            raise CheckpointError("This model was loaded without its prior.", "Give the folder of it too.")
        if prior_steps is None:
            return stage
        changed = replace(stage, schedule=original_prior_schedule(str(prior_steps)))
        # The original code would compute it again for every call.
        changed.__dict__["zero_embedding"] = stage.zero_embedding
        return changed

    def _fields(
        self, steps: int, batch_size: int, guidance_scale: float, h: int, w: int, sampler: str
    ) -> dict[str, Any]:
        fields: dict[str, Any] = {"steps": steps, "guidance_scale": guidance_scale, "count": batch_size}
        return fields | {"height": h, "width": w, "sampler": sampler_name(sampler)}

    def _cropped(
        self, prompt: Any, fields: Mapping[str, Any], cf_scale: float, prior_steps: str | int
    ) -> list[Image]:
        """Pictures made from noise: of the next size that the published networks can, then cropped."""
        width, height = fields["width"], fields["height"]
        rounded = {**fields, "width": round_up(width, SIDE), "height": round_up(height, SIDE)}
        made = self._pictures(prompt, rounded, cf_scale, prior_steps)
        return [picture.crop((0, 0, width, height)) for picture in made]

    def _pictures(
        self, prompt: Any, fields: Mapping[str, Any], cf_scale: float, prior_steps: str | int, plain: int = 0
    ) -> list[Image]:
        stage = self._stage(prior_steps)
        steps = len(respaced(str(prior_steps), stage.schedule.process.T))
        noise = OriginalNoise(self.noise, prior_steps=steps, plain=plain)
        told = {**fields, "prior_steps": steps, "prior_guidance_scale": cf_scale}
        return self._run(self._model(stage), prompt, told, noise)

    def _model(self, stage: PriorStage) -> Model:
        """The model as the original code runs it, whichever layout its files had."""
        model, conditioner = self.pipe.model, self._conditioner
        schedules = self._bound(original_schedules(pins_known=model.extra_channels == 0))
        image = replace(conditioner.image, stage=stage)
        return replace(
            model,
            conditioner=replace(conditioner, image=image, negative_texts=False),
            schedule=schedules["ddim"],
            schedules=schedules,
        )
