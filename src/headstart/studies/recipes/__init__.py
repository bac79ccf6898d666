"""The field's standard lessons, a file each, and what reads such a file; one of a user's own is read alike.

Nothing here runs; `headstart.studies.lessons` does. Importing this package loads no torch.
"""

from headstart.studies.recipes.reading import RECIPES, find_recipe, recipe_file
from headstart.studies.recipes.schema import HALF, Part, Published, Recipe, Settings

__all__ = ["HALF", "RECIPES", "Part", "Published", "Recipe", "Settings", "find_recipe", "recipe_file"]
