"""Each loss against a formula, a property it must have, or an independent way to compute it."""

import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from kandinsky.diffusion.process import Process
from kandinsky.training.distributed import ALONE
from kandinsky.training.objectives.autoencoder import (
    PatchCritic,
    adaptive_weight,
    critic_hinge_loss,
    generator_hinge_loss,
    latent_moments_loss,
    similarity,
    structure_distance,
)
from kandinsky.training.objectives.contrastive import (
    class_loss,
    contrastive_loss,
    cosine_logits,
    distillation_loss,
    retrieval_accuracy,
)
from kandinsky.training.objectives.denoising import (
    Posterior,
    clean_of,
    min_snr_weights,
    squared_error,
    target_of,
    variance_bound,
)
from kandinsky.training.objectives.times import SecondMomentTimes, UniformTimes

CPU = torch.device("cpu")
PROCESS = Process.linear(0.00085, 0.012)
POSTERIOR = Posterior.of(PROCESS, CPU)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def images(count: int, size: int = 32, seed: int = 0) -> Tensor:
    small = randn(count, 3, size // 8, size // 8, seed=seed)
    return nn.functional.interpolate(small, (size, size), mode="bicubic").tanh()


def test_structure_distance_is_zero_only_for_equal_images_and_grows_with_blur() -> None:
    x = images(2)
    blurred = nn.functional.avg_pool2d(x, 5, 1, 2)
    more = nn.functional.avg_pool2d(x, 9, 1, 4)
    assert structure_distance(x, x).abs().max() < 1e-6
    assert (structure_distance(blurred, x) > 0.01).all()
    assert (structure_distance(more, x) > structure_distance(blurred, x)).all()


def test_structure_distance_sees_each_row_alone_and_has_a_gradient() -> None:
    x, y = images(3), images(3, seed=1).requires_grad_()
    together = structure_distance(y, x)
    alone = torch.cat([structure_distance(y[i : i + 1], x[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, alone)
    together.sum().backward()
    assert y.grad is not None
    assert y.grad.abs().sum() > 0


@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_similarity_is_that_of_the_paper(scale: float) -> None:
    """Wang et al. 2004, eq. 13, written out for every window; faint images show the constants."""
    a, b = (scale * images(1, 16, seed)[0].double() for seed in (0, 1))
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    values = []
    for plane in range(3):
        for top, left in itertools.product(range(12), repeat=2):
            x, y = (image[plane, top : top + 5, left : left + 5].flatten() for image in (a, b))
            mean_x, mean_y = x.mean(), y.mean()
            covariance = ((x - mean_x) * (y - mean_y)).mean()
            luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
            structure = (2 * covariance + c2) / (x.var(correction=0) + y.var(correction=0) + c2)
            values.append(luminance * structure)
    torch.testing.assert_close(similarity(a[None], b[None]), torch.stack(values).mean()[None])


def test_latent_moments_loss_is_about_zero_for_standard_latents_alone() -> None:
    z = randn(64, 4, 8, 8)
    assert latent_moments_loss(z) < 1e-3
    torch.testing.assert_close(latent_moments_loss(z * 3), torch.tensor(4.0), atol=0.1, rtol=0)
    torch.testing.assert_close(latent_moments_loss(z + 2), torch.tensor(4.0), atol=0.1, rtol=0)


def test_hinge_losses() -> None:
    real, fake = torch.tensor([2.0, 0.0]), torch.tensor([-3.0, 1.0])
    assert critic_hinge_loss(real, fake).item() == pytest.approx(0.5 * (0.5 + 1.0))
    assert generator_hinge_loss(fake).item() == pytest.approx(1.0)


def test_adaptive_weight_balances_gradient_norms() -> None:
    layer = nn.Parameter(randn(3, 3))
    weight = adaptive_weight((layer * 6).sum(), (layer * 2).sum(), layer)
    assert weight.item() == pytest.approx(3.0, rel=1e-3)
    assert not weight.requires_grad


def test_the_critic_looks_at_patches() -> None:
    critic = PatchCritic(width=8, levels=2)
    x = images(1)
    changed = x.clone()
    changed[:, :, -4:, -4:] = 0
    difference = (critic.layers[0](x) - critic.layers[0](changed)).abs()
    assert critic(x).shape == (1, 1, 8, 8)
    assert difference[:, :, :8, :8].max() == 0


def test_contrastive_loss_with_single_positives_is_clips() -> None:
    a, b = randn(5, 8), randn(5, 8, seed=1)
    scale = torch.tensor(math.log(10.0))
    logits = 10 * nn.functional.normalize(a) @ nn.functional.normalize(b).T
    labels = torch.arange(5)
    expected = nn.functional.cross_entropy(logits, labels) + nn.functional.cross_entropy(logits.T, labels)
    loss = contrastive_loss(a, b, scale, torch.eye(5))
    torch.testing.assert_close(loss, expected / 2)


def test_contrastive_loss_spreads_its_target_over_all_right_answers() -> None:
    text, image, scale = randn(3, 8), randn(3, 8, seed=1), torch.tensor(0.7)
    fits = torch.tensor([[True, True, False], [False, True, False], [False, True, True]])
    logits = cosine_logits(text, image, scale)
    by_caption, by_image = logits.log_softmax(1), logits.log_softmax(0)
    first = (by_caption[0, :2].mean() + by_caption[1, 1] + by_caption[2, 1:].mean()) / 3
    second = (by_image[0, 0] + by_image[:, 1].mean() + by_image[2, 2]) / 3
    torch.testing.assert_close(contrastive_loss(text, image, scale, fits), -(first + second) / 2)


def test_the_scale_of_logits_is_capped() -> None:
    pair = (randn(4, 8), randn(4, 8, seed=1))
    huge = contrastive_loss(*pair, torch.tensor(50.0), torch.eye(4))
    capped = contrastive_loss(*pair, torch.tensor(math.log(100)), torch.eye(4))
    torch.testing.assert_close(huge, capped)


def test_logits_keep_their_precision_where_networks_work_in_half() -> None:
    pair = (randn(4, 64).bfloat16(), randn(5, 64, seed=1).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        found = cosine_logits(*pair, torch.tensor(math.log(60)))
    exact = 60 * torch.cosine_similarity(pair[0].double()[:, None], pair[1].double()[None], dim=2)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=0)


def test_class_loss_is_the_mean_over_rows_that_have_a_class() -> None:
    logits = randn(4, 3)
    found = class_loss(logits, torch.tensor([2, -1, 0, -1]))
    torch.testing.assert_close(found, nn.functional.cross_entropy(logits[[0, 2]], torch.tensor([2, 0])))
    assert class_loss(logits, torch.full((4,), -1)).item() == 0


def test_distillation_loss_ignores_length() -> None:
    teacher = randn(3, 5)
    assert distillation_loss(7 * teacher, teacher).item() == pytest.approx(0, abs=1e-6)
    assert distillation_loss(-teacher, teacher).item() == pytest.approx(2)


def test_retrieval_accuracy() -> None:
    keys = torch.eye(4)
    queries = torch.tensor([[1, 0.5, 0, 0], [1, 0.5, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    right = torch.eye(4, dtype=torch.bool)
    assert retrieval_accuracy(queries, keys, right, 1) == 0.75
    assert retrieval_accuracy(queries, keys, right, 2) == 1.0


@pytest.mark.parametrize("kind", ["eps", "x0", "v"])
def test_targets_lead_back_to_the_clean_latents(kind: str) -> None:
    x0, noise, t = randn(4, 4, 2, 2), randn(4, 4, 2, 2, seed=1), torch.tensor([0, 10, 500, 999])
    x = PROCESS.add_noise(x0, noise, t)
    target = target_of(kind, PROCESS, x0, noise, t)  # type: ignore[arg-type]
    found = clean_of(kind, POSTERIOR, target, x, t)  # type: ignore[arg-type]
    torch.testing.assert_close(found, x0, atol=1e-3, rtol=1e-3)


def test_min_snr_weights_make_all_kinds_the_same_loss() -> None:
    t = torch.tensor([1, 300, 999])
    alpha_bar = PROCESS.alpha_bar[t]
    snr = alpha_bar / (1 - alpha_bar)
    weights = {kind: min_snr_weights(kind, POSTERIOR, t, 5.0) for kind in ("eps", "x0", "v")}  # type: ignore[arg-type]
    torch.testing.assert_close(weights["x0"], snr.clamp(max=5))
    # An error in x0 is snr times smaller, squared, as one in eps; and snr + 1 times as one in v.
    torch.testing.assert_close(weights["eps"] * snr, weights["x0"])
    torch.testing.assert_close(weights["v"] * (snr + 1), weights["x0"])


def test_the_posterior_is_bayes() -> None:
    """The density of x_{t-1} given x0, times that of x_t given x_{t-1}, on a grid."""
    t, x0, x = 400, 0.7, -0.3
    before, beta = PROCESS.alpha_bar[t - 1].double(), PROCESS.betas[t].double()
    grid = torch.linspace(-4, 4, 200_001, dtype=torch.float64)
    log = -((grid - before.sqrt() * x0).square()) / (2 * (1 - before))
    log = log - (x - (1 - beta).sqrt() * grid).square() / (2 * beta)
    weights = (log - log.max()).exp()
    weights = weights / weights.sum()
    mean = (weights * grid).sum()
    variance = (weights * (grid - mean).square()).sum()
    found = POSTERIOR.mean(torch.tensor([x0]), torch.tensor([x]), torch.tensor([t]))
    assert found.item() == pytest.approx(mean.item(), abs=1e-4)
    assert POSTERIOR.log_variance[t].exp().item() == pytest.approx(variance.item(), rel=1e-3)


def bound(t: int, raw: float, error: float = 0.0) -> float:
    x0, noise = randn(2, 4, 4, 4), randn(2, 4, 4, 4, seed=1)
    times = torch.full((2,), t)
    x = PROCESS.add_noise(x0, noise, times)
    return variance_bound(POSTERIOR, x0, x, times, x0 + error, torch.full_like(x, raw)).mean().item()


def test_the_bound_is_zero_for_the_true_posterior_and_positive_otherwise() -> None:
    assert bound(500, -1.0) == pytest.approx(0, abs=1e-6)
    assert bound(20, 1.0) > 1e-4
    assert bound(20, -1.0, error=0.5) > bound(20, -1.0, error=0.1) > 1e-4


def test_the_bound_at_time_zero_is_the_likelihood_in_bins() -> None:
    x0 = torch.full((1, 1, 1, 1), 0.2)
    x, t = x0.clone(), torch.tensor([0])
    found = variance_bound(POSTERIOR, x0, x, t, x0, torch.full_like(x, -1.0)).item()
    normal = torch.distributions.Normal(0.2, math.sqrt(POSTERIOR.log_variance[0].exp().item()))
    mass = normal.cdf(torch.tensor(0.2 + 1 / 255)) - normal.cdf(torch.tensor(0.2 - 1 / 255))
    assert found == pytest.approx(-math.log2(mass.item()), rel=2e-2)


def test_the_bound_trains_the_variance_and_not_the_mean() -> None:
    x0, x = randn(3, 4, 2, 2), randn(3, 4, 2, 2, seed=1)
    predicted, raw = randn(3, 4, 2, 2, seed=2).requires_grad_(), torch.zeros(3, 4, 2, 2).requires_grad_()
    variance_bound(POSTERIOR, x0, x, torch.tensor([0, 5, 900]), predicted, raw).sum().backward()
    assert predicted.grad is None
    assert raw.grad is not None
    assert raw.grad.isfinite().all()
    assert (raw.grad[1].abs() > 0).any()


def test_the_bound_is_least_at_the_best_variance() -> None:
    """With a wrong mean the best variance lies above the posterior's: gradient descent on raw finds a
    minimum.
    """
    values = [bound(10, raw, error=0.05) for raw in torch.linspace(-1, 1, 9).tolist()]
    best = values.index(min(values))
    assert values[best] < values[0]
    assert values[best] < values[-1]


def test_squared_error_is_by_row() -> None:
    a = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
    assert squared_error(a, torch.zeros_like(a)).tolist() == [0, 1]


def test_uniform_times_are_uniform() -> None:
    t, weights = UniformTimes(10).draw(20_000, torch.Generator().manual_seed(0), CPU)
    assert (t.bincount(minlength=10) - 2000).abs().max() < 200
    assert (weights == 1).all()


def test_second_moment_times_follow_the_losses_and_stay_unbiased() -> None:
    sampler = SecondMomentTimes(4, history=2)
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(sampler.probabilities(), torch.full((4,), 0.25, dtype=torch.float64))
    losses = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for _ in range(3):
        sampler.learn(torch.arange(4), losses)
        sampler.sync(ALONE)
    torch.testing.assert_close(sampler.probabilities().float(), losses / 10, atol=1e-3, rtol=1e-2)
    t, weights = sampler.draw(50_000, generator, CPU)
    shares = t.bincount(minlength=4) / 50_000
    torch.testing.assert_close(shares, losses / 10, atol=0.01, rtol=0)
    assert (weights * losses[t]).mean().item() == pytest.approx(losses.mean().item(), rel=0.01)


def test_second_moment_times_forget_old_losses() -> None:
    sampler = SecondMomentTimes(2, history=2)
    for loss in (100.0, 1.0, 1.0):
        sampler.learn(torch.arange(2), torch.tensor([loss, 1.0]))
        sampler.sync(ALONE)
    torch.testing.assert_close(sampler.probabilities(), torch.full((2,), 0.5, dtype=torch.float64))
