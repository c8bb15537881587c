"""The networks of the newest generation's original files against what the originals computed with them."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kandinsky.checkpoints.maps.movq import WRAPPED, infer_movq_config, original_movq_map
from kandinsky.checkpoints.maps.networks import LATER_MOVQ, ONE_TEXT
from kandinsky.checkpoints.maps.networks import UNET3 as UNET
from kandinsky.checkpoints.maps.t5 import infer_t5_config, t5_config, t5_map
from kandinsky.checkpoints.maps.unet3 import gathered, infer_unet3_config, original_unet3_map, scattered
from kandinsky.checkpoints.original import OriginalFolder, open_original
from kandinsky.checkpoints.weights import load_strict
from kandinsky.core.errors import CheckpointError
from kandinsky.networks.movq import MoVQ, MoVQConfig
from kandinsky.networks.t5 import T5Encoder
from kandinsky.networks.unet3 import UNet3, UNet3Condition, UNet3Config
from tests.families import mostly_slow
from tests.parity.oracles import relative
from tests.reference.folders import THIRD_PROMPT, write_third, write_third_first
from tests.reference.recorded import (
    LEAST,
    THIRD,
    THIRD_RELEASE,
    comes_back,
    facts,
    identical,
    limit,
    tensors,
    unet3,
    unet3_file,
    weights,
)

TEXTS = ("text", "neg_short", "neg_long")
RUNS = [pytest.param(case, run, id=f"{case}-{run}") for case in (THIRD, THIRD_RELEASE) for run in facts(case)["runs"]]


def _encoder() -> T5Encoder:
    file = weights(THIRD, "t5")
    config = t5_config({**facts(THIRD)["configuration"]["t5"], "model_type": "t5"})
    assert infer_t5_config(file, "silu") == config
    return load_strict(lambda: T5Encoder(config), t5_map(file).to_native(file), torch.float32)


def _told(group: str = "text") -> UNet3Condition:
    """A recorded text: as many rows as it has tokens, and one more that is masked."""
    found = tensors(THIRD)
    ids, mask = found[f"{group}.ids"], found[f"{group}.mask"]
    length = found[f"{group}.context"].shape[1]
    with torch.no_grad():
        hidden = _encoder()(ids, mask)
    return UNet3Condition(hidden[:, :length], mask[:, :length], masked_rows="zero_context")


def _nothing() -> UNet3Condition:
    length = tensors(THIRD)["text.context"].shape[1]
    return UNet3Condition(
        torch.zeros(1, length, 80), torch.zeros(1, length), masked_rows="zero_context", null=torch.tensor([True])
    )


@torch.no_grad()
def test_encoder() -> None:
    found = tensors(THIRD)
    hidden = _encoder()(found["text.ids"], found["text.mask"])
    assert relative(hidden[:, :16], found["text.hidden"]) < 10 * LEAST
    assert comes_back(t5_map(weights(THIRD, "t5")), weights(THIRD, "t5"))


@pytest.mark.parametrize("group", TEXTS)
@torch.no_grad()
def test_contexts(group: str) -> None:
    """Rows of masked tokens are zero, so their states do not matter."""
    context, visible, _ = unet3().read(_told(group))
    assert relative(context, tensors(THIRD)[f"{group}.context"]) < 10 * LEAST
    assert torch.equal(visible[:, 0, 0].long(), tensors(THIRD)[f"{group}.context_mask"])


@torch.no_grad()
def test_a_context_of_nothing() -> None:
    context, visible, _ = unet3().read(_nothing())
    assert torch.equal(context, tensors(THIRD)["unet.context"][1:])
    assert torch.equal(visible[:, 0, 0].long(), tensors(THIRD)["unet.mask"][1:])


@pytest.mark.parametrize("call", ["0", "1"])
@pytest.mark.parametrize("group", ["unet", "unet_inpaint"])
@torch.no_grad()
def test_single_calls(group: str, call: str) -> None:
    found, network = tensors(THIRD), unet3(group == "unet_inpaint")
    # The recorded call of the inpainting network has the other network's context of nothing.
    network = _with_null(network, unet3().null_embedding)
    condition = _told().joined(_nothing())
    ours = network(found[f"{group}.x"], found[f"unet.t{call}"], condition)
    assert relative(ours, found[f"{group}.out{call}"]) < limit(THIRD, group)


def _with_null(network: UNet3, null: Tensor | None) -> UNet3:
    state = {**network.state_dict(), "null_embedding": null}
    return load_strict(lambda: UNet3(network.config), state)


@pytest.mark.parametrize(("case", "run"), RUNS)
@torch.no_grad()
def test_calls_of_whole_runs(case: str, run: str) -> None:
    found = tensors(case)
    told = facts(case)["runs"][run]
    x, t, out = (found[f"{run}.unet_{part}"] for part in ("x", "t", "out"))
    if run == "t2i_eta05_bs2":  # calls of a batch of two, doubled, then calls of one
        x, t, out = (tensor[: 4 * 4].unflatten(0, (4, 4)) for tensor in (x, t, out))
    against = {"t2i_neg_short": "neg_short", "t2i_neg_long": "neg_long", "sample25_neg": "neg_short"}.get(run)
    cond, uncond = _told(), _told(against) if against else _nothing()
    if against:
        # The original reads a negative prompt with the mask of the prompt.
        assert torch.equal(uncond.mask, cond.mask)
    rows = x.shape[1] if told["method"] == "flash" else x.shape[1] // 2
    condition = cond
    for other in [cond] * (rows - 1) + ([] if told["method"] == "flash" else [uncond] * rows):
        condition = condition.joined(other)
    network = unet3(told["method"] == "inpainting")
    prepared = network.prepare(condition, t[:, 0].tolist())
    worst = max(relative(prepared.step(x[k], float(t[k, 0])), out[k]) for k in (0, len(x) // 2, len(x) - 1))
    assert worst < limit(THIRD, "unet_inpaint" if told["method"] == "inpainting" else "unet")


@torch.no_grad()
def test_movq() -> None:
    found, file = tensors(THIRD), weights(THIRD, "movq")
    assert WRAPPED in file
    config = infer_movq_config(file)
    assert config == MoVQConfig(channels=(32, 32, 32, 64), layers=1, codebook_size=0)
    native = original_movq_map(config, wrapped=True).to_native(file)
    network = load_strict(lambda: MoVQ(config), native, torch.float32)
    assert relative(network.encode(found["movq.image"]), found["movq.encoded"]) < limit(THIRD, "movq")
    assert relative(network.decode(found["movq.z"]), found["movq.decoded"]) < limit(THIRD, "movq")
    assert comes_back(original_movq_map(config, wrapped=True), file)


@pytest.mark.parametrize(("case", "run"), RUNS)
@torch.no_grad()
def test_images_of_whole_runs(case: str, run: str) -> None:
    found, file = tensors(case), weights(THIRD, "movq")
    config = infer_movq_config(file)
    network = load_strict(lambda: MoVQ(config), original_movq_map(config, wrapped=True).to_native(file), torch.float32)
    decoded = network.decode(found[f"{run}.latents"])
    # The original cuts decimals off where others round.
    ours = ((decoded + 1) / 2).clamp(0, 1).mul(255).permute(0, 2, 3, 1).to(torch.uint8).int()
    assert (ours - found[f"{run}.image"].int()).abs().max() <= max(1, facts(case)["sensitivity"][run]["levels"])


@pytest.mark.parametrize("embed", [False, True])
@pytest.mark.parametrize("inpainting", [False, True])
def test_sizes_are_read_off_the_files_and_the_files_come_back(inpainting: bool, embed: bool) -> None:
    wanted = facts(THIRD)["configuration"]["unet"]
    content, projection = unet3_file(inpainting), weights(THIRD, "t5_projection")
    if embed:
        content["projections"] = {f"t5.{name}": tensor for name, tensor in projection.items()}
    file = gathered(content, None if embed else projection)
    config = infer_unet3_config(file)
    assert config == UNet3Config(
        in_channels=9 if inpainting else 4,
        out_channels=4,
        channels=tuple(wanted["model_channels"] * m for m in wanted["dim_mult"]),
        layers=wanted["num_blocks"][0],
        time_dim=wanted["time_embed_dim"],
        head_dim=wanted["head_dim"],
        context_dim=wanted["context_dim"],
        text_dim=facts(THIRD)["configuration"]["t5"]["d_model"],
        groups=wanted["groups"],
        null_embedding=True,
    )
    assert config.stem == wanted["init_channels"]
    key_map = original_unet3_map(config)
    assert comes_back(key_map, file)
    back, apart = scattered(key_map.to_foreign(key_map.to_native(file)), embed)
    assert back.keys() == content.keys()
    assert identical(back["unet"], content["unet"])
    assert torch.equal(back["null_embedding"], content["null_embedding"])
    assert not embed or identical(back["projections"], content["projections"])
    assert identical(apart, projection)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> OriginalFolder:
    opened = open_original(write_third(tmp_path_factory.mktemp("third") / "folder"))
    assert opened is not None
    return opened


@pytest.mark.parametrize("variant", mostly_slow([None, "flash", "inpainting"], None, "inpainting"))
def test_a_folder_is_read(folder: OriginalFolder, variant: str | None) -> None:
    assert folder.kind == "one text"
    assert folder.chosen(variant) == (variant or "")
    network, wanted = UNET.open(folder, variant).load(torch.float32), unet3(variant == "inpainting")
    assert network.config == wanted.config
    assert identical(network.state_dict(), wanted.state_dict())
    original, state = UNET.original, UNET.open(folder, variant).load().state_dict()
    content, projection = scattered(original.keys(network.config, original.names).to_foreign(state))
    assert identical(content["unet"], unet3_file(variant == "inpainting")["unet"])
    assert identical(projection, weights(THIRD, "t5_projection"))


def test_the_parts_beside_the_unet_are_read(folder: OriginalFolder) -> None:
    assert identical(ONE_TEXT.open(folder).load(torch.float32).state_dict(), _encoder().state_dict())
    assert LATER_MOVQ.open(folder).config.codebook_size == 0
    ids = ONE_TEXT.read_tokenizer(folder).encode([THIRD_PROMPT], 128).ids
    assert torch.equal(ids, tensors(THIRD)["text.ids"])


def test_the_first_release_is_read_with_its_projection_and_encoder_in_other_places(tmp_path: Path) -> None:
    opened = open_original(write_third_first(tmp_path / "first"))
    assert opened is not None
    assert identical(UNET.open(opened).load(torch.float32).state_dict(), unet3().state_dict())
    assert identical(ONE_TEXT.open(opened).load(torch.float32).state_dict(), _encoder().state_dict())
    assert ONE_TEXT.read_tokenizer(opened).encode(["p0"], 128).ids[0, :2].tolist() == [100, 1]


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    root = write_third(tmp_path / "folder")
    opened = open_original(root)
    assert opened is not None
    with pytest.raises(CheckpointError, match="no variant 'fp16'"):
        UNET.open(opened, "fp16")
    (root / "weights" / "flan_ul2_encoder" / "projection_flash.pt").unlink()
    with pytest.raises(CheckpointError, match="projection_flash"):
        UNET.open(opened, "flash")
    torch.save({"unet": {}, "null_embedding": 3.0}, root / "weights" / "kandinsky3.pt")
    with pytest.raises(CheckpointError, match="more than tensors"):
        UNET.open(opened).load()
    torch.save(unet3_file()["unet"], root / "weights" / "kandinsky3.pt")
    with pytest.raises(CheckpointError, match="no named tensors under 'unet'"):
        UNET.open(opened).load()
    cut = unet3_file()
    del cut["unet"]["up_samples.0.self_attention_block.attention.to_key.weight"]
    torch.save(cut, root / "weights" / "kandinsky3.pt")
    with pytest.raises(CheckpointError, match="to_key"):
        UNET.open(opened).load()


def test_the_weights_folder_itself_can_be_named(folder: OriginalFolder) -> None:
    opened = open_original(folder.root / "weights")
    assert opened is not None
    assert opened.root == folder.root


@pytest.mark.parametrize(("channels", "parameters"), [(4, 3_038_562_820), (9, 3_038_571_460)])
def test_published_unets(channels: int, parameters: int) -> None:
    with torch.device("meta"):
        network = UNet3(UNet3Config(in_channels=channels, null_embedding=True))
    content, projection = scattered(original_unet3_map(network.config).to_foreign(network.state_dict()))
    assert len(content["unet"]) == 1068
    assert sum(tensor.numel() for tensor in content["unet"].values()) == parameters
    assert content["null_embedding"].shape == (4096,)
    assert {name: tuple(t.shape) for name, t in projection.items()} == {
        "0.weight": (4096, 4096),
        "1.weight": (4096,),
        "1.bias": (4096,),
    }


@pytest.mark.parametrize(("codes", "parameters"), [(0, 270_603_567), (16384, 270_669_103)])
def test_published_movqs(codes: int, parameters: int) -> None:
    with torch.device("meta"):
        network = MoVQ(MoVQConfig(channels=(256, 512, 512, 1024), codebook_size=codes))
    assert sum(p.numel() for p in network.parameters()) == parameters
