import torch
from diffusers import AutoPipelineForText2Image

pipeline = AutoPipelineForText2Image.from_pretrained("kandinsky-community/kandinsky-2-1", torch_dtype=torch.float32)
image = pipeline(
    prompt="a fox in a snowy forest",
    prior_guidance_scale=1.0,
    guidance_scale=4.0,
    height=64,
    width=64,
    num_inference_steps=4,
    prior_num_inference_steps=4,
    generator=torch.manual_seed(5),
).images[0]
