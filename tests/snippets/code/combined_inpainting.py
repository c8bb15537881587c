import numpy as np
import torch
from diffusers import AutoPipelineForInpainting
from diffusers.utils import load_image

pipe = AutoPipelineForInpainting.from_pretrained(
    "kandinsky-community/kandinsky-2-2-decoder-inpaint", torch_dtype=torch.float32
)

init_image = load_image("cat.png")
mask = np.zeros((64, 64), dtype=np.float32)
mask[:25, 25:-25] = 1

output_image = pipe(
    prompt="a hat",
    image=init_image,
    mask_image=mask,
    height=64,
    width=64,
    num_inference_steps=4,
    prior_num_inference_steps=4,
    generator=torch.Generator().manual_seed(1),
).images[0]
image = output_image
