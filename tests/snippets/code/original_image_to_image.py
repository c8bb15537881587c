import torch
from kandinsky2 import get_kandinsky2
from PIL import Image

device = "cuda" if torch.cuda.is_available() else "cpu"
model = get_kandinsky2(device, "text2img", "/tmp/kandinsky2")
init_image = Image.open("sketch.png")
torch.manual_seed(4)
images = model.generate_img2img(
    "red cat, 4k photo",
    init_image,
    strength=0.8,
    num_steps=10,
    batch_size=1,
    guidance_scale=7,
    h=64,
    w=64,
    sampler="ddim_sampler",
    prior_steps="5",
)
image = images[0]
