import torch
from diffusers import KandinskyV22Pipeline, KandinskyV22PriorPipeline
from diffusers.models import UNet2DConditionModel
from transformers import CLIPVisionModelWithProjection

DEVICE = torch.device("cpu")
image_encoder = (
    CLIPVisionModelWithProjection.from_pretrained("kandinsky-community/kandinsky-2-2-prior", subfolder="image_encoder")
    .to(torch.float32)
    .to(DEVICE)
)
unet = (
    UNet2DConditionModel.from_pretrained("kandinsky-community/kandinsky-2-2-decoder", subfolder="unet")
    .to(torch.float32)
    .to(DEVICE)
)
prior = KandinskyV22PriorPipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-2-prior", image_encoder=image_encoder, torch_dtype=torch.float32
).to(DEVICE)
decoder = KandinskyV22Pipeline.from_pretrained(
    "kandinsky-community/kandinsky-2-2-decoder", unet=unet, torch_dtype=torch.float32
).to(DEVICE)

torch.manual_seed(42)
negative_prior_prompt = "low quality, cropped"
img_emb = prior(prompt="photo of a bear", num_inference_steps=4, num_images_per_prompt=2)
negative_emb = prior(prompt=negative_prior_prompt, num_inference_steps=4, num_images_per_prompt=2)
images = decoder(
    image_embeds=img_emb.image_embeds,
    negative_image_embeds=negative_emb.image_embeds,
    num_inference_steps=4,
    height=64,
    width=64,
)
image = images.images[0]
