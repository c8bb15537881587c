import numpy as np
import torch
from diffusers import KandinskyV22InpaintPipeline, KandinskyV22PriorPipeline
from diffusers.utils import load_image

pipe_prior = KandinskyV22PriorPipeline.from_pretrained("kandinsky-community/kandinsky-2-2-prior")
generator = torch.Generator().manual_seed(0)
image_emb, zero_image_emb = pipe_prior("a hat", num_inference_steps=4, generator=generator, return_dict=False)

pipe = KandinskyV22InpaintPipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-2-decoder-inpaint", torch_dtype=torch.float32
)
init_image = load_image("cat.png")
mask = np.zeros((64, 64), dtype=np.float32)
# Mask out the desired area above the cat's head
mask[:25, 25:-25] = 1

out = pipe(
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
