import torch
from diffusers import AutoPipelineForImage2Image
from diffusers.utils import load_image

pipeline = AutoPipelineForImage2Image.from_pretrained(
    "kandinsky-community/kandinsky-2-2-decoder", torch_dtype=torch.float32, use_safetensors=True
)

original_image = load_image("sketch.png")
original_image.thumbnail((64, 64))

image = pipeline(
    prompt="A fantasy landscape, Cinematic lighting",
    image=original_image,
    strength=0.4,
    num_inference_steps=10,
    prior_num_inference_steps=4,
    height=64,
    width=64,
    generator=torch.Generator().manual_seed(7),
).images[0]
