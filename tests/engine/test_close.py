"""A pipeline that is closed has freed its memory and says so."""

import pytest

from kandinsky.core.errors import CheckpointError, RequestError
from tests.tiny import Checkpoints


def test_the_end_of_with_frees_all_weights(tiny: Checkpoints) -> None:
    with tiny.own() as pipe:
        assert len(pipe.generate("a fox", steps=1, prior_steps=1, seed=1)) == 1
        assert not any(tensor.is_meta for module in pipe.model.modules.values() for tensor in module.parameters())
    assert all(tensor.is_meta for module in pipe.model.modules.values() for tensor in module.parameters())
    assert repr(pipe).endswith("closed>")
    pipe.close()
    for call in (
        lambda: pipe.generate("a fox"),
        pipe.warm_up,
        lambda: pipe.load_lora("x"),
        lambda: pipe.load_words("x"),
    ):
        with pytest.raises(RequestError, match=r"This pipeline is closed\. Load the model again\."):
            call()


@pytest.mark.parametrize("offload", ["parts", "layers"])
def test_with_weights_that_come_and_go(tiny: Checkpoints, offload: str) -> None:
    with tiny.own(offload=offload) as pipe:
        pipe.generate("a fox", steps=1, prior_steps=1, seed=1)
    with pytest.raises(RequestError, match="closed"):
        pipe.generate("a fox")


def test_an_adapter_that_is_not_there_lists_those_that_are(tiny: Checkpoints) -> None:
    import kandinsky

    pipe = kandinsky.load()
    with pytest.raises(CheckpointError, match=r"no adapter 'few-stp'.*Did you mean 'few-step'.*Its own: few-step"):
        pipe.load_lora("few-stp")
    with pytest.raises(CheckpointError, match="There is no file"):
        tiny.own().load_lora("gone.safetensors")
    with pytest.raises(RequestError, match=r"^unknown sampler 'dpm'|^There is no sampler|unknown sampler"):
        pipe.generate("a", sampler="dpm")
    with pytest.raises(RequestError, match=r"^The prompt 3 is of type int. Give a text"):
        pipe.generate(3)  # type: ignore[arg-type]
