import torch
from diffusers import DiffusionPipeline, KandinskyV22PriorPipeline

prior = KandinskyV22PriorPipeline.from_pretrained("kandinsky-community/kandinsky-2-2-prior")
pipe = DiffusionPipeline.from_pretrained("kandinsky-community/kandinsky-2-2-decoder")
pipe.unet.to(memory_format=torch.channels_last)
pipe.unet = torch.compile(pipe.unet, mode="default", fullgraph=True)

embeds = prior("a castle", num_inference_steps=3, generator=torch.manual_seed(0))
image = pipe(**embeds, height=64, width=64, num_inference_steps=3, generator=torch.manual_seed(0)).images[0]
