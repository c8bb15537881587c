import torch
from diffusers import AutoPipelineForImage2Image
from diffusers.utils import load_image

pipe = AutoPipelineForImage2Image.from_pretrained("kandinsky-community/kandinsky-3", torch_dtype=torch.float32)
pipe = pipe.to("cpu")

prompt = "A painting of the inside of a subway train with tiny raccoons."
image = load_image("sketch.png")
generator = torch.Generator(device="cpu").manual_seed(0)
image = pipe(prompt, image=image, strength=0.75, num_inference_steps=8, generator=generator).images[0]
