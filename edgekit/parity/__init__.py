"""How far two lanes agree on the same rows, in typed values with units and intervals, and whether that is enough."""
