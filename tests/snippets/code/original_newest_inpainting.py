import numpy as np
from kandinsky3 import get_inpainting_pipeline
from PIL import Image

inp_pipe = get_inpainting_pipeline("cpu", cache_dir="/tmp/kandinsky3")

image = Image.open("cat.png")
mask = np.zeros((64, 64), dtype=np.float32)
mask[:, 20:50] = 1
image = inp_pipe("A cute corgi", image, mask, steps=3)[0]
