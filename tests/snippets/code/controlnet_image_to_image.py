import numpy as np
import torch
from diffusers import KandinskyV22ControlnetImg2ImgPipeline, KandinskyV22PriorEmb2EmbPipeline
from diffusers.utils import load_image

img = load_image("cat.png").resize((64, 64))
hint = torch.from_numpy(np.array(img)).float().permute(2, 0, 1)[None] / 255.0

prior_pipeline = KandinskyV22PriorEmb2EmbPipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-2-prior", torch_dtype=torch.float32, use_safetensors=True
)
pipeline = KandinskyV22ControlnetImg2ImgPipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-2-controlnet-depth", torch_dtype=torch.float32, use_safetensors=True
)

prompt = "A robot, 4k photo"
negative_prior_prompt = "lowres, text, error, cropped, worst quality"
generator = torch.Generator().manual_seed(43)

img_emb = prior_pipeline(prompt=prompt, image=img, strength=0.85, num_inference_steps=4, generator=generator)
negative_emb = prior_pipeline(
    prompt=negative_prior_prompt, image=img, strength=1, num_inference_steps=4, generator=generator
)
image = pipeline(
    image=img,
    strength=0.5,
    image_embeds=img_emb.image_embeds,
    negative_image_embeds=negative_emb.image_embeds,
    hint=hint,
    num_inference_steps=6,
    generator=generator,
    height=64,
    width=64,
).images[0]
