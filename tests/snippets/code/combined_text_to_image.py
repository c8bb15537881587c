import torch
from diffusers import AutoPipelineForText2Image

pipe = AutoPipelineForText2Image.from_pretrained("kandinsky-community/kandinsky-2-2-decoder", torch_dtype=torch.float32)
pipe.enable_model_cpu_offload(device="cpu")

prompt = "a fox in a snowy forest, oil painting"
generator = torch.Generator(device="cpu").manual_seed(2023)
image = pipe(
    prompt=prompt,
    prior_guidance_scale=1.0,
    prior_num_inference_steps=4,
    num_inference_steps=4,
    height=64,
    width=64,
    generator=generator,
).images[0]
image.save("fox.png")
