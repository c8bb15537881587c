"""Colours in CIELAB, and what people call them: twelve names, each with the shades that it covers."""

import torch
from torch import Tensor

_SHADES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "white": ((255, 255, 255), (236, 240, 244)),
    "black": ((0, 0, 0), (34, 34, 38), (52, 50, 58)),
    "grey": ((150, 150, 150), (108, 112, 118), (190, 194, 200), (128, 144, 156), (170, 186, 196)),
    "red": ((222, 48, 44), (176, 22, 36), (248, 70, 76), (140, 20, 30)),
    "orange": ((246, 145, 36), (240, 114, 28), (255, 172, 80)),
    "yellow": ((252, 216, 62), (255, 234, 130), (240, 192, 24)),
    "green": ((66, 168, 78), (28, 104, 58), (130, 204, 80), (0, 146, 112), (92, 130, 40)),
    "light blue": ((150, 210, 246), (92, 196, 244), (190, 226, 246)),
    "blue": ((44, 96, 220), (28, 52, 132), (60, 132, 244), (0, 116, 196)),
    "purple": ((134, 72, 190), (88, 40, 128), (172, 116, 236)),
    "pink": ((250, 164, 196), (240, 92, 160), (255, 128, 176)),
    "brown": ((130, 84, 52), (92, 56, 36), (166, 108, 66), (110, 70, 60)),
    "": ((236, 204, 170), (250, 240, 214), (200, 168, 128), (160, 150, 100)),
}
"""Shades of each name, RGB 0 to 255; those of the empty name (skin, cream, straw) have no usual one."""

NAMES: tuple[str, ...] = tuple(name for name in _SHADES if name)
"""In the order of the ids of backgrounds and things."""

GREY_CHROMA = 10.0
"""Below this chroma a colour has no hue worth turning."""

_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
_WHITE = (0.95047, 1.0, 1.08883)
_KNEE = 6 / 29


def lab_of(rgb: Tensor) -> Tensor:
    """sRGB (..., 3) in [0, 1] to CIELAB of a D65 white (..., 3): L in [0, 100] (IEC 61966-2-1, CIE 15)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    xyz = linear @ rgb.new_tensor(_TO_XYZ).T / rgb.new_tensor(_WHITE)
    f = torch.where(xyz > _KNEE**3, xyz.clamp(min=1e-9) ** (1 / 3), xyz / (3 * _KNEE**2) + 4 / 29)
    x, y, z = f.unbind(-1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=-1)


def rgb_of(lab: Tensor) -> Tensor:
    """The inverse of `lab_of`, (..., 3), clamped to [0, 1]."""
    y = (lab[..., 0] + 16) / 116
    f = torch.stack((y + lab[..., 1] / 500, y, y - lab[..., 2] / 200), dim=-1)
    xyz = torch.where(f > _KNEE, f**3, 3 * _KNEE**2 * (f - 4 / 29)) * lab.new_tensor(_WHITE)
    linear = (xyz @ torch.linalg.inv(lab.new_tensor(_TO_XYZ)).T).clamp(0, 1)
    return torch.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055).clamp(0, 1)


def _prototypes() -> tuple[Tensor, Tensor]:
    rows = [(shade, id if name else -1) for id, (name, found) in enumerate(_SHADES.items()) for shade in found]
    shades = torch.tensor([shade for shade, _ in rows], dtype=torch.float32) / 255
    return lab_of(shades), torch.tensor([id for _, id in rows])


PROTOTYPES, PROTOTYPE_IDS = _prototypes()


def named(lab: Tensor) -> Tensor:
    """Ids into `NAMES` of Lab colours (..., 3): (...) int64, -1 for those without a usual name."""
    weights = lab.new_tensor((0.7, 1.0, 1.0))
    distances = ((lab[..., None, :] - PROTOTYPES.to(lab)) * weights).square().sum(-1)
    return PROTOTYPE_IDS.to(lab.device)[distances.argmin(-1)]


def target_lab(colour: int) -> Tensor:
    """The Lab colour (3,) that a name stands for first."""
    return PROTOTYPES[PROTOTYPE_IDS.tolist().index(colour)]
