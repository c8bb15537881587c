"""Names that code for the diffusers library uses: change its import line to this package and it runs here.

Each pipeline is a thin table of names over the core: the same networks, conditions, starts and the one
loop. Where diffusers is known to be wrong, these do what their documentation says.
"""

from kandinsky.compat.diffusers.attention import (
    AttnAddedKVProcessor,
    AttnAddedKVProcessor2_0,
    AttnProcessor,
    AttnProcessor2_0,
)
from kandinsky.compat.diffusers.auto import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
)
from kandinsky.compat.diffusers.models import (
    CLIPTextModelWithProjection,
    CLIPVisionModelWithProjection,
    Kandinsky3UNet,
    MultilingualCLIP,
    PriorTransformer,
    T5EncoderModel,
    UNet2DConditionModel,
    VQModel,
)
from kandinsky.compat.diffusers.outputs import ImagePipelineOutput, KandinskyPriorPipelineOutput
from kandinsky.compat.diffusers.pipeline import DiffusionPipeline
from kandinsky.compat.diffusers.pipelines import (
    Kandinsky3Img2ImgPipeline,
    Kandinsky3Pipeline,
    KandinskyCombinedPipeline,
    KandinskyImg2ImgCombinedPipeline,
    KandinskyImg2ImgPipeline,
    KandinskyInpaintCombinedPipeline,
    KandinskyInpaintPipeline,
    KandinskyPipeline,
    KandinskyPriorPipeline,
    KandinskyV22CombinedPipeline,
    KandinskyV22ControlnetImg2ImgPipeline,
    KandinskyV22ControlnetPipeline,
    KandinskyV22Img2ImgCombinedPipeline,
    KandinskyV22Img2ImgPipeline,
    KandinskyV22InpaintCombinedPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorEmb2EmbPipeline,
    KandinskyV22PriorPipeline,
)
from kandinsky.compat.diffusers.schedulers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UnCLIPScheduler,
    UniPCMultistepScheduler,
)
from kandinsky.compat.diffusers.tokenizers import (
    CLIPImageProcessor,
    CLIPTokenizer,
    T5Tokenizer,
    XLMRobertaTokenizerFast,
)
from kandinsky.compat.diffusers.utils import load_image, make_image_grid

__all__ = [
    "AttnAddedKVProcessor",
    "AttnAddedKVProcessor2_0",
    "AttnProcessor",
    "AttnProcessor2_0",
    "AutoPipelineForImage2Image",
    "AutoPipelineForInpainting",
    "AutoPipelineForText2Image",
    "CLIPImageProcessor",
    "CLIPTextModelWithProjection",
    "CLIPTokenizer",
    "CLIPVisionModelWithProjection",
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "DiffusionPipeline",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "ImagePipelineOutput",
    "Kandinsky3Img2ImgPipeline",
    "Kandinsky3Pipeline",
    "Kandinsky3UNet",
    "KandinskyCombinedPipeline",
    "KandinskyImg2ImgCombinedPipeline",
    "KandinskyImg2ImgPipeline",
    "KandinskyInpaintCombinedPipeline",
    "KandinskyInpaintPipeline",
    "KandinskyPipeline",
    "KandinskyPriorPipeline",
    "KandinskyPriorPipelineOutput",
    "KandinskyV22CombinedPipeline",
    "KandinskyV22ControlnetImg2ImgPipeline",
    "KandinskyV22ControlnetPipeline",
    "KandinskyV22Img2ImgCombinedPipeline",
    "KandinskyV22Img2ImgPipeline",
    "KandinskyV22InpaintCombinedPipeline",
    "KandinskyV22InpaintPipeline",
    "KandinskyV22Pipeline",
    "KandinskyV22PriorEmb2EmbPipeline",
    "KandinskyV22PriorPipeline",
    "MultilingualCLIP",
    "PNDMScheduler",
    "PriorTransformer",
    "T5EncoderModel",
    "T5Tokenizer",
    "UNet2DConditionModel",
    "UnCLIPScheduler",
    "UniPCMultistepScheduler",
    "VQModel",
    "XLMRobertaTokenizerFast",
    "load_image",
    "make_image_grid",
]
