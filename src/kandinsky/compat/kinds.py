"""Which kind of U-Net a task of existing code needs, told apart before any work is done."""

from kandinsky.core.errors import RequestError
from kandinsky.generations.model import Model


def check_kind(who: str, model: Model, inpainting: bool) -> None:
    """Raises RequestError when a U-Net is of the wrong kind for what `who` is asked.

    `inpainting` says whether that is inpainting. The native API inpaints with an ordinary U-Net too, by
    pinning what is known; in the code that these names come from such a call is a mistake, and is told.
    """
    channels = model.network.config.in_channels
    if inpainting and not model.extra_channels:
        raise RequestError(
            f"{who} inpaints, and a U-Net of {channels} channels is of the wrong kind of checkpoint for it.",
            f"Load the inpainting checkpoint, whose U-Net takes {2 * model.codec.channels + 1}; "
            "or inpaint with this one by kandinsky.load and generate, which keep the rest of the image.",
        )
    if model.extra_channels and not inpainting:
        raise RequestError(
            f"{who} takes no mask, and a U-Net of {channels} channels is of an inpainting checkpoint.",
            f"Load the text-to-image checkpoint, whose U-Net takes {model.codec.channels}; "
            "or use the inpainting pipeline.",
        )
