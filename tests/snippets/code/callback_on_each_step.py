import torch
from diffusers import AutoPipelineForText2Image

pipe = AutoPipelineForText2Image.from_pretrained("kandinsky-community/kandinsky-2-2-decoder")
seen = []


def decode_latents(pipe, step, timestep, callback_kwargs):
    latents = callback_kwargs["latents"]
    seen.append((step, int(timestep), latents.shape))
    return {"latents": latents * 0.99}


image = pipe(
    "a blue lake",
    height=64,
    width=64,
    num_inference_steps=4,
    prior_num_inference_steps=3,
    generator=torch.manual_seed(3),
    callback_on_step_end=decode_latents,
    callback_on_step_end_tensor_inputs=["latents"],
).images[0]
assert len(seen) == 4
