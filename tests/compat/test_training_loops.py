"""Training loops as existing scripts write them, with accelerate and moving averages of diffusers, on both sides."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import diffusers
import pytest
import torch
import torch.nn.functional as F
import transformers
from accelerate import Accelerator
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel, compute_snr
from safetensors.torch import load_file
from torch import Tensor

from kandinsky.compat import diffusers as compat
from tests.compat.comparing import folder, seeded
from tests.tiny import Checkpoints

SIDES: dict[str, tuple[ModuleType, ModuleType]] = {"ours": (compat, compat), "diffusers": (diffusers, transformers)}
ROWS, STEPS = 2, 3
PROMPTS = ["a red fox", "a blue cat"]


class Loop:
    """A script's objects: what it trains, its average, and the accelerator that saves both as folders."""

    def __init__(self, kind: Any, source: Path, part: str, checkpointed: bool = False) -> None:
        self.kind, self.part = kind, part
        self.accelerator = Accelerator(gradient_accumulation_steps=2, cpu=True)
        network = kind.from_pretrained(source, subfolder=part)
        network.train()
        if checkpointed:
            network.enable_gradient_checkpointing()
        other = kind.from_pretrained(source, subfolder=part)
        self.average = EMAModel(other.parameters(), model_cls=kind, model_config=other.config, decay=0.5)
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
        schedule = get_scheduler("linear", optimizer, num_warmup_steps=0, num_training_steps=100)
        self.network, self.optimizer, self.schedule = self.accelerator.prepare(network, optimizer, schedule)
        self.accelerator.register_save_state_pre_hook(self._save)
        self.accelerator.register_load_state_pre_hook(self._load)

    def _save(self, models: list[Any], weights: list[Any], output_dir: str) -> None:
        self.average.save_pretrained(f"{output_dir}/{self.part}_ema")
        for model in models:
            model.save_pretrained(f"{output_dir}/{self.part}")
            weights.pop()

    def _load(self, models: list[Any], input_dir: str) -> None:
        saved = EMAModel.from_pretrained(f"{input_dir}/{self.part}_ema", self.kind)
        self.average.load_state_dict(saved.state_dict())
        while models:
            model, found = models.pop(), self.kind.from_pretrained(input_dir, subfolder=self.part)
            model.register_to_config(**found.config)
            model.load_state_dict(found.state_dict())

    def run(self, loss_of: Callable[[Any, int], Tensor], steps: range) -> list[float]:
        """The losses of steps, each of two batches."""
        losses = []
        for step in steps:
            for half in range(2):
                with self.accelerator.accumulate(self.network):
                    loss = loss_of(self.network, 2 * step + half)
                    losses.append(float(self.accelerator.gather(loss.detach().repeat(ROWS)).mean()))
                    self.accelerator.backward(loss)
                    if self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
                    self.optimizer.step()
                    self.schedule.step()
                    self.optimizer.zero_grad()
                if self.accelerator.sync_gradients:
                    self.average.step(self.network.parameters())
        return losses

    def finish(self) -> Any:
        """The network with its averaged weights."""
        network = self.accelerator.unwrap_model(self.network)
        self.average.store(network.parameters())
        self.average.restore(network.parameters())
        self.average.copy_to(network.parameters())
        return network


def weighed(loss: Tensor, schedule: Any, times: Tensor, gamma: float | None) -> Tensor:
    """The mean of a loss, its rows weighed by their signal-to-noise ratio where `gamma` says so."""
    rows = loss.flatten(1).mean(1)
    if gamma is None:
        return rows.mean()
    ratio = compute_snr(schedule, times)
    weights = ratio.clamp(max=gamma)
    return (rows * (weights / ratio if schedule.config.prediction_type == "epsilon" else weights)).mean()


def train_decoder(side: str, tiny: Checkpoints, out: Path, gamma: float | None, checkpointed: bool) -> list[float]:
    library, towers = SIDES[side]
    source, prior = folder(tiny, "text2img"), folder(tiny, "prior")
    movq = library.VQModel.from_pretrained(source, subfolder="movq", torch_dtype=torch.float32).eval()
    encoder = towers.CLIPVisionModelWithProjection.from_pretrained(prior, subfolder="image_encoder").eval()
    processor = compat.CLIPImageProcessor.from_pretrained(prior, subfolder="image_processor")
    schedule = library.DDPMScheduler.from_pretrained(source, subfolder="scheduler")
    for frozen in (movq, encoder):
        frozen.requires_grad_(False)

    def loss_of(unet: Any, batch: int) -> Tensor:
        draw = seeded(batch)
        pixels = torch.rand(ROWS, 3, 64, 64, generator=draw)
        seen = processor([image.permute(1, 2, 0).numpy() for image in pixels], return_tensors="pt").pixel_values
        latents = movq.encode(pixels * 2 - 1).latents
        embedding = encoder(seen).image_embeds
        noise, times = torch.randn(latents.shape, generator=draw), torch.randint(1000, (ROWS,), generator=draw).long()
        noisy = schedule.add_noise(latents, noise, times)
        said = unet(noisy, times, None, added_cond_kwargs={"image_embeds": embedding}).sample[:, :4]
        return weighed(F.mse_loss(said.float(), noise.float(), reduction="none"), schedule, times, gamma)

    losses, unet = trained(library.UNet2DConditionModel, source, "unet", out, loss_of, checkpointed)
    pipe = library.AutoPipelineForText2Image.from_pretrained(whole(source, prior, out), vae=movq, unet=unet)
    pipe.decoder_pipe.save_pretrained(out)
    return losses


def train_prior(side: str, tiny: Checkpoints, out: Path, gamma: float | None, checkpointed: bool) -> list[float]:
    library, towers = SIDES[side]
    source, prior = folder(tiny, "text2img"), folder(tiny, "prior")
    text = towers.CLIPTextModelWithProjection.from_pretrained(prior, subfolder="text_encoder").eval()
    vision = towers.CLIPVisionModelWithProjection.from_pretrained(prior, subfolder="image_encoder").eval()
    tokenizer = compat.CLIPTokenizer.from_pretrained(prior, subfolder="tokenizer")
    schedule = library.DDPMScheduler(beta_schedule="squaredcos_cap_v2", prediction_type="sample")
    for frozen in (text, vision):
        frozen.requires_grad_(False)

    def loss_of(network: Any, batch: int) -> Tensor:
        draw = seeded(batch)
        length = tokenizer.model_max_length
        tokens = tokenizer(PROMPTS, max_length=length, padding="max_length", truncation=True, return_tensors="pt")
        with torch.no_grad():
            told = text(tokens.input_ids)
            image = vision(torch.randn(ROWS, 3, 28, 28, generator=draw)).image_embeds
            image = (image - network.clip_mean) / network.clip_std
        noise, times = torch.randn(image.shape, generator=draw), torch.randint(1000, (ROWS,), generator=draw).long()
        said = network(
            schedule.add_noise(image, noise, times),
            timestep=times,
            proj_embedding=told.text_embeds,
            encoder_hidden_states=told.last_hidden_state,
            attention_mask=tokens.attention_mask.bool(),
        ).predicted_image_embedding
        return weighed(F.mse_loss(said.float(), image.float(), reduction="none"), schedule, times, gamma)

    losses, network = trained(library.PriorTransformer, prior, "prior", out, loss_of, checkpointed=False)
    pipe = library.AutoPipelineForText2Image.from_pretrained(
        whole(source, prior, out), prior_image_encoder=vision, prior_text_encoder=text, prior_prior=network
    )
    pipe.prior_pipe.save_pretrained(out)
    return losses


def trained(
    kind: Any, source: Path, part: str, out: Path, loss_of: Callable[[Any, int], Tensor], checkpointed: bool
) -> tuple[list[float], Any]:
    """Two steps, a checkpoint, and a third step by new objects that take it up."""
    first = Loop(kind, source, part, checkpointed)
    losses = first.run(loss_of, range(2))
    first.accelerator.save_state(str(out / "checkpoint-2"))
    second = Loop(kind, source, part, checkpointed)
    second.accelerator.load_state(str(out / "checkpoint-2"))
    second.average.optimization_step = first.average.optimization_step
    losses += second.run(loss_of, range(2, STEPS))
    return losses, second.finish()


def whole(source: Path, prior: Path, out: Path) -> Path:
    """A decoder's folder whose card names its prior."""
    made = shutil.copytree(source, out.parent / f"{out.name}-base")
    (made / "README.md").write_text(f"---\nprior:\n- {prior}\ntags:\n- kandinsky\n---\n", encoding="utf-8")
    return made


@pytest.mark.parametrize(
    ("train", "gamma", "checkpointed"),
    [
        (train_decoder, None, False),
        pytest.param(train_decoder, 5.0, True, marks=pytest.mark.slow),
        pytest.param(train_prior, None, False, marks=pytest.mark.slow),
        (train_prior, 5.0, False),
    ],
)
def test_losses_weights_and_files_are_those_of_diffusers(
    tiny: Checkpoints, tmp_path: Path, train: Callable[..., list[float]], gamma: float | None, checkpointed: bool
) -> None:
    losses = {side: train(side, tiny, tmp_path / side, gamma, checkpointed) for side in SIDES}
    assert losses["ours"] == pytest.approx(losses["diffusers"], rel=1e-4)
    files = {side: {p.relative_to(tmp_path / side) for p in (tmp_path / side).rglob("*.*")} for side in SIDES}
    assert files["ours"] == files["diffusers"]
    for name in files["ours"]:
        if name.suffix == ".safetensors":
            ours, theirs = (load_file(tmp_path / side / name) for side in SIDES)
            assert ours.keys() == theirs.keys()
            assert all(torch.allclose(ours[key], theirs[key], atol=1e-5) for key in ours), name


@pytest.mark.parametrize(
    ("train", "kind", "part"),
    [
        pytest.param(train_decoder, "KandinskyV22Pipeline", "UNet2DConditionModel unet", marks=pytest.mark.slow),
        (train_prior, "KandinskyV22PriorPipeline", "PriorTransformer prior"),
    ],
)
def test_what_a_loop_writes_loads_on_both_sides(
    tiny: Checkpoints, tmp_path: Path, train: Callable[..., list[float]], kind: str, part: str
) -> None:
    out = tmp_path / "out"
    train("ours", tiny, out, None, False)
    network, folder_name = part.split()
    for library in (compat, diffusers):
        assert getattr(library, kind).from_pretrained(out)
        for name in (folder_name, f"{folder_name}_ema"):
            assert getattr(library, network).from_pretrained(out / "checkpoint-2", subfolder=name)
        average = EMAModel.from_pretrained(out / "checkpoint-2" / f"{folder_name}_ema", getattr(library, network))
        assert average.optimization_step == 2
