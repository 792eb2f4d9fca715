"""Weights in 4 or 8 bits without activation ranges: blocks, powers of two, codebooks, and how files decode them."""
