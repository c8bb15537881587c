"""What of diffusers' names is not offered, and what to use instead; every other public name of theirs acts here.

`python -m kandinsky.compat.diffusers.surface` writes the tables of docs/compat.md.
"""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from kandinsky.compat.calls import signed
from kandinsky.compat.diffusers.files import HARMLESS, IGNORED, LOADING, REFUSED
from kandinsky.compat.diffusers.weights import NOT_SAVED
from kandinsky.core.errors import RequestError

_FILES = "`config` holds the values, `save_pretrained` writes them."
_ATTENTION = "Attention is fused already; `kandinsky.load` chooses how networks run."
_STEPS = "Walk over `timesteps` with `step`, or give `callback_on_step_end` to a pipeline."
_LORA = "`load_lora_weights` takes tensors, files and Hub ids; `save_lora_adapter` of a network writes one."
_COMMON = {
    "config_name extract_init_dict get_config_dict has_compatibles ignore_for_config register_for_auto_class "
    "to_json_file to_json_string": _FILES,
    "push_to_hub": NOT_SAVED["push_to_hub"],
}
_NOT_OFFERED: Mapping[str, Mapping[str, str]] = {
    "pipelines": {
        **_COMMON,
        "from_config load_config register_to_config save_config name_or_path": _FILES,
        "add_noise check_inputs get_timesteps prepare_extra_step_kwargs prepare_latents process_embeds": (
            "Give latents, image and strength to the call."
        ),
        "enable_group_offload hf_device_map model_cpu_offload_seq reset_device_map": (
            "`enable_model_cpu_offload`, `enable_sequential_cpu_offload`, or `kandinsky.load(offload=...)`."
        ),
        "set_attention_slice set_use_memory_efficient_attention_xformers": _ATTENTION,
        "enable_lora_hotswap load_lora_into_text_encoder load_lora_into_unet lora_scale lora_state_dict pack_weights "
        "set_lora_device text_encoder_name unet_name write_lora_layers": _LORA,
    },
    "automatic pipelines": {
        **_COMMON,
        "config from_config load_config register_to_config save_config": "Of the pipeline that they make.",
    },
    "networks": {
        **_COMMON,
        "load_config save_config": _FILES,
        "compile_repeated_blocks": "`torch.compile` the network.",
        "dequantize enable_layerwise_casting enable_parallelism enable_group_offload get_memory_footprint": (
            "`kandinsky.load(offload=..., quantize=...)`."
        ),
        "disable_freeu enable_freeu disable_slicing disable_tiling enable_slicing enable_tiling": (
            "Nothing here; diffusers has them for other models."
        ),
        "disable_npu_flash_attention disable_xla_flash_attention enable_npu_flash_attention "
        "enable_xla_flash_attention fuse_qkv_projections unfuse_qkv_projections reset_attention_backend "
        "set_attention_backend set_attention_slice set_use_memory_efficient_attention_xformers "
        "set_use_npu_flash_attention set_use_xla_flash_attention": _ATTENTION,
        "enable_lora_hotswap peft_config save_attn_procs text_encoder_name unet_name": _LORA,
        "from_single_file": "`kandinsky convert` makes a folder of original files.",
        "get_aug_embed get_class_embed get_time_embed process_encoder_hidden_states": "Call the network itself.",
    },
    "schedulers": {
        **_COMMON,
        "begin_index convert_model_output dpm_solver_first_order_update index_for_timestep "
        "multistep_dpm_solver_second_order_update multistep_dpm_solver_third_order_update multistep_uni_c_bh_update "
        "multistep_uni_p_bh_update set_begin_index sigmas state_in_first_order step_index step_plms "
        "step_prk stretch_shift_to_terminal time_shift": _STEPS,
        "step": "Heun's and PNDM's ask the network several times a step: set them on a pipeline.",
    },
}
NOT_OFFERED: Mapping[str, Mapping[str, str]] = {
    kind: {name: hint for names, hint in rows.items() for name in names.split()} for kind, rows in _NOT_OFFERED.items()
}
"""By kind of object, the names that are not offered and what to use instead."""
_UNET = "The networks of this family have no such input."
_INPUTS = (
    "attention_mask class_labels cross_attention_kwargs down_block_additional_residuals "
    "down_intrablock_additional_residuals encoder_attention_mask mid_block_additional_residual timestep_cond "
    "output_attentions output_hidden_states position_ids"
)
ARGUMENTS: Mapping[str, Mapping[str, str]] = {
    "decode": {"shape": _UNET},
    "enable_gradient_checkpointing": {"gradient_checkpointing_func": "The one of torch is used."},
    "forward": dict.fromkeys(_INPUTS.split(), _UNET),
    "num_parameters": {"exclude_embeddings": "Count `parameters()`."},
    "set_timesteps": dict.fromkeys(("mu", "num_train_timesteps", "sigmas"), "Give timesteps."),
    "step": dict.fromkeys(("s_churn", "s_noise", "s_tmax", "s_tmin"), "Use EulerAncestralDiscreteScheduler."),
}
"""By method, the arguments that are refused unless they ask for nothing."""


class NotOfferedError(RequestError, AttributeError):
    """A name of diffusers that does not act here; `hasattr` says no."""


def lacking(kind: str, owner: object, name: str) -> AttributeError:
    """The error for a name that an object of that kind does not have."""
    hint, who = NOT_OFFERED[kind].get(name), owner.__name__ if isinstance(owner, type) else type(owner).__name__
    if hint is None:
        return AttributeError(f"{who!r} object has no attribute {name!r}", name=name, obj=owner)
    return NotOfferedError(f"{name} of a {who} is not offered.", hint)


def accepted(does: str, names: str = "") -> Any:
    """A method that changes nothing, for the reason that its docstring says."""
    return signed(lambda *_: None, names, {"attention_op": None, "slice_size": "auto"}, f"Accepted: {does}", "accepted")


def check_replaced(one: object, methods: Iterable[str], hint: str) -> None:
    """Raises RequestError for an object with methods that its user replaced, in a subclass or on itself, and that
    nothing here calls."""
    for name in methods:
        found = vars(one).get(name) or getattr(type(one), name, None)
        if found is not None and not str(getattr(found, "__module__", "")).startswith("kandinsky."):
            raise RequestError(f"A {type(one).__name__} replaces {name}, which pipelines here do not call.", hint)


def refuse(method: str, arguments: Mapping[str, object]) -> None:
    """Raises RequestError for arguments that cannot act here, TypeError for those that diffusers has not either."""
    for name, value in arguments.items():
        if name not in ARGUMENTS[method]:
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}")
        if value is not None and value is not False:
            raise RequestError(f"{name} of {method} cannot act.", ARGUMENTS[method][name])


def page() -> str:
    """The tables of docs/compat.md."""

    def listed(names: Iterable[str]) -> str:
        return ", ".join(f"`{name}`" for name in sorted(names))

    def table(kind: str, rows: Mapping[str, str]) -> list[str]:
        hints = dict.fromkeys(rows.values())
        return [f"| {kind} | {listed(n for n in rows if rows[n] == hint)} | {hint} |" for hint in hints]

    lines = [
        f"Where something is loaded, these keywords act: {listed(LOADING)}. Without effect (only memory depends on",
        f"them in diffusers): {listed(HARMLESS)}. Warned of and ignored, as there: {listed(IGNORED)}.",
        "Misspelt keywords are errors. Refused, with what to do instead:",
        "",
        "| in | not offered | instead |",
        "| --- | --- | --- |",
        *table("`from_pretrained`", REFUSED),
        *table("`save_pretrained`", NOT_SAVED),
    ]
    lines += [row for method, rows in ARGUMENTS.items() for row in table(f"`{method}`", rows)]
    lines += [row for kind, rows in NOT_OFFERED.items() for row in table(kind, rows)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
