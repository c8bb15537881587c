"""The page about what models need says what the networks' configurations say."""

from pathlib import Path

from benchmarks.model_needs import page, parameters

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
RESULTS = Path(__file__).parents[2] / "benchmarks" / "RESULTS.md"


def test_the_page_has_the_counted_tables() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page() in text, "write `python -m benchmarks.model_needs` into docs/models.md"


def test_published_counts() -> None:
    # The text encoder of the published prior has its own vocabulary here.
    assert parameters("2.2")["prior_text_encoder"] == 694_659_840
    assert parameters("2.2")["unet"] == 1_253_057_288


def test_the_seconds_are_those_of_the_results() -> None:
    results = RESULTS.read_text(encoding="utf-8")
    for found in (
        "| step-2.2 | default | 4.62 s",
        "| prior-2.2 | default | 4.53 s",
        "| movq-512 | default | 6.69 s",
        "| text2img-2.2 | default | 143 s",
        "| step-2.1 | default | 4.33 s",
        "| cold-start | default | 2.68 s",
    ):
        assert found in results, found
