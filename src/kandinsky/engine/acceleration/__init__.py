"""How a denoising network runs fast on a device; networks know nothing of it, it is handed to them."""
