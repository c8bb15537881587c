"""A notebook shows a result, its progress and its warnings, run in a real kernel."""

import os
from pathlib import Path

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

CELLS = [
    "import kandinsky\npipe = kandinsky.load(batch_size=2)",
    "result = pipe.generate(['a fox', 'an apple'], steps=2, seed=1, progress=True)\nresult",
    "len(result), result[0].size",
    "result.show()",
    "pipe.generate('a red fox ' * 40, steps=1, seed=1)",
]


@pytest.mark.slow
def test_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    nbclient.NotebookClient(made, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))
    _, drawn, size, shown, warned = (cell["outputs"] for cell in made.cells)
    result = next(one for one in drawn if one["output_type"] == "execute_result")
    assert result["data"]["text/html"].count("data:image/png;base64") == 2
    assert "a fox, seed 1" in result["data"]["text/html"]
    assert "image/png" in result["data"]
    assert any(one["output_type"] == "display_data" for one in drawn), "the bar"
    assert size[0]["data"]["text/plain"] == "(2, (64, 64))"
    assert shown[0]["data"]["text/html"].count("data:image/png;base64") == 2
    assert any("KandinskyWarning" in one.get("text", "") for one in warned)


@pytest.mark.slow
def test_the_notebook_of_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    made = nbformat.read(root / "examples" / "first-images.ipynb", as_version=4)
    code = [cell for cell in made.cells if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in code), "outputs are not kept in the repository"
    nbclient.NotebookClient(made, timeout=300, kernel_name="python3").execute(cwd=str(tmp_path))
    shown = [one for cell in code for one in cell["outputs"] if "image/png" in one.get("data", {})]
    assert len(shown) == 5
