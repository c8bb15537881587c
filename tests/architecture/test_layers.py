"""The shape of the house: what imports what, what loads when, one denoising loop, releases in their homes."""

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

import kandinsky

ROOT = Path(kandinsky.__file__).resolve().parent
# Not from ROOT: that may be an installed copy.
REPOSITORY = Path(__file__).resolve().parents[2]
SOURCES = sorted(ROOT.rglob("*.py"))
LONGEST_FILE = 450
HEAVY = ("torch", "transformers", "diffusers", "torchvision", "numpy", "PIL", "huggingface_hub")

# Where a release may be called by its number: its wiring, its file names, the names other programs use.
HOMES = ("generations", "checkpoints/maps", "compat", "assets")
RELEASE = re.compile(r"(?i)(?<![a-z0-9])k(?:20|21|22|30|31)(?![0-9])|kandinsky[-_ ]?v?[23]|(?<![a-z])v2[012](?![0-9])")
RELEASE_NUMBER = re.compile(r"(?<![\d.\w])(?:2\.[12]|3\.1)(?![\d\w.])")

OF_A_PAPER = re.compile(r"(?i)\b(?:sections?|sec\.|eqs?\.|equations?|tables?|figures?|appendix)\s*\(?[\d.]+")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_point_down_only() -> None:
    importlinter = pytest.importorskip("importlinter.cli")
    code = importlinter.lint_imports(config_filename=str(REPOSITORY / "pyproject.toml"), no_cache=True)
    assert code == 0


def loaded_after(program: str) -> set[str]:
    ended = subprocess.run(
        [sys.executable, "-c", f"{program}\nprint('LOADED', *sys.modules)"], check=True, capture_output=True, text=True
    )
    return set(ended.stdout.rpartition("LOADED")[2].split())


def test_importing_the_package_is_light() -> None:
    loaded = loaded_after("import sys, kandinsky; dir(kandinsky); kandinsky.__version__")
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("arguments", [["--help"], ["generate", "--help"], ["train", "--help"], ["version"]])
def test_help_is_light(arguments: list[str]) -> None:
    program = f"""
import sys
from kandinsky.cli.main import run
try:
    run({arguments})
except SystemExit as ended:
    assert ended.code == 0, ended.code
"""
    assert not loaded_after(program) & set(HEAVY)


def test_requests_need_no_torch() -> None:
    program = """
import sys
from kandinsky.core import events, images, metadata
from kandinsky.core.requests import Request
Request("a fox", seed=1, width=64, height=64).to_json()
"""
    loaded = loaded_after(program)
    assert "pydantic" in loaded
    assert "torch" not in loaded


def test_fine_tuning_reads_nothing_of_recipes(tmp_path: Path) -> None:
    program = f"""
import sys
from pathlib import Path
from PIL import Image
from kandinsky.training import run_config
folder = Path({str(tmp_path)!r})
Image.new("RGBA", (64, 64), "red").save(folder / "a.png")
(folder / "a.txt").write_text("a toy")
run = {{"method": "lora", "out": folder / "run", "data": {{"folder": folder}}, "batch": 1, "max_steps": 1}}
list(run_config(run | {{"device": "cpu", "threads": 1}}))
"""
    loaded = loaded_after(program)
    assert "kandinsky.training.finetune.tuning" in loaded
    assert not [name for name in loaded if name.startswith("kandinsky.recipes")]


def test_every_public_name_leads_somewhere() -> None:
    for name in kandinsky.__all__:
        assert getattr(kandinsky, name) is not None
    assert set(kandinsky.__all__) <= set(dir(kandinsky))
    with pytest.raises(AttributeError, match="no_such_name"):
        kandinsky.no_such_name


def calls(node: ast.AST) -> Iterator[ast.Call]:
    yield from (child for child in ast.walk(node) if isinstance(child, ast.Call))


def is_sampler_step(call: ast.Call) -> bool:
    # A sampler's step takes the denoiser, the latents, two times, a state and the randomness; an optimiser's
    # takes nothing, a prepared network's two.
    inputs = len(call.args) + len(call.keywords)
    return isinstance(call.func, ast.Attribute) and call.func.attr == "step" and inputs >= 4


def is_denoiser_call(call: ast.Call) -> bool:
    # Latents and a time; a training objective of that name takes its batch.
    inputs = len(call.args) + len(call.keywords)
    return isinstance(call.func, ast.Name) and call.func.id in ("denoise", "denoiser") and inputs == 2


def denoising_loops(source: str) -> int:
    """The number of loops and comprehensions that step a sampler, or call a denoiser, in their own body."""
    repeated = (ast.For, ast.AsyncFor, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
    loops = [node for node in ast.walk(ast.parse(source)) if isinstance(node, repeated)]
    inner = {
        id(child) for loop in loops for child in ast.walk(loop) if child is not loop and isinstance(child, repeated)
    }
    outermost = [loop for loop in loops if id(loop) not in inner]
    return sum(any(is_sampler_step(call) or is_denoiser_call(call) for call in calls(loop)) for loop in outermost)


def test_there_is_one_denoising_loop() -> None:
    found = {named(path): denoising_loops(path.read_text(encoding="utf-8")) for path in SOURCES}
    assert {name: count for name, count in found.items() if count} == {"diffusion/loop.py": 1}


def test_the_search_for_loops_finds_loops() -> None:
    assert denoising_loops("for t in times:\n    x, p, s = sampler.step(denoise, x, t, u, s, rng, False)") == 1
    assert denoising_loops("while True:\n    for a in b:\n        x = denoise(x, t)") == 1
    assert denoising_loops("[pick.step(d, x, t, u, state=s) for t in times]") == 1
    assert denoising_loops("for batch in data:\n    optimiser.step()\nx = denoise(x, t)") == 0


def words(path: Path) -> Iterator[tuple[int, str]]:
    """Every name, text and comment of a file with its line; not its numbers, since 2.0 is also a number."""
    source = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (tokenize.NUMBER, tokenize.OP, tokenize.NEWLINE, tokenize.NL):
            yield token.start[0], token.string


def release_words(text: str) -> list[str]:
    plain = OF_A_PAPER.sub("", text)
    return RELEASE.findall(plain) + RELEASE_NUMBER.findall(plain)


def test_releases_are_named_in_their_homes_only() -> None:
    found = [
        f"{named(path)}:{line}: {word}"
        for path in SOURCES
        if not named(path).startswith(HOMES)
        for line, text in words(path)
        for word in release_words(text)
    ]
    assert found == []


@pytest.mark.parametrize(
    "text", ["Kandinsky 2.2", "k22", "load_k21_unet", "kandinsky-2-2-decoder", "as 3.1 does", "V22Prior"]
)
def test_the_search_for_releases_finds_releases(text: str) -> None:
    assert release_words(text)


@pytest.mark.parametrize(
    "text", ["unet2", "Apache-2.0", "a block of 32.1", "k2", "version 12.2.1", "conv3x3", "Ho 2020, section 3.1"]
)
def test_the_search_for_releases_leaves_others_alone(text: str) -> None:
    assert not release_words(text)


def test_files_stay_readable() -> None:
    lengths = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_nothing_but_the_hub_and_training_reaches_for_pickle() -> None:
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("weights_only") == "True", f"{named(path)}:{node.lineno}"
