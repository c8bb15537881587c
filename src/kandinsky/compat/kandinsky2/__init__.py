"""Names that code for the original release uses: change its import line to this package and it runs here.

Signatures, defaults and conventions are the original code's: step strings, sampler names, in 2.0 and 2.1 a
strength of which more keeps more, masks in which 1 is kept.
"""

from pathlib import Path
from typing import Any

import kandinsky
from kandinsky.checkpoints.components import PRIOR_PREFIX
from kandinsky.checkpoints.files import INDEX
from kandinsky.checkpoints.maps.original_files import INPAINTING
from kandinsky.checkpoints.original import open_original
from kandinsky.compat.diffusers.files import Loading
from kandinsky.compat.diffusers.pipelines import KandinskyV22PriorPipeline
from kandinsky.compat.kandinsky2.files import original_folder
from kandinsky.compat.kandinsky2.v2_0 import Kandinsky2
from kandinsky.compat.kandinsky2.v2_1 import Kandinsky2_1
from kandinsky.compat.kandinsky2.v2_2 import TASKS, Kandinsky2_2
from kandinsky.compat.originals import check_kind
from kandinsky.core.errors import CheckpointError, RequestError, nearest
from kandinsky.engine.devices import choose_device, choose_dtype
from kandinsky.engine.pipeline import Pipeline
from kandinsky.generations.k20 import BEHAVIOURS

__all__ = ["Kandinsky2", "Kandinsky2_1", "Kandinsky2_2", "get_kandinsky2", "get_kandinsky2_0", "get_kandinsky2_1"]

CACHE = "/tmp/kandinsky2"
VERSIONS = ("2.0", "2.1", "2.2")
HUB_PRIOR = "kandinsky-community/kandinsky-2-2-prior"
HUB_DECODERS = {
    "text2img": "kandinsky-community/kandinsky-2-2-decoder",
    "img2img": "kandinsky-community/kandinsky-2-2-decoder",
    "inpainting": "kandinsky-community/kandinsky-2-2-decoder-inpaint",
}


def get_kandinsky2(
    device: Any,
    task_type: str = "text2img",
    cache_dir: str | Path = CACHE,
    use_auth_token: str | None = None,
    model_version: str = "2.1",
    use_flash_attention: bool = False,
    *,
    model_path: str | Path | None = None,
    prior_path: str | Path | None = None,
) -> Any:
    """Loads Kandinsky 2.0, 2.1 or 2.2 for a task: "text2img", "img2img" or "inpainting".

    2.0 and 2.1 are read from the original files in `cache_dir`/2_0 or 2_1, where missing ones are fetched
    to; 2.2 comes from the Hub, through its own cache unless another `cache_dir` is given. The Hub gets
    `use_auth_token`.
    `model_path` is a folder or Hub id in any layout to load instead, `prior_path` that of its prior where it does not
    say (2.0 has none). `use_flash_attention` asks for what is done anyway: attention is fused. Raises RequestError for
    another version or task, CheckpointError for what is missing.
    """
    version = str(model_version)
    if version not in VERSIONS:
        raise RequestError(f"There is no model_version {model_version!r}.", nearest(version, VERSIONS))
    if version == "2.0" and prior_path is not None:
        raise RequestError("prior_path is given, but Kandinsky 2.0 has no prior.", "Leave it out.")
    places = (device, task_type, cache_dir, use_auth_token)
    if version == "2.0":
        return get_kandinsky2_0(*places, model_path=model_path)
    if version == "2.1":
        return get_kandinsky2_1(*places, use_flash_attention, model_path=model_path, prior_path=prior_path)
    return _get_kandinsky2_2(*places, model_path, prior_path)


def get_kandinsky2_0(
    device: Any,
    task_type: str = "text2img",
    cache_dir: str | Path = CACHE,
    use_auth_token: str | None = None,
    *,
    model_path: str | Path | None = None,
    behaviour: str | None = None,
) -> Kandinsky2:
    """Loads Kandinsky 2.0; see `get_kandinsky2`.

    `behaviour` is "release-2022", the state of the original code that the published examples were made
    with, or "head-2023", its last. Computes in float32, as the original code does in the end.
    """
    if behaviour is not None and behaviour not in BEHAVIOURS:
        raise RequestError(f"There is no behaviour {behaviour!r}.", nearest(behaviour, BEHAVIOURS))
    model = Kandinsky2(_load("2.0", task_type, model_path, cache_dir, use_auth_token, device=device, dtype="float32"))
    model.task_type, model.behaviour = task_type, behaviour or model.behaviour
    return model


def get_kandinsky2_1(
    device: Any,
    task_type: str = "text2img",
    cache_dir: str | Path = CACHE,
    use_auth_token: str | None = None,
    use_flash_attention: bool = False,
    *,
    model_path: str | Path | None = None,
    prior_path: str | Path | None = None,
) -> Kandinsky2_1:
    """Loads Kandinsky 2.1; see `get_kandinsky2`. Computes in float16 on a GPU, in float32 elsewhere."""
    place: dict[str, Any] = {"device": device, "dtype": choose_dtype(None, choose_device(device)), "prior": prior_path}
    return Kandinsky2_1(_load("2.1", task_type, model_path, cache_dir, use_auth_token, **place), task_type)


def _load(
    version: str, task_type: str, model_path: str | Path | None, cache_dir: str | Path, token: str | None, **place: Any
) -> Pipeline:
    """The pipeline of a release's files, which is loaded to a `place`; CheckpointError for those of another one."""
    inpainting = _is_inpainting(task_type)
    folder = model_path or original_folder(version, inpainting, cache_dir, token)
    pipe = kandinsky.load(folder, variant=_variant(folder, inpainting), **place)
    name = f"Kandinsky {version}"
    if pipe.model.name != name:
        raise CheckpointError(f"{pipe.model_id} holds {pipe.model.name}, not {name}.", "Ask for that model_version.")
    check_kind(f"task_type {task_type!r}", pipe.model, inpainting)
    return pipe


def _get_kandinsky2_2(
    device: Any,
    task_type: str,
    cache_dir: str | Path,
    token: str | None,
    model_path: str | Path | None,
    prior_path: str | Path | None,
) -> Kandinsky2_2:
    inpainting, place = _is_inpainting(task_type), choose_device(device)
    told: dict[str, Any] = {"torch_dtype": choose_dtype(None, place), "token": token}
    if cache_dir != CACHE:
        told["cache_dir"] = cache_dir
    decoder = TASKS[task_type].from_pretrained(model_path or HUB_DECODERS[task_type], **told)
    source = prior_path or (HUB_PRIOR if model_path is None else _own_prior(model_path))
    prior = KandinskyV22PriorPipeline.from_pretrained(source, **told)
    check_kind(f"task_type {task_type!r}", decoder._model(), inpainting)
    return Kandinsky2_2(prior.to(place), decoder.to(place), task_type)


def _own_prior(model_path: str | Path) -> str | Path:
    """Where the prior of a decoder is: beside it, where its README says, or the published one."""
    folder = Loading().model(model_path, ())
    return model_path if f"{PRIOR_PREFIX}prior" in folder.components else folder.prior_reference() or HUB_PRIOR


def _is_inpainting(task_type: str) -> bool:
    if task_type not in TASKS:
        raise RequestError(f"There is no task_type {task_type!r}.", nearest(str(task_type), TASKS))
    return task_type == "inpainting"


def _variant(folder: str | Path, inpainting: bool) -> str | None:
    """What asks for the inpainting U-Net where original files of both lie in one folder."""
    local = Path(folder).expanduser()
    if not inpainting or not local.is_dir() or (local / INDEX).is_file():
        return None
    return None if open_original(local) is None else INPAINTING
