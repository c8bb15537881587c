"""Chooses a device and a dtype, and measures free memory."""

import torch

from kandinsky.core.errors import RequestError, nearest
from kandinsky.core.system import free_main_memory, proc_lines
from kandinsky.engine.acceleration.onednn_weights import has_onednn

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
_SHORT = {"fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16", "fp64": "float64"}

LARGE = 200_000_000
"""A CPU computes denoisers of more weights in bfloat16, where it has it: they take half the time and memory.
Smaller ones gain little, so they keep float32."""
BATCH = 4
"""Images that are drawn together where that pays."""
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """The device asked for, or the best there is; raises RequestError for one that this machine lacks."""
    if device is None or device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise RequestError(f"There is no device {str(device)!r}.", "Use cpu, cuda, cuda:0 or mps.") from error
    there = {
        "cpu": True,
        "meta": True,
        "cuda": torch.cuda.is_available() and (chosen.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(chosen.type, False):
        raise RequestError(f"Device {str(device)!r} is not on this machine.", "Leave it out, or use cpu.")
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device, parameters: int = 0) -> torch.dtype:
    """The dtype asked for, or the fastest that is safe for a denoiser of so many `parameters`.

    That is float16 on a GPU, bfloat16 on an x86-64 CPU that has it in hardware for more than `LARGE` parameters, and
    float32 elsewhere. Raises RequestError for an unknown name, and for a dtype that the device lacks.
    """
    if dtype is None or dtype == "auto":
        if device.type in ("cuda", "mps"):
            return torch.float16
        halves = device.type == "cpu" and parameters > LARGE and _has_fast_bfloat16()
        return torch.bfloat16 if halves else torch.float32
    if isinstance(dtype, torch.dtype):
        if dtype not in DTYPES.values():
            raise RequestError(f"{dtype} is not a dtype to compute in.", f"Known: {', '.join(DTYPES)}.")
        return dtype
    name = _SHORT.get(str(dtype), str(dtype).removeprefix("torch."))
    if name not in DTYPES:
        raise RequestError(f"There is no dtype {dtype!r}.", nearest(name, DTYPES))
    if name == "float64" and device.type == "mps":
        raise RequestError("Device mps cannot compute in float64.", "Use float32, or the device cpu.")
    return DTYPES[name]


def choose_batch_size(device: torch.device, parameters: int) -> int:
    """How many images a denoiser of so many `parameters` draws together by default.

    On a CPU large ones gain nothing by it, and take more memory; small ones draw eight images in little
    more than half of the time.
    """
    return 1 if device.type == "cpu" and parameters > LARGE else BATCH


def bfloat16_in_hardware() -> bool | None:
    """Whether this CPU has products of bfloat16; None where the system does not tell."""
    lines = [line for line in proc_lines("cpuinfo") if line.startswith(("flags", "Features"))]
    flags = {word for line in lines for word in line.split()}
    return bool(flags & _BFLOAT16_FLAGS) if flags else None


def _has_fast_bfloat16() -> bool:
    # Elsewhere bfloat16 was not measured, and without oneDNN it is emulated.
    return has_onednn() and bool(bfloat16_in_hardware())


def free_memory(device: torch.device) -> int | None:
    """Free bytes of a device (of main memory, but for CUDA); None where the system does not tell."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return free_main_memory()
