"""The recipe: what a build is told. ``edgekit.recipe.load`` reads one; ``spec`` holds the dataclasses."""
