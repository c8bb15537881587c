"""The file names of the original releases of 2.0, 2.1 and 3.x. Read before any download, so nothing here needs
torch."""

from collections.abc import Callable
from dataclasses import dataclass

from kandinsky.core.errors import CheckpointError

INPAINTING, FLASH = "inpainting", "flash"
"""The variants that mean another U-Net of a folder of several: one that inpaints, one of few steps."""


@dataclass(frozen=True)
class OriginalFiles:
    """The names of a release's files, and of folders for text encoders with their tokenizers; None for a missing part.

    `unet`, `inpainting` and `flash` are the U-Nets, of which a folder holds one or more. `published_text_encoder` is
    the repository of its text encoder, for folders without one; `projections` are files in the text encoder's folder,
    by U-Net. CLIP's towers are one file of another release, or a folder of transformers; its vocabulary lies in one of
    `vocabularies`.
    """

    kind: str
    unet: str
    inpainting: str
    codec: str
    text_encoder: str
    second_text_encoder: str | None = None
    prior: str | None = None
    statistics: str | None = None
    clip: str | None = None
    clip_folder: str | None = None
    vocabularies: tuple[str, ...] = ()
    flash: str | None = None
    published_text_encoder: str | None = None
    projections: tuple[tuple[str, str], ...] = ()

    @property
    def unets(self) -> dict[str, str]:
        """The U-Nets' files by the variant that means them, the first under ""."""
        files = {"": self.unet, INPAINTING: self.inpainting, FLASH: self.flash}
        return {variant: file for variant, file in files.items() if file is not None}

    def unet_of(self, variant: str | None, there: Callable[[str], bool]) -> str:
        """The variant of the U-Net to read, None being the first whose file is `there`; CheckpointError for an unknown
        one."""
        unets = self.unets
        if variant is None:
            return next((name for name, file in unets.items() if there(file)), "")
        if not variant or variant not in unets:
            known = ", ".join(repr(name) for name in unets if name)
            raise CheckpointError(f"Original files have no variant {variant!r}.", f"Known: {known}, or leave it out.")
        return variant


TWO_TEXTS = OriginalFiles(
    "two texts",
    unet="Kandinsky-2-0.pt",
    inpainting="Kandinsky-2-0-inpainting.pt",
    codec="vae.ckpt",
    text_encoder="text_encoder1",
    second_text_encoder="text_encoder2",
)
TEXT_IMAGE = OriginalFiles(
    "text and image",
    unet="decoder_fp16.ckpt",
    inpainting="inpainting_fp16.ckpt",
    codec="movq_final.ckpt",
    text_encoder="text_encoder",
    prior="prior_fp16.ckpt",
    statistics="ViT-L-14_stats.th",
    clip="ViT-L-14.pt",
    clip_folder="clip",
    vocabularies=("tokenizer", "clip"),
)
ONE_TEXT = OriginalFiles(
    "one text",
    unet="weights/kandinsky3.pt",
    inpainting="weights/kandinsky3_inpainting.pt",
    flash="weights/kandinsky3_flash.pt",
    codec="weights/movq.pt",
    text_encoder="weights/flan_ul2_encoder",
    published_text_encoder="google/flan-ul2",
    projections=(
        ("weights/kandinsky3.pt", "projection.pt"),
        ("weights/kandinsky3_inpainting.pt", "projection_inpainting.pt"),
        ("weights/kandinsky3_flash.pt", "projection_flash.pt"),
    ),
)
RELEASES = (TWO_TEXTS, TEXT_IMAGE, ONE_TEXT)

KL_SCALE = 0.0512
"""From the autoencoder's latents to those of the diffusion, in 2.0."""
