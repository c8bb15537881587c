"""The ready configurations: whole, and their commands and results as they say."""

import re
import shlex
from pathlib import Path

import pytest

from kandinsky.cli.train import recipes
from kandinsky.training.config.run import FINETUNING, read_config

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "src/kandinsky/training/configs").glob("*.toml"))
GENERATIONS = ("2.0", "2.1", "2.2", "3")
LEFT = {"lora": "lora.safetensors", "dreambooth": "dreambooth.safetensors", "full": "checkpoint"}


def test_there_is_one_for_each_method_and_generation() -> None:
    names = {path.stem for path in CONFIGS}
    ways = ("textual-inversion", "lora", "dreambooth", "full", "inpainting")
    assert names == {f"{generation}-{way}" for generation in GENERATIONS for way in ways} | {"2.2-control"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_does_what_its_top_says(path: Path) -> None:
    found = read_config(path)
    (stage,) = found.stage
    assert stage.method in FINETUNING
    assert found.out == Path("runs") / path.stem
    commands = [shlex.split(line[4:]) for line in path.read_text().splitlines() if line.startswith("#   ")]
    train, generate = commands[-2:]
    assert train[:3] == ["kandinsky", "train", path.stem]
    assert generate[:2] == ["kandinsky", "generate"]
    used = re.findall(rf"{found.out}/([\w.-]+)", " ".join(generate))
    expected = LEFT.get(stage.method) or f"{stage.objective.token}.safetensors"
    assert used == [expected]
    model = generate[generate.index("--model") + 1]
    assert model in (found.model.name, str(found.out / "checkpoint"))
    for name in re.findall(r"--(prompt|class-prompt|token|init-from)\b", " ".join(train)):
        said = train[train.index(f"--{name}") + 1]
        assert getattr(stage.objective, name.replace("-", "_")) == said
    assert "# Expected: " in path.read_text()
    # Guidance needs networks that get an empty condition now and then; a word is learned from captions.
    for target in getattr(stage.objective, "targets", ()):
        assert "condition_dropout" in getattr(stage.objective, target).model_fields_set
    for way in ("inpainting", "control"):
        assert path.stem.endswith(f"-{way}") == (getattr(stage.objective, way, None) is not None)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_flags_are_those_of_the_command(path: Path) -> None:
    import typer

    from kandinsky.cli.main import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in path.read_text().splitlines():
        if line.startswith("#   kandinsky "):
            _, name, *given = shlex.split(line[4:])
            known = {option for parameter in commands[name].params for option in parameter.opts}
            assert {word for word in given if word.startswith("-")} <= known


def test_each_is_taken_by_its_name() -> None:
    known = recipes()
    assert [known[path.stem].read_text() for path in CONFIGS] == [path.read_text() for path in CONFIGS]
    built_in = ROOT / "src/kandinsky/training/recipes"
    assert len(known) == len(CONFIGS) + len(list(built_in.glob("*.toml"))), "two files of one name"


def test_the_list_says_what_each_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    from kandinsky.cli.train import list_recipes

    list_recipes()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(recipes())
    assert any(line.startswith("2.2-lora ") and "Kandinsky 2.2: an adapter" in line for line in lines)
    assert all(len(line.split()) > 3 for line in lines)
