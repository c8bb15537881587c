import torch
from diffusers import KandinskyV22Pipeline, KandinskyV22PriorPipeline
from diffusers.utils import load_image

prior_pipeline = KandinskyV22PriorPipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-2-prior", torch_dtype=torch.float32, use_safetensors=True
)

img_1 = load_image("cat.png")
img_2 = load_image("sketch.png")

images_texts = ["a cat", img_1, img_2]
# specify the weights for each condition in images_texts
weights = [0.3, 0.3, 0.4]
# We can leave the prompt empty
generator = torch.Generator().manual_seed(42)
prior_out = prior_pipeline.interpolate(images_texts, weights, num_inference_steps=4, generator=generator)

pipeline = KandinskyV22Pipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-2-decoder", torch_dtype=torch.float32, use_safetensors=True
)
image = pipeline(**prior_out, height=64, width=64, num_inference_steps=4, generator=generator).images[0]
