import torch
from diffusers import DDPMScheduler, DiffusionPipeline

scheduler = DDPMScheduler.from_pretrained("kandinsky-community/kandinsky-2-1", subfolder="ddpm_scheduler")
pipe = DiffusionPipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-1", scheduler=scheduler, torch_dtype=torch.float32
)
prior = DiffusionPipeline.from_pretrained("kandinsky-community/kandinsky-2-1-prior")
prompt = "bird eye view shot of a full body woman with cyan light orange magenta makeup, digital art"
generator = torch.manual_seed(3)
embeds = prior(prompt, num_inference_steps=4, generator=generator)
image = pipe(prompt, **embeds, height=64, width=64, num_inference_steps=4, generator=generator).images[0]
