"""What part of a request is taken, by hand."""

import pytest

from benchmarks.against_diffusers.spans import Moment, Span, measured

MOMENTS = [
    Moment("begin", 10.0, 0),
    Moment("prior", 11.0, 100),
    Moment("prior", 12.0, 200),
    Moment("decoder", 15.0, 500),
    Moment("decoder", 16.0, 900),
    Moment("decoder", 18.0, 1300),
    Moment("end", 21.0, 1400),
]


@pytest.mark.parametrize(
    ("span", "seconds", "operations"),
    [("whole", 11.0, 1400), ("prior", 2.0, 200), ("step", 1.5, 400), ("decode", 3.0, 100)],
)
def test_spans(span: Span, seconds: float, operations: float) -> None:
    assert measured(span, MOMENTS) == (seconds, operations)


@pytest.mark.parametrize("span", ["prior", "step", "decode"])
def test_a_span_that_was_not_there(span: Span) -> None:
    with pytest.raises(ValueError, match=span):
        measured(span, [MOMENTS[0], MOMENTS[-1]])
    with pytest.raises(ValueError, match="step"):
        measured("step", [MOMENTS[0], MOMENTS[3], MOMENTS[-1]])
