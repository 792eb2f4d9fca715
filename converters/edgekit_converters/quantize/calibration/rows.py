"""Calibration rows: feeds by input name become checked graph inputs, in memory or made anew on every pass."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from edgekit_converters.quantize.calibration.fingerprint import CalibrationFingerprint
from edgekit_runtime.errors import ConversionError

__all__ = ["Feeds", "RemadeRows", "Row", "as_rows", "rows_digest", "without"]

Row = Sequence[Tensor]
Feeds = Mapping[str, NDArray[np.generic]]


_KEPT_BYTES = 32 << 20  # of rows that are kept, so that small sets are tokenised or resized only once


class RemadeRows(Sequence[Row]):
    """Rows that are made anew on every pass, so that memory does not grow with their number.

    The first use that needs their number or their digest makes them once for both, and keeps them if they are small.
    """

    __slots__ = ("_kept", "_known", "_make", "_names")

    def __init__(self, make: Callable[[], Iterable[Row]], names: Sequence[str]) -> None:
        """Take what makes the rows.

        Args:
            make: Gives the same rows at every call.
            names: Of the graph's inputs, in the order of a row.
        """
        self._make, self._names = make, tuple(names)
        self._known: tuple[int, str] | None = None
        self._kept: list[Row] | None = None

    def __iter__(self) -> Iterator[Row]:
        """Make the rows.

        Raises:
            ConversionError: This pass gives another number of rows than the first (E0737).
        """
        number = 0
        for row in self._make() if self._kept is None else self._kept:
            number += 1
            yield row
        if self._known is not None and number != self._known[0]:
            raise ConversionError(
                "E0737",
                f"calibration gave {self._known[0]} rows on the first pass and {number} on this one",
                why="rows that are made anew must be the same on every pass",
                fix="give a function that starts again at each call, not one that hands out a used iterator",
            )

    def __len__(self) -> int:
        return self._count()[0]

    @property
    def digest(self) -> str:
        """Fingerprint of the rows, 64 hexadecimal digits."""
        return self._count()[1]

    def without(self, places: Collection[int]) -> "RemadeRows":
        """Give all rows but those at some places, made anew as well."""
        return RemadeRows(lambda: (row for number, row in enumerate(self) if number not in places), self._names)

    def _count(self) -> tuple[int, str]:
        if self._known is None:
            seen, kept, room = CalibrationFingerprint(), list[Row](), _KEPT_BYTES
            for row in self._make():
                seen.update(_named(self._names, row))
                room -= sum(value.nbytes for value in row)
                if room >= 0:
                    kept.append(row)
                else:
                    kept.clear()
            self._known = seen.rows, seen.hexdigest()
            self._kept = kept if room >= 0 else None
        return self._known

    @overload
    def __getitem__(self, place: int) -> Row: ...

    @overload
    def __getitem__(self, place: slice) -> Sequence[Row]: ...

    def __getitem__(self, place: int | slice) -> Row | Sequence[Row]:
        chosen = range(len(self))[place]
        if isinstance(chosen, int):
            return next(islice(self, chosen, None))
        wanted = set(chosen)
        found = {number: row for number, row in enumerate(self) if number in wanted}
        return [found[number] for number in chosen]


def as_rows(
    graph: fx.GraphModule, feeds: Iterable[Feeds] | Callable[[], Iterable[Feeds]], *, trim: bool
) -> Sequence[Row]:
    """Turn feeds by input name into graph inputs; with ``trim`` padding is cut off by ``attention_mask``.

    Args:
        graph: Whose inputs they are.
        feeds: Taken into memory at once; a function is called on every pass instead, and one row is held at a time.
        trim: Cut behind the last token; a row of nothing but padding keeps 2 tokens.

    Raises:
        ConversionError: A row lacks an input (E0733), or has one of another type (E0734) or shape (E0735); it is
            counted from 0. With a function this comes on the first pass.
    """
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]

    def rows(given: Iterable[Feeds]) -> Iterator[Row]:
        for number, feed in enumerate(given):
            yield _row(inputs, feed, number, trim=trim)

    if callable(feeds):
        make = feeds
        return RemadeRows(lambda: rows(make()), [node.name for node in inputs])
    return list(rows(feeds))


def without(rows: Sequence[Row], places: Collection[int]) -> Sequence[Row]:
    """Give all rows but those at some places; rows that are made anew are not held for it."""
    if isinstance(rows, RemadeRows):
        return rows.without(places)
    return [row for number, row in enumerate(rows) if number not in places]


def rows_digest(graph: fx.GraphModule, rows: Sequence[Row]) -> str:
    """Give the fingerprint of calibration rows, 64 hexadecimal digits."""
    if isinstance(rows, RemadeRows):
        return rows.digest
    names = [node.name for node in graph.graph.nodes if node.op == "placeholder"]
    seen = CalibrationFingerprint()
    for row in rows:
        seen.update(_named(names, row))
    return seen.hexdigest()


def _named(names: Sequence[str], row: Row) -> dict[str, NDArray[np.generic]]:
    return {name: value.numpy() for name, value in zip(names, row, strict=True)}


def _row(inputs: Sequence[fx.Node], feed: Feeds, number: int, *, trim: bool) -> Row:
    # The target is the name in the signature; fx renames a node whose name Python has taken, such as `input`.
    names = [str(node.target) for node in inputs]
    lacking = [name for name in names if name not in feed]
    if lacking:
        raise ConversionError(
            "E0733",
            f"calibration row {number} has no input {lacking[0]}",
            why=f"it has {', '.join(feed) or 'nothing'}; the model takes {', '.join(names)}",
            fix="name the feeds as the model's inputs are named",
        )
    values = [np.asarray(feed[name]) for name in names]
    for node, value in zip(inputs, values, strict=True):
        _check_type(node, value, number)
    if trim and "attention_mask" in feed:
        length = int(np.flatnonzero(np.asarray(feed["attention_mask"])[0]).max(initial=1)) + 1
        values = [value[:, :length] for value in values]
    for node, value in zip(inputs, values, strict=True):
        _check_shape(node, value, number)
    return tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in values)


def _check_type(node: fx.Node, value: NDArray[np.generic], number: int) -> None:
    wanted = node.meta.get("val")
    if wanted is None:  # a graph that was not traced says nothing about its inputs
        return
    kind = str(wanted.dtype).removeprefix("torch.")
    if value.dtype.name != kind:
        raise ConversionError(
            "E0734",
            f"input {node.name} of calibration row {number} is {value.dtype.name}; the model takes {kind}",
            fix=f"convert the feed, e.g. with .astype(numpy.{kind}); pixels need the model's preprocessing too",
        )
    if value.ndim != wanted.dim():
        raise _wrong_shape(node, value, number)


def _check_shape(node: fx.Node, value: NDArray[np.generic], number: int) -> None:
    wanted = node.meta.get("val")
    if wanted is None:
        return
    for came, size in zip(value.shape, wanted.shape, strict=True):
        if (isinstance(size, int) and came != size) or came == 0:
            raise _wrong_shape(node, value, number)


def _wrong_shape(node: fx.Node, value: NDArray[np.generic], number: int) -> ConversionError:
    sizes = ", ".join(str(size) if isinstance(size, int) else "any" for size in node.meta["val"].shape)
    return ConversionError(
        "E0735",
        f"input {node.name} of calibration row {number} has shape {value.shape}; the model takes ({sizes})",
        fix="give one sample a row, in the layout that the model was traced with",
    )
