"""`kandinsky doctor`: what this machine is, and what it can run."""

import json
import os
import platform
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kandinsky.cli.console import out, say
from kandinsky.cli.models import Installed, embedded, human, installed
from kandinsky.core.metadata import library_version
from kandinsky.core.system import proc_lines

# Activations, the allocator and the rest of the process need memory besides the weights.
HEADROOM = 0.8


def examine() -> dict[str, Any]:
    """What is worth knowing, as JSON values; sizes in bytes, None where the system does not tell."""
    import torch
    from huggingface_hub.constants import HF_HUB_CACHE

    from kandinsky.backends import BACKENDS, lacking
    from kandinsky.engine.devices import LARGE, bfloat16_in_hardware, choose_dtype, free_memory

    memory = free_memory(torch.device("cpu"))
    cuda = _cuda()
    room = max([memory or 0, *(gpu["free_memory"] for gpu in cuda)])
    return {
        "kandinsky": library_version(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": {
            "name": _cpu_name(),
            "cores": os.cpu_count(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "bfloat16": bfloat16_in_hardware(),
            "dtype_of_large_models": str(choose_dtype(None, torch.device("cpu"), LARGE + 1)).removeprefix("torch."),
        },
        "cuda": cuda,
        "mps": torch.backends.mps.is_available(),
        "free_memory": memory,
        "cache_folder": HF_HUB_CACHE,
        "free_disk": _free_disk(Path(HF_HUB_CACHE)),
        "embedded": [model.id for model in embedded()],
        "models": [_verdict(model, room) for model in installed()],
        "quantized_weights": find_spec("optimum") is not None and find_spec("optimum.quanto") is not None,
        "backends": {name: lacking(name) for name in BACKENDS},
        "largest_model": {"float32": int(room * HEADROOM / 4), "float16": int(room * HEADROOM / 2)},
    }


def _cuda() -> list[dict[str, Any]]:
    from torch import cuda

    found = []
    for index in range(cuda.device_count() if cuda.is_available() else 0):
        with cuda.device(index):
            free, total = cuda.mem_get_info(index)
            exact = cuda.is_bf16_supported(including_emulation=False)
            name = cuda.get_device_name(index)
            found.append({"name": name, "free_memory": free, "memory": total, "bfloat16": exact})
    return found


def _verdict(model: Installed, room: int) -> dict[str, Any]:
    return {"id": model.id, "bytes": model.bytes, "fits": model.bytes <= room * HEADROOM}


def _cpu_name() -> str:
    named = (line.partition(":")[2].strip() for line in proc_lines("cpuinfo") if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _free_disk(folder: Path) -> int | None:
    # The cache may not exist yet; what counts is the disk it would be made on.
    there = next((place for place in (folder, *folder.parents) if place.is_dir()), None)
    return None if there is None else shutil.disk_usage(there).free


def show(*, as_json: bool) -> None:
    """Writes the findings as lines, or as JSON."""
    from rich.markup import escape
    from rich.table import Table

    facts = examine()
    if as_json:
        say(json.dumps(facts, indent=2))
        return
    table = Table(box=None, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in _lines(facts):
        table.add_row(name, escape(text))
    out().print(table)


def _lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    from kandinsky.backends import INSTALL

    cpu, largest = facts["cpu"], facts["largest_model"]
    half = {True: "in hardware", False: "emulated, slow", None: "unknown"}[cpu["bfloat16"]]
    speed = f"{facts['threads']} threads, {cpu['capability']}, bfloat16 {half}"
    speed += f"; large models are computed in {cpu['dtype_of_large_models']}"
    lines = [
        ("kandinsky", f"{facts['kandinsky']}, Python {facts['python']}, torch {facts['torch']}"),
        ("System", facts["system"]),
        ("CPU", f"{cpu['name']}, {cpu['cores']} cores, {speed}"),
    ]
    for gpu in facts["cuda"]:
        sizes = f"{human(gpu['free_memory'])} of {human(gpu['memory'])} free"
        lines.append(("CUDA", f"{gpu['name']}, {sizes}, bfloat16 {'yes' if gpu['bfloat16'] else 'no'}"))
    if not facts["cuda"]:
        lines.append(("CUDA", "none"))
    lines += [
        ("Apple GPU", "yes" if facts["mps"] else "none"),
        ("Free memory", "unknown" if facts["free_memory"] is None else human(facts["free_memory"])),
        ("Cache", f"{facts['cache_folder']} ({human(facts['free_disk'] or 0)} free on that disk)"),
        ("Embedded", ", ".join(facts["embedded"]) or "none: this installation is incomplete"),
    ]
    for model in facts["models"]:
        verdict = "fits" if model["fits"] else "needs more memory than is free: use --offload auto"
        lines.append(("Model", f"{model['id']}: {human(model['bytes'])}, {verdict}"))
    quantized = "yes" if facts["quantized_weights"] else "pip install 'kandinsky-diffusion[quantize]'"
    lines.append(("Weights in int8 or int4", quantized))
    for name, reason in facts["backends"].items():
        lines.append((f"Backend {name}", f"no: {reason}; {INSTALL}" if reason else "yes"))
    billions = {name: count / 1e9 for name, count in largest.items()}
    text = f"up to {billions['float32']:.1f} billion parameters in float32, {billions['float16']:.1f} in float16"
    return [*lines, ("Can run", text)]
