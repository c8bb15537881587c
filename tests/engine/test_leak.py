"""Memory does not grow from image to image."""

import gc
from pathlib import Path

import pytest

import kandinsky

WARM_UP, IMAGES, MOST = 50, 300, 20


def resident() -> float:
    """Megabytes of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell")
def test_three_hundred_images_leave_the_memory_as_it_was() -> None:
    pipe = kandinsky.load(device="cpu", batch_size=1)

    def draw(count: int) -> None:
        for number in range(count):
            pipe.generate(f"a fox number {number}", seed=number, steps=2, prior_steps=2)

    draw(WARM_UP)
    gc.collect()
    before = resident()
    draw(IMAGES)
    gc.collect()
    grown = resident() - before
    print(f"{grown:+.1f} MB over {IMAGES} images")
    assert grown <= MOST
