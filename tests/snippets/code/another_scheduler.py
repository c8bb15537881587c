import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline

scheduler = DDPMScheduler.from_pretrained("kandinsky-community/kandinsky-2-2-decoder", subfolder="scheduler")
pipe_prior = DiffusionPipeline.from_pretrained("kandinsky-community/kandinsky-2-2-prior")
pipe = DiffusionPipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-2-decoder", scheduler=scheduler, torch_dtype=torch.float32
)
first_scheduler = type(pipe.scheduler).__name__
pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)

image_embeds, negative_image_embeds = pipe_prior(
    ["a robot, 4k photo"], num_inference_steps=4, generator=torch.manual_seed(1), return_dict=False
)
image = pipe(
    image_embeds, negative_image_embeds, height=64, width=64, num_inference_steps=4, generator=torch.manual_seed(2)
).images[0]
assert first_scheduler == "DDPMScheduler"
