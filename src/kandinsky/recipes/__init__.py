"""Recipes: data sets, and what training needs for them besides images with captions."""
