"""What the pages say is so: their code runs, their commands exist, their links lead somewhere."""

import ast
import importlib
from pathlib import Path

import pytest
import typer.main

import kandinsky
from kandinsky.cli.main import app, run
from kandinsky.diffusion.samplers import SAMPLERS
from kandinsky.generations import k30
from kandinsky.generations.few_step_defaults import PRIOR_DEFAULTS
from tests.docs.pages import LANGUAGES, PAGES, REPOSITORY, Block, blocks, commands, first_cells, links
from tests.docs.scripts import make_examples
from tests.families import mostly_slow

INSTALL = 'pip install . && kandinsky generate "a red apple" -o apple.png'
TEST = "pip install '.[test]' && pytest"
IMAGES = "examples/images"


def names(pages: list[Path]) -> list[str]:
    return [page.relative_to(REPOSITORY).as_posix() for page in pages]


def run_command(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(words[1:])
    assert ended.value.code in (0, None), " ".join(words)


def run_block(block: Block, page: Path, namespace: dict[str, object]) -> None:
    match block.language:
        case "python" | "py":
            # The lines of the page, so that a failure points into it.
            source = "\n" * (block.line - 1) + block.text
            exec(compile(source, str(page), "exec"), namespace)
        case "bash":
            for words in commands(block):
                assert words[0] == "kandinsky", f"{page.name} line {block.line}: {words[0]} is not run here"
                run_command(words)
        case "toml":
            name = block.text.splitlines()[0].removeprefix("# ")
            Path(name).write_text(block.text, encoding="utf-8")


HEAVY = (
    "batches",
    "command-line",
    "compat",
    "cookbook",
    "fine-tuning",
    "inpainting",
    "memory",
    "mixing",
    "negative-prompts-and-seeds",
    "notebooks",
    "prompts",
    "samplers-and-steps",
    "server",
    "variations",
)
"""Pages of many images, whose commands and calls other tests run too."""


@pytest.mark.parametrize(
    "page", mostly_slow(PAGES, *(page for page in PAGES if page.stem not in HEAVY)), ids=names(PAGES)
)
def test_the_code_of_a_page_runs(page: Path, here: Path) -> None:
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{page.name} line {block.line}: {block.language!r}"
        if block.language != "py":
            run_block(block, page, namespace)


WITH_MODELS = [page for page in PAGES if any(block.language == "py" for block in blocks(page))]


@pytest.mark.parametrize("page", WITH_MODELS, ids=names(WITH_MODELS))
@pytest.mark.usefixtures("published")
def test_the_code_for_published_models_asks_for_what_exists(page: Path) -> None:
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        if block.language == "py":
            run_block(block, page, namespace)


def test_commands_have_flags_that_exist() -> None:
    group = typer.main.get_command(app)
    seen = dict.fromkeys(("console", "bash"), 0)
    for page in PAGES:
        for block in blocks(page):
            if block.language not in seen:
                continue
            for words in commands(block):
                if words[0] == "kandinsky":
                    name, command, rest = group.resolve_command(group.context_class(group), words[1:])
                    command.make_context(name, list(rest))
                    seen[block.language] += 1
    assert all(count > 3 for count in seen.values())


def test_python_names_what_exists() -> None:
    """Also on pages that are run with the slow tests alone."""
    seen = 0
    for page in PAGES:
        for block in blocks(page):
            if block.language not in ("python", "py"):
                continue
            tree = ast.parse(block.text, f"{page.name} line {block.line}")
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("kandinsky"):
                    module = importlib.import_module(str(node.module))
                    found = [getattr(module, one.name) for one in node.names]
                elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "kandinsky":
                    found = [getattr(kandinsky, node.attr)]
                else:
                    continue
                seen += len(found)
    assert seen > 50


def test_links_lead_somewhere() -> None:
    sheets = {sheet.file for sheet in make_examples().SHEETS}
    for page in PAGES:
        for target in links(page):
            path = (page.parent / target).resolve()
            if path.parent == REPOSITORY / IMAGES and path.suffix == ".png":
                assert path.name in sheets, f"{page.name}: nothing draws {target}"
            elif path != REPOSITORY / IMAGES / "README.md":
                assert path.exists(), f"{page.name}: {target}"


def test_the_index_names_every_page() -> None:
    index = REPOSITORY / "docs" / "index.md"
    pages = set(names(PAGES)) - {"docs/index.md"}
    named = {(index.parent / target).resolve().relative_to(REPOSITORY).as_posix() for target in links(index)}
    assert pages <= named


def test_the_readme_begins_with_the_two_commands(here: Path) -> None:
    first = next(block for block in blocks(REPOSITORY / "README.md") if block.language)
    assert [line for line in first.text.splitlines() if line] == [INSTALL, TEST]
    *_, draw = [words for words in commands(first) if words[0] == "kandinsky"]
    run_command(draw)
    assert (here / "apple.png").stat().st_size > 0


def test_ci_runs_the_command_of_the_readme() -> None:
    lines = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert TEST in lines


def test_the_samplers_page_names_every_sampler() -> None:
    assert sorted(first_cells(REPOSITORY / "docs" / "samplers-and-steps.md")) == sorted(SAMPLERS)


def test_the_command_page_names_every_flag() -> None:
    text = (REPOSITORY / "docs" / "command-line.md").read_text(encoding="utf-8")
    group = typer.main.get_command(app)
    context = group.context_class(group)
    for name in group.list_commands(context):
        assert f"`kandinsky {name}" in text, name
        command = group.get_command(context, name)
        for parameter in command.params:
            for flag in () if getattr(parameter, "hidden", False) else parameter.opts:
                assert not flag.startswith("--") or f"`{flag}`" in text, f"{name} {flag}"


def test_the_release_numbers_of_the_pages() -> None:
    # The page that tells what published models do by default says what the code does.
    text = (REPOSITORY / "docs" / "samplers-and-steps.md").read_text(encoding="utf-8")
    numbers = PRIOR_DEFAULTS
    assert f"{numbers['steps']} steps, guidance {numbers['guidance_scale']:g}" in text
    assert f"{numbers['prior_steps']} steps, guidance {numbers['prior_guidance_scale']:g}" in text
    newest = (REPOSITORY / "docs" / "kandinsky-3.md").read_text(encoding="utf-8")
    steps, own = k30.DEFAULTS["steps"], k30.ORIGINAL_DEFAULTS["steps"]
    assert f"| steps | {steps} | {own} | {own} | {len(k30.FLASH_TIMES)} |" in newest
    scale, other = (f"{w:g}" for w in (k30.DEFAULTS["guidance_scale"], k30.INPAINTING_GUIDANCE))
    assert f"| guidance | {scale} | {scale}, inpainting {other} | {scale}, inpainting {other} | none |" in newest
    for behaviour in k30.BEHAVIOURS:
        assert f"`{behaviour}`" in newest
    assert f"{k30.PERCENTILE} quantile ({k30.INPAINTING_PERCENTILE} in inpainting)" in newest
    assert "times {}, {}, {} and {}".format(*k30.FLASH_TIMES) in newest
