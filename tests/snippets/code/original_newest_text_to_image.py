from kandinsky3 import get_T2I_pipeline

device_map = {"unet": "cpu", "text_encoder": "cpu", "movq": "cpu"}
t2i_pipe = get_T2I_pipeline(device_map, cache_dir="/tmp/kandinsky3")

images = t2i_pipe("A cute corgi lives in a house made out of sushi.", width=64, height=64, steps=3)
image = images[0]
