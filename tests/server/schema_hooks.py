"""What schemathesis cannot make up: images. Loaded by SCHEMATHESIS_HOOKS, in a process of its own."""

import base64
import importlib
import io
from typing import Any

from hypothesis import strategies as st
from PIL import Image

schemathesis = importlib.import_module("schemathesis")


def image(kind: str, size: tuple[int, int], mode: str = "RGB") -> bytes:
    made = io.BytesIO()
    Image.new(mode, size).save(made, kind)
    return made.getvalue()


IMAGES = {kind: image(kind, (16, 16)) for kind in ("PNG", "JPEG", "WEBP")}
ENCODED = [base64.b64encode(one).decode() for one in IMAGES.values()]
for name, data in IMAGES.items():
    schemathesis.openapi.media_type(f"image/{name.lower()}", st.just(data))
schemathesis.openapi.format("model-here", st.just("emoji"))
schemathesis.openapi.format("image-base64", st.sampled_from(ENCODED))
schemathesis.openapi.format("image-url", st.sampled_from([f"data:image/png;base64,{one}" for one in ENCODED]))


@schemathesis.hook
def filter_case(context: object, case: Any) -> bool:
    """Of a form, an empty list is no part at all: what is wrong with such a case does not reach the server."""
    parts = case.body if case.media_type == "multipart/form-data" else None
    return not (isinstance(parts, dict) and any(value in ([], {}) for value in parts.values()))
