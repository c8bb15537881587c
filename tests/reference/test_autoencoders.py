"""The autoencoders of the original files against what the originals computed with them."""

import pytest
import torch
from torch import Tensor

from kandinsky.checkpoints.maps.kl import drop_training, infer_kl_config, original_kl_map
from kandinsky.checkpoints.maps.movq import WRAPPED, infer_movq_config, original_movq_map
from kandinsky.checkpoints.weights import load_strict
from kandinsky.core.errors import ConfigError
from kandinsky.networks.kl import AutoencoderKL
from kandinsky.networks.movq import MoVQ
from tests.parity.oracles import relative
from tests.reference.recorded import HEAD, RELEASE, SECOND, comes_back, facts, limit, tensors, weights

RUNS = [
    pytest.param(case, run, id=f"{case}-{run}")
    for case in (RELEASE, HEAD, SECOND)
    for run in facts(case)["runs"]
    if f"{run}.latents" in tensors(case)
]


def _kl() -> AutoencoderKL:
    file = weights(RELEASE, "vae")
    config = infer_kl_config(file)
    return load_strict(lambda: AutoencoderKL(config), original_kl_map(config).to_native(file), torch.float32)


def _movq(file: dict[str, Tensor]) -> MoVQ:
    config = infer_movq_config(file)
    native = original_movq_map(config, WRAPPED in file).to_native(file)
    return load_strict(lambda: MoVQ(config), native, torch.float32)


def _later_form(file: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same MoVQ as later files hold it: encoder norms wrapped, no codebook."""
    renamed = {}
    for name, tensor in file.items():
        place, layer, kind = name.rsplit(".", 2) if name.count(".") > 1 else ("", "", "")
        if place.startswith("encoder") and layer.startswith("norm"):
            renamed[f"{place}.{layer}.norm_layer.{kind}"] = tensor
        elif not name.startswith("quantize"):
            renamed[name] = tensor
    return renamed


@torch.no_grad()
def test_kl() -> None:
    found, allowed = tensors(RELEASE), limit(RELEASE, "vae")
    network = _kl()
    mean, log_variance = network.encode(found["vae.image"])
    assert relative(mean, found["vae.mean"]) < allowed
    assert relative((0.5 * log_variance).exp(), found["vae.std"]) < allowed
    assert relative(network.decode(found["vae.z"]), found["vae.decoded"]) < allowed
    assert comes_back(original_kl_map(network.config), weights(RELEASE, "vae"))


def test_the_training_losses_of_a_kl_file_are_left_out() -> None:
    file = weights(RELEASE, "vae")
    assert drop_training({**file, "loss.logvar": torch.zeros(()), "loss.d.0.weight": torch.ones(2)}) == file


@pytest.mark.parametrize("later", [False, True])
@torch.no_grad()
def test_movq(later: bool) -> None:
    found, allowed = tensors(SECOND), limit(SECOND, "movq")
    file = weights(SECOND, "movq")
    file = _later_form(file) if later else file
    assert (WRAPPED in file) is later
    network = _movq(file)
    assert network.config.codebook_size == (0 if later else 64)
    assert relative(network.encode(found["movq.image"]), found["movq.encoded"]) < allowed
    assert relative(network.decode(found["movq.z"]), found["movq.decoded"]) < allowed
    assert comes_back(original_movq_map(network.config, later), file)


def test_a_movq_without_codebook_does_not_quantise() -> None:
    network = _movq(_later_form(weights(SECOND, "movq")))
    with pytest.raises(ConfigError, match="no codebook"):
        network.quantize(torch.zeros(1, 4, 2, 2))


@pytest.mark.parametrize(("case", "run"), RUNS)
@torch.no_grad()
def test_images_of_whole_runs(case: str, run: str) -> None:
    found = tensors(case)
    network: AutoencoderKL | MoVQ = _movq(weights(SECOND, "movq")) if case == SECOND else _kl()
    decoded = network.decode(found[f"{run}.latents"])
    image = found[f"{run}.image"]
    height, width = image.shape[1:3]
    ours = ((decoded + 1) * 127.5).round().clamp(0, 255).permute(0, 2, 3, 1)[:, :height, :width]
    assert (ours - image).abs().max() <= max(1, facts(case)["sensitivity"][run]["levels"])
