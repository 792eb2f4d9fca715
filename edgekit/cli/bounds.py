"""Bounds that the user gives on the command line."""

from edgekit.recipe.units import Points
from edgekit_runtime.errors import UsageError

__all__ = ["points_option"]


def points_option(option: str, text: str | None, default: Points) -> Points:
    """Read the value of ``option``, or give ``default`` if it was left out.

    Raises:
        UsageError: The text is not a number with a unit.
    """
    if text is None:
        return default
    try:
        return Points.parse(text)
    except ValueError as error:
        raise UsageError("E0123", f"{option}: {error}") from None
