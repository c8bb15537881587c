import torch
from diffusers import DDPMScheduler, Kandinsky3Pipeline, Kandinsky3UNet

model = "kandinsky-community/kandinsky-3"
unet = Kandinsky3UNet.from_pretrained(model, subfolder="unet", torch_dtype=torch.float32)
pipe = Kandinsky3Pipeline.from_pretrained(model, unet=unet)
pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)

generator = torch.Generator().manual_seed(5)
images = pipe(
    prompt=["a red fox", "a big cat"],
    negative_prompt=["an old ox", "a low dog"],
    guidance_scale=2.5,
    num_inference_steps=4,
    generator=generator,
    height=64,
    width=64,
).images
image = images[1]
