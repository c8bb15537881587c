import torch
from diffusers import AutoPipelineForText2Image

pipe = AutoPipelineForText2Image.from_pretrained("kandinsky-community/kandinsky-3", torch_dtype=torch.float32)
pipe = pipe.to("cpu")

prompt = "A photograph of the inside of a subway train. There are raccoons sitting on the seats."
generator = torch.Generator(device="cpu").manual_seed(0)
image = pipe(prompt, num_inference_steps=4, generator=generator, height=64, width=64).images[0]
