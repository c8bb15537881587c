"""The recipe of the embedded checkpoint: emoji in sixteen languages, on named colours, in five styles."""

from kandinsky.recipes.emoji.recipe import RECIPE

__all__ = ["RECIPE"]
