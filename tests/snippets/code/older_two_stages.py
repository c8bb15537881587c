import torch
from diffusers import KandinskyPipeline, KandinskyPriorPipeline

pipe_prior = KandinskyPriorPipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-1-prior", torch_dtype=torch.float32, use_safetensors=True
)
prompt = "A alien cheeseburger creature eating itself, claymation, cinematic, moody lighting"
negative_prompt = "low quality, bad quality"
generator = torch.manual_seed(43)
image_embeds, negative_image_embeds = pipe_prior(
    prompt, negative_prompt, guidance_scale=1.0, num_inference_steps=4, generator=generator
).to_tuple()

pipe = KandinskyPipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-1", torch_dtype=torch.float32, use_safetensors=True
)
pipe.enable_xformers_memory_efficient_attention
image = pipe(
    prompt,
    image_embeds=image_embeds,
    negative_image_embeds=negative_image_embeds,
    negative_prompt=negative_prompt,
    height=64,
    width=64,
    num_inference_steps=4,
    generator=generator,
).images[0]
