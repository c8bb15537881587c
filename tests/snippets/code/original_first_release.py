import torch
from kandinsky2 import get_kandinsky2

device = "cuda" if torch.cuda.is_available() else "cpu"
model = get_kandinsky2(device, task_type="text2img", cache_dir="/tmp/kandinsky2", model_version="2.0")
torch.manual_seed(4)
images = model.generate_text2img(
    "A teddy bear на красной площади",
    batch_size=4,
    h=64,
    w=64,
    num_steps=5,
    denoised_type="dynamic_threshold",
    dynamic_threshold_v=99.5,
    sampler="ddim_sampler",
    ddim_eta=0.05,
    guidance_scale=10,
)
image = images[3]
