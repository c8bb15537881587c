"""Every pipeline class by its name."""

from kandinsky.compat.diffusers import combined, decoders, prior, text_combined, text_decoders
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline

PIPELINES: dict[str, type[DiffusionPipeline]] = {
    kind.__name__: kind
    for kind in (
        combined.KandinskyV22CombinedPipeline,
        combined.KandinskyV22Img2ImgCombinedPipeline,
        combined.KandinskyV22InpaintCombinedPipeline,
        prior.KandinskyPriorPipeline,
        prior.KandinskyV22PriorEmb2EmbPipeline,
        prior.KandinskyV22PriorPipeline,
        decoders.KandinskyV22ControlnetImg2ImgPipeline,
        decoders.KandinskyV22ControlnetPipeline,
        decoders.KandinskyV22Img2ImgPipeline,
        decoders.KandinskyV22InpaintPipeline,
        decoders.KandinskyV22Pipeline,
        text_combined.KandinskyCombinedPipeline,
        text_combined.KandinskyImg2ImgCombinedPipeline,
        text_combined.KandinskyInpaintCombinedPipeline,
        text_decoders.KandinskyImg2ImgPipeline,
        text_decoders.KandinskyInpaintPipeline,
        text_decoders.KandinskyPipeline,
    )
}
