"""What other tools call the fields of a request, so that an error answers with our name."""

from collections.abc import Iterable

from kandinsky.core.errors import nearest

ELSEWHERE = {
    "negative": "negative_prompt",
    "uncond_prompt": "negative_prompt",
    "negative_prior_prompt": "prior_negative_prompt",
    "negative_decoder_prompt": "prior_negative_prompt",
    "init_image": "image",
    "input_image": "image",
    "pil_img": "image",
    "init_img": "image",
    "image_path": "image",
    "mask_image": "mask",
    "img_mask": "mask",
    "mask_path": "mask",
    "control_image": "hint",
    "controlnet_image": "hint",
    "conditioning_image": "hint",
    "depth_image": "hint",
    "denoising_strength": "strength",
    "denoise": "strength",
    "image_strength": "strength",
    "init_strength": "strength",
    "num_inference_steps": "steps",
    "num_steps": "steps",
    "ddim_steps": "steps",
    "decoder_steps": "steps",
    "sampling_steps": "steps",
    "n_steps": "steps",
    "scheduler": "sampler",
    "sampler_name": "sampler",
    "sampler_index": "sampler",
    "sampling_method": "sampler",
    "cfg_scale": "guidance_scale",
    "cfg": "guidance_scale",
    "decoder_guidance_scale": "guidance_scale",
    "guidance": "guidance_scale",
    "w_scale": "guidance_scale",
    "cfg_interval": "guidance_interval",
    "deep_cache": "reuse",
    "cache_interval": "reuse",
    "generator": "seed",
    "manual_seed": "seed",
    "random_seed": "seed",
    "noise_seed": "seed",
    "w": "width",
    "image_width": "width",
    "h": "height",
    "image_height": "height",
    "prior_num_inference_steps": "prior_steps",
    "prior_cf_scale": "prior_guidance_scale",
    "prior_cfg_scale": "prior_guidance_scale",
    "ddim_eta": "eta",
    "num_images_per_prompt": "count",
    "num_images": "count",
    "n_iter": "count",
    "n": "count",
    "batch_count": "count",
    "num_outputs": "count",
}
"""Names of diffusers, the original code, the Stable Diffusion interfaces and ComfyUI, and ours."""
NOT_TAKEN = {
    "latents": "Noise comes from the seed alone.",
    "output_type": "A Result has PIL images; kandinsky.compat.diffusers has other kinds.",
    "return_dict": "A Result is always returned.",
    "callback": "Use stream, which yields every step.",
    "callback_on_step_end": "Use stream, which yields every step.",
    "callback_steps": "Use stream, which yields every step.",
    "prompt_embeds": "Give an Embedding as the prompt.",
    "image_embeds": "Give an Embedding as the prompt.",
    "negative_image_embeds": "Give Embedding(values, negative) as the prompt.",
    "batch_size": "Give it to load; count is the number of images.",
    "lora": "Give it to load, or use Pipeline.load_lora.",
    "device": "Give it to load.",
    "dtype": "Give it to load.",
    "clip_skip": "The encoders' last states are read.",
    "karras": "Times follow the checkpoint's schedule.",
}
"""Words of other tools for what a request has no field for, and what to do."""


def called_here(name: str, known: Iterable[str]) -> str:
    """What to write instead of a name that is none of the `known` fields: ours for another tool's, or the nearest."""
    if name == "generator":
        return "It is called seed here: a whole number."
    if name in ELSEWHERE:
        return f"It is called {ELSEWHERE[name]} here."
    return NOT_TAKEN.get(name) or nearest(name, set(known) - {"prompt"})
