"""Many experiments: comparisons, recipes, rankings."""
