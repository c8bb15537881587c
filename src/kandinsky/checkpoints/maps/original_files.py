"""The files of the original releases of 2.0, 2.1 and 3.x: names, and a number that none of them tells.

Read before anything is downloaded, so nothing here needs torch.
"""

from collections.abc import Callable
from dataclasses import dataclass

from kandinsky.core.errors import CheckpointError

INPAINTING, FLASH = "inpainting", "flash"
"""The variants that mean another U-Net of a folder of several: one that inpaints, one of few steps."""


@dataclass(frozen=True)
class OriginalFiles:
    """What the parts of a release are called: files, and folders for text encoders with their tokenizers.

    `unet`, `inpainting` and `flash` are the U-Nets, of which a folder holds one or more. A part that the
    release does not have is None. `published_text_encoder` is where its text encoder was taken from, for
    folders that have none of their own; `projections` are files beside it, by the U-Net they belong to. The
    towers of CLIP are one file of another release, or a folder in the layout of transformers; its vocabulary
    lies in one of `vocabularies`.
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
        """The variant of the U-Net to read: the one asked for, or else the first whose file is `there`.

        Raises CheckpointError for one that the release does not have.
        """
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
