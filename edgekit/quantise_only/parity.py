"""How a bundle of a ready model is told from one that a recipe built."""

from edgekit_runtime.bundle import Bundle

__all__ = ["came_ready"]


def came_ready(bundle: Bundle) -> bool:
    """Say whether a bundle was made from a ready model, without training."""
    provenance = bundle.json("provenance.json") if "provenance.json" in bundle.names else None
    return isinstance(provenance, dict) and "model_sha256" in provenance
