import torch
from kandinsky2 import get_kandinsky2
from PIL import Image

device = "cuda" if torch.cuda.is_available() else "cpu"
model = get_kandinsky2(device, task_type="text2img", cache_dir="/tmp/kandinsky2", model_version="2.1")
images_texts = ["red cat", Image.open("cat.png"), Image.open("sketch.png"), "a man"]
weights = [0.25, 0.25, 0.25, 0.25]
torch.manual_seed(4)
images = model.mix_images(
    images_texts,
    weights,
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
