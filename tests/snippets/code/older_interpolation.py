import torch
from diffusers import KandinskyPipeline, KandinskyPriorPipeline
from diffusers.utils import load_image

pipe_prior = KandinskyPriorPipeline.from_pretrained("kandinsky-community/kandinsky-2-1-prior")
img1 = load_image("cat.png")
img2 = load_image("sketch.png")
images_texts = ["a cat", img1, img2]
weights = [0.3, 0.3, 0.4]
prompt = ""
generator = torch.manual_seed(42)
prior_out = pipe_prior.interpolate(images_texts, weights, num_inference_steps=4, generator=generator)
pipe = KandinskyPipeline.from_pretrained("kandinsky-community/kandinsky-2-1")
image = pipe(prompt, **prior_out, height=64, width=64, num_inference_steps=4, generator=generator).images[0]
