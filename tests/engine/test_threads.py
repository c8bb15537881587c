"""Several threads on one pipeline, and a forked process, draw what one thread draws."""

import hashlib
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

import kandinsky
from kandinsky.core.errors import KandinskyError
from kandinsky.engine.pipeline import Pipeline
from tests.families import mostly_slow
from tests.tiny import Checkpoints


def drawn(pipe: Pipeline, seed: int) -> str:
    result = pipe.generate("a red fox", seed=seed, steps=2, prior_steps=2, width=64, height=64)
    return hashlib.sha256(result.images[0].tobytes()).hexdigest()


def together(works: list[Callable[[], Any]]) -> list[Any]:
    """What the works return, or raise, each in a thread of its own."""
    found: list[Any] = [None] * len(works)

    def run(place: int) -> None:
        try:
            found[place] = works[place]()
        except BaseException as error:
            found[place] = error

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    return found


@pytest.mark.parametrize(
    "options", mostly_slow([{}, {"offload": "parts"}, {"offload": "layers"}], {}, {"offload": "layers"})
)
def test_threads_under_each_memory_policy(options: dict[str, str], tiny: Checkpoints) -> None:
    pipe = tiny.own(**options)
    alone = [drawn(pipe, seed) for seed in range(3)]
    found = together([lambda seed=seed: [drawn(pipe, seed) for _ in range(3)] for seed in range(3)])
    assert found == [[one] * 3 for one in alone]


def test_threads_on_the_embedded_checkpoint() -> None:
    pipe = kandinsky.load(device="cpu", batch_size=1)
    alone = [drawn(pipe, seed) for seed in range(3)]
    assert together([lambda seed=seed: drawn(pipe, seed) for seed in range(3)]) == alone


def test_adapters_may_change_while_another_thread_draws(tiny: Checkpoints, tmp_path: Any) -> None:
    from kandinsky.adapters.lora import Adapter
    from kandinsky.checkpoints.lora import choose_places, write_lora

    pipe = tiny.own()
    network = pipe.model.modules["prior"]
    adapter = Adapter.new(network, choose_places(network), 2, 4.0)
    write_lora(tmp_path / "a.safetensors", {"prior_prior": (network, adapter)})
    alone = drawn(pipe, 1)
    done = threading.Event()

    def change() -> int:
        rounds = 0
        while not done.is_set():
            pipe.load_lora(tmp_path / "a.safetensors", name="a")
            pipe.set_lora_scale("a", 0.5)
            pipe.unload_lora("a")
            rounds += 1
        return rounds

    def draw() -> list[str]:
        try:
            return [drawn(pipe, 1) for _ in range(20)]
        finally:
            done.set()

    rounds, images = together([change, draw])
    assert isinstance(rounds, int), rounds
    assert rounds > 0
    assert images == [alone] * 20  # a new adapter changes nothing


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_draws_the_same(tiny: Checkpoints) -> None:
    torch.set_num_threads(1)
    pipe = tiny.own()
    alone = drawn(pipe, 1)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, drawn(pipe, 1).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as told:
        assert told.read() == alone
    os.waitpid(child, 0)


def test_one_seed_gives_one_image(tiny: Checkpoints) -> None:
    """With one thread count, whatever was drawn in between, and in a pipeline loaded anew."""
    pipe = tiny.own()
    first = drawn(pipe, 7)
    with pytest.raises(KandinskyError):
        pipe.generate("a", width=1)
    drawn(pipe, 8)
    assert drawn(pipe, 7) == first == drawn(tiny.own(), 7)
