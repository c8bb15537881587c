"""Networks are pure arithmetic: acceleration is handed in, see `engine/acceleration`."""

import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import kandinsky.networks

FILES = sorted(Path(kandinsky.networks.__file__).parent.glob("*.py"))
PROCESSOR = re.compile(r"(?i)\b(device\.type|is_cuda|cuda|mps|xpu|triton|mkldnn|onednn|torch\.compile|graphs?)\b")


def code(source: str) -> Iterator[str]:
    """A source's lines without texts and comments."""
    kept = [
        token.string
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in (tokenize.STRING, tokenize.COMMENT)
    ]
    yield from "".join(kept).splitlines()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_network_knows_no_processor(file: Path) -> None:
    assert [line for line in code(file.read_text(encoding="utf-8")) if PROCESSOR.search(line)] == []


def test_the_search_finds_processors() -> None:
    for line in ("if x.device.type == 'cpu': pass\n", "torch.cuda.synchronize()\n", "f = torch.compile(g)\n"):
        assert any(PROCESSOR.search(found) for found in code(line))
    assert not any(PROCESSOR.search(found) for found in code('x = "on cuda"  # on a GPU: cuda\n'))
