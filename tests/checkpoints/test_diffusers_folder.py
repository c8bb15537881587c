"""Folders in diffusers layout: what is read, what is written, and what is said when they are wrong."""

from pathlib import Path

import diffusers
import pytest
import torch
import yaml

from kandinsky.checkpoints.diffusers_folder import open_folder, save_component, write_model_index
from kandinsky.checkpoints.files import write_json
from kandinsky.core.errors import CheckpointError, OutputError

SCHEDULER = {"_class_name": "DDPMScheduler", "num_train_timesteps": 10}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A small decoder folder, written by us."""
    movq = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1)
    config = {"_class_name": "VQModel", **movq.config}
    save_component(tmp_path, "movq", config, movq.state_dict(), max_shard_bytes=4000)
    save_component(tmp_path, "scheduler", SCHEDULER, config_name="scheduler_config.json")
    components = {"scheduler": ("diffusers", "DDPMScheduler"), "movq": ("diffusers", "VQModel")}
    write_model_index(tmp_path, "KandinskyV22Pipeline", components, _diffusers_version="0.42.1")
    return tmp_path


def test_what_we_write_we_read(written: Path) -> None:
    folder = open_folder(str(written))
    assert folder.kind == "KandinskyV22Pipeline"
    assert folder.components == {"movq": "VQModel", "scheduler": "DDPMScheduler"}
    assert folder.component("movq") == written / "movq"
    assert folder.config("movq", "VQModel")["norm_num_groups"] == 4
    assert folder.config("scheduler", ["DDIMScheduler", "DDPMScheduler"]) == SCHEDULER
    assert len(list((written / "movq").glob("*.safetensors"))) > 1
    want = diffusers.VQModel.from_pretrained(written / "movq").state_dict()
    got = folder.weights("movq")
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert folder.kind == "KandinskyV22Pipeline"


def test_diffusers_opens_what_we_write(written: Path) -> None:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(written, unet=None)
    assert type(pipeline).__name__ == "KandinskyV22Pipeline"
    assert pipeline.movq.config.block_out_channels == [8]


def test_we_read_what_diffusers_writes(written: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    saved = tmp_path_factory.mktemp("diffusers")
    diffusers.DiffusionPipeline.from_pretrained(written, unet=None).save_pretrained(saved, variant="fp16")
    folder = open_folder(saved)
    assert folder.components == {"movq": "VQModel", "scheduler": "DDPMScheduler"}
    assert folder.model_index["unet"] == [None, None]
    assert folder.weights("movq", "fp16").keys() == open_folder(written).weights("movq").keys()
    with pytest.raises(CheckpointError, match="'fp16'"):
        folder.weights("movq", "bf16")


def test_the_folder_is_of_another_kind(written: Path) -> None:
    folder = open_folder(written)
    with pytest.raises(CheckpointError, match="of a VQModel, not of a UNet2DConditionModel"):
        folder.config("movq", "UNet2DConditionModel")
    write_json(written / "movq" / "config.json", {"architectures": ["CLIPTextModelWithProjection"]})
    with pytest.raises(CheckpointError, match="of a CLIPTextModelWithProjection"):
        folder.config("movq", "VQModel")
    assert folder.config("movq", "CLIPTextModelWithProjection")


def test_a_component_is_missing(written: Path) -> None:
    folder = open_folder(written)
    with pytest.raises(CheckpointError, match="Did you mean 'movq'"):
        folder.component("mowq")
    (written / "scheduler" / "scheduler_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        folder.config("scheduler")
    (written / "scheduler").rmdir()
    with pytest.raises(CheckpointError, match=r"'scheduler' that its model_index\.json lists"):
        folder.config("scheduler")


def test_no_folder_to_open(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        open_folder(tmp_path / "nowhere")
    (tmp_path / "model.ckpt").write_text("")
    with pytest.raises(CheckpointError, match="is a file"):
        open_folder(tmp_path / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"no model_index\.json.*model\.ckpt"):
        open_folder(tmp_path)
    write_json(tmp_path / "config.json", {})
    with pytest.raises(CheckpointError, match="one component"):
        open_folder(tmp_path)
    write_json(tmp_path / "model_index.json", {"_class_name": "KandinskyV22Pipeline"})
    with pytest.raises(CheckpointError, match="lists no components"):
        open_folder(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"model_index\.json cannot be read"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        ("prior:\n- org/kandinsky-prior\ntags:\n- text-to-image", "org/kandinsky-prior"),
        ("license: apache-2.0\nprior:\n  - 'org/prior'   # the one\n  - org/other", "org/prior"),
        ("prior: org/prior", "org/prior"),
        ('prior: ["org/a", org/b]', "org/a"),
        ("license: apache-2.0", None),
        ("prior:\ntags:\n- a", None),
        ("other_prior: org/x\npriority: 3", None),
    ],
)
def test_the_prior_that_a_readme_names(written: Path, front: str, expected: str | None) -> None:
    folder = open_folder(written)
    assert folder.prior_reference() is None
    (written / "README.md").write_text(f"---\n{front}\n---\n# A model\nprior: not/this\n", "utf-8")
    assert folder.prior_reference() == expected
    value = (yaml.safe_load(front) or {}).get("prior")
    assert (value[0] if isinstance(value, list) else value) == expected
    (written / "README.md").write_text(f"{front}\n", "utf-8")
    assert folder.prior_reference() is None


@pytest.mark.parametrize(
    ("front", "expected"),
    [
        (b"title: Caf\xe9\nprior: org/prior", "org/prior"),
        (b"title: Kandinsky: 2.2\nprior: org/prior", "org/prior"),
        (b"title: Kandinsky: 2.2\nprior:\n- org/prior\n- org/other", "org/prior"),
        (b"title: Kandinsky: 2.2\nprior:\n  - 'org/prior'   # the one", "org/prior"),
        (b'title: Kandinsky: 2.2\nprior: ["org/prior", org/other]', "org/prior"),
        (b"title: Kandinsky: 2.2\nprior:\ntags:\n- a", None),
        (b"title: Kandinsky: 2.2\nother_prior: org/x", None),
        (b"\ttitle: Kandinsky\nprior: org/prior", "org/prior"),
        (b"prior:\torg/prior", "org/prior"),
        (b"2: two\nprior: org/prior", "org/prior"),
        (b"- prior\n- tags", None),
        (b"words", None),
        (b"", None),
    ],
)
@pytest.mark.parametrize("end", [b"---", b"..."])
@pytest.mark.parametrize("begin", [b"---\n", b"\xef\xbb\xbf---\r\n"])
def test_a_readme_that_is_no_clean_yaml_loads(
    written: Path, front: bytes, expected: str | None, end: bytes, begin: bytes
) -> None:
    (written / "README.md").write_bytes(begin + front + b"\n" + end + b"\n# A model\nprior: not/this\n")
    assert open_folder(written).prior_reference() == expected


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken"):
        save_component(tmp_path / "taken", "movq", {}, {"w": torch.ones(1)})
    with pytest.raises(OutputError, match="taken"):
        write_model_index(tmp_path / "taken", "KandinskyV22Pipeline", {})
