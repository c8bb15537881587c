import torch
from kandinsky3 import get_T2I_Flash_pipeline

device_map = torch.device("cpu")
dtype_map = {"unet": torch.float32, "text_encoder": torch.float32, "movq": torch.float32}
t2i_pipe = get_T2I_Flash_pipeline(device_map, dtype_map, cache_dir="/tmp/kandinsky3")

image = t2i_pipe("A cute corgi lives in a house made out of sushi.", width=64, height=64)[0]
