import numpy as np
import torch
from kandinsky2 import get_kandinsky2
from PIL import Image

device = "cuda" if torch.cuda.is_available() else "cpu"
model = get_kandinsky2(device, task_type="inpainting", cache_dir="/tmp/kandinsky2", model_version="2.1")
init_image = Image.open("cat.png")
mask = np.ones((64, 64), dtype=np.float32)
mask[:, :40] = 0
torch.manual_seed(4)
images = model.generate_inpainting(
    "man 4k photo",
    init_image,
    mask,
    num_steps=5,
    batch_size=1,
    guidance_scale=5,
    h=64,
    w=64,
    sampler="p_sampler",
    prior_cf_scale=4,
    prior_steps="5",
)
image = images[0]
