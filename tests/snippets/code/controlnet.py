import numpy as np
import torch
from diffusers import KandinskyV22ControlnetPipeline, KandinskyV22PriorPipeline
from diffusers.utils import load_image

img = load_image("cat.png").resize((64, 64))


def make_hint(image):
    image = np.array(image)[:, :, :1]
    image = np.concatenate([image, image, image], axis=2)
    detected_map = torch.from_numpy(image).float() / 255.0
    return detected_map.permute(2, 0, 1)


hint = make_hint(img).unsqueeze(0)

prior_pipeline = KandinskyV22PriorPipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-2-prior", torch_dtype=torch.float32, use_safetensors=True
)
pipeline = KandinskyV22ControlnetPipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-2-controlnet-depth", torch_dtype=torch.float32, use_safetensors=True
)

prompt = "A robot, 4k photo"
negative_prior_prompt = "lowres, text, error, cropped, worst quality"
generator = torch.Generator().manual_seed(43)
image_emb, zero_image_emb = prior_pipeline(
    prompt=prompt, negative_prompt=negative_prior_prompt, num_inference_steps=4, generator=generator
).to_tuple()
image = pipeline(
    image_embeds=image_emb,
    negative_image_embeds=zero_image_emb,
    hint=hint,
    num_inference_steps=4,
    generator=generator,
    height=64,
    width=64,
).images[0]
