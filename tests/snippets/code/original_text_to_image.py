import torch
from kandinsky2 import get_kandinsky2

device = "cuda" if torch.cuda.is_available() else "cpu"
model = get_kandinsky2(
    device, task_type="text2img", cache_dir="/tmp/kandinsky2", model_version="2.1", use_flash_attention=False
)
torch.manual_seed(4)
images = model.generate_text2img(
    "red cat, 4k photo",
    num_steps=5,
    batch_size=2,
    guidance_scale=4,
    h=64,
    w=64,
    sampler="p_sampler",
    prior_cf_scale=4,
    prior_steps="5",
)
image = images[0]
