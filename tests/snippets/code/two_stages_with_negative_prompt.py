import torch
from diffusers import KandinskyV22Pipeline, KandinskyV22PriorPipeline

device = "cuda" if torch.cuda.is_available() else "cpu"
pipe_prior = KandinskyV22PriorPipeline.from_pretrained("kandinsky-community/kandinsky-2-2-prior")
pipe_prior.to(device)

prompt = "portrait of a woman with green eyes"
negative_prompt = "low quality, bad quality"
generator = torch.Generator(device=device).manual_seed(12)
image_embeds, negative_image_embeds = pipe_prior(
    prompt, negative_prompt, guidance_scale=1.0, num_inference_steps=4, generator=generator
).to_tuple()

pipe = KandinskyV22Pipeline.from_pretrained("kandinsky-community/kandinsky-2-2-decoder", use_safetensors=True).to(
    device
)
pipe.set_progress_bar_config(disable=True)
images = pipe(
    image_embeds=image_embeds,
    negative_image_embeds=negative_image_embeds,
    height=64,
    width=64,
    num_inference_steps=4,
    num_images_per_prompt=2,
    generator=generator,
).images
image = images[1]
