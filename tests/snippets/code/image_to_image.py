import torch
from diffusers import KandinskyV22Img2ImgPipeline, KandinskyV22PriorPipeline
from diffusers.utils import load_image, make_image_grid

prior_pipeline = KandinskyV22PriorPipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-2-prior", torch_dtype=torch.float32, use_safetensors=True
)
pipeline = KandinskyV22Img2ImgPipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-2-decoder", torch_dtype=torch.float32, use_safetensors=True
)

original_image = load_image("sketch.png")
original_image = original_image.resize((64, 64))

prompt = "A fantasy landscape, Cinematic lighting"
negative_prompt = "low quality, bad quality"

generator = torch.manual_seed(43)
image_embeds, negative_image_embeds = prior_pipeline(
    prompt, negative_prompt, num_inference_steps=4, generator=generator
).to_tuple()

image = pipeline(
    image=original_image,
    image_embeds=image_embeds,
    negative_image_embeds=negative_image_embeds,
    height=64,
    width=64,
    num_inference_steps=10,
    strength=0.3,
    generator=generator,
).images[0]
grid = make_image_grid([original_image, image], rows=1, cols=2)
assert grid.size == (128, 64)
