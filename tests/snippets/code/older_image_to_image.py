import torch
from diffusers import KandinskyImg2ImgPipeline, KandinskyPriorPipeline
from diffusers.utils import load_image

prior = KandinskyPriorPipeline.from_pretrained("kandinsky-community/kandinsky-2-1-prior")
pipeline = KandinskyImg2ImgPipeline.from_pretrained("kandinsky-community/kandinsky-2-1")

original_image = load_image("sketch.png").resize((64, 64))
prompt = "A fantasy landscape, Cinematic lighting"
negative_prompt = "low quality, bad quality"
generator = torch.manual_seed(8)
image_embeds, negative_image_embeds = prior(
    prompt, negative_prompt, num_inference_steps=4, generator=generator
).to_tuple()
image = pipeline(
    image=original_image,
    prompt=prompt,
    negative_prompt=negative_prompt,
    image_embeds=image_embeds,
    negative_image_embeds=negative_image_embeds,
    height=64,
    width=64,
    num_inference_steps=10,
    strength=0.3,
    generator=generator,
).images[0]
