import numpy as np
import torch
from diffusers import KandinskyInpaintPipeline, KandinskyPriorPipeline
from diffusers.utils import load_image

pipe_prior = KandinskyPriorPipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-1-prior", torch_dtype=torch.float32
)
generator = torch.manual_seed(0)
image_emb, zero_image_emb = pipe_prior("a hat", num_inference_steps=4, generator=generator, return_dict=False)
pipe = KandinskyInpaintPipeline.from_pretrained("kandinsky-community/kandinsky-2-1-inpaint", torch_dtype=torch.float32)
init_image = load_image("cat.png")
mask = np.zeros((64, 64), dtype=np.float32)
mask[:25, 25:-25] = 1
out = pipe(
    "a hat",
    image=init_image,
    mask_image=mask,
    image_embeds=image_emb,
    negative_image_embeds=zero_image_emb,
    height=64,
    width=64,
    num_inference_steps=4,
    generator=generator,
)
image = out.images[0]
