import torch
from diffusers import AutoPipelineForText2Image
from diffusers.models.attention_processor import AttnAddedKVProcessor, AttnAddedKVProcessor2_0

pipe = AutoPipelineForText2Image.from_pretrained("kandinsky-community/kandinsky-2-2-decoder", torch_dtype=torch.float32)
pipe.unet.set_attn_processor(AttnAddedKVProcessor2_0())
options = {"height": 64, "width": 64, "num_inference_steps": 3, "prior_num_inference_steps": 3}
image = pipe("a castle", generator=torch.manual_seed(0), **options).images[0]
pipe.unet.set_attn_processor(AttnAddedKVProcessor())
again = pipe("a castle", generator=torch.manual_seed(0), **options).images[0]
pipe.enable_attention_slicing()
