"""``edgekit run``: a bundle answers on this machine."""

import json
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

import edgekit_runtime
from edgekit.cli.output import bundle_argument, json_option, print_json
from edgekit_runtime.engines.registry import ENGINES
from edgekit_runtime.errors import MissingError, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgekit_runtime.model import Model
    from edgekit_runtime.tasks.classification import Prediction

__all__ = ["command"]


@click.command("run")
@bundle_argument
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--engine", type=click.Choice(list(ENGINES)), help="What runs it; the first installed one if not given.")
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Threads of the engine.")
@json_option
def command(bundle: str, inputs: tuple[str, ...], engine: str | None, threads: int, as_json: bool) -> None:
    """Run BUNDLE on each INPUT.

    An INPUT is a text, or the path of an image or of an .npy array (one image, or several along the first axis), or of
    an .npz file with the tensors of one row, by what the bundle takes. The INPUT - stands for the lines of standard
    input.
    """
    with edgekit_runtime.load(bundle, engine=engine, threads=threads) as model:
        facts = {"bundle": bundle, "engine": model.engine_name}
        if not model.labels:
            _run_bare(model, inputs, facts=facts, as_json=as_json)
            return
        answers = _answers(model, inputs)
        if as_json:
            results = [
                {"input": name, "label": answer.label, "score": answer.score, "scores": list(answer.scores)}
                for name, answer in answers
            ]
            print_json("run", {**facts, "labels": list(model.labels), "results": results})
            return
        for name, answer in answers:
            print(f"{answer.label}\t{answer.score:.3f}\t{name}", flush=True)


def _run_bare(model: "Model", inputs: Sequence[str], *, facts: dict[str, str], as_json: bool) -> None:
    """Print vectors of texts, or the output tensors of input tensors."""
    results: list[dict[str, object]] = []
    for given in _expanded(inputs):
        if model.bundle.manifest.task == "text-embedding":
            answer: dict[str, object] = {"vector": [float(value) for value in model.embed(given)]}
        else:
            answer = {name: array.tolist() for name, array in model.run(**_tensors(Path(given))).items()}
        if as_json:
            results.append({"input": given, **answer})
            continue
        for name, values in answer.items():
            print(f"{name}\t{json.dumps(values)}\t{given}", flush=True)
    if as_json:
        print_json("run", {**facts, "results": results})


def _tensors(path: Path) -> "dict[str, NDArray[np.generic]]":
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as held:
            return {name: held[name] for name in held.files}
    except FileNotFoundError:
        raise MissingError("E0614", f"there is no file '{path}'", fix="check the path") from None
    except (ValueError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise UsageError("E0152", f"'{path}' is not a plain .npz file", why=str(error)) from None


def _answers(model: "Model", inputs: Sequence[str]) -> "Iterator[tuple[str, Prediction]]":
    is_text = model.bundle.manifest.task == "text-classification"
    for given in _expanded(inputs):
        if is_text:
            yield given, model(given)
        elif Path(given).suffix == ".npy":
            for name, image in _images(Path(given), ranks=_image_ranks(model)):
                yield name, model(image)
        else:
            yield given, model(Path(given))


def _expanded(inputs: Sequence[str]) -> Iterator[str]:
    """Yield the inputs, and the lines of stdin (as they come) where one is ``-``."""
    for given in inputs:
        if given != "-":
            yield given
            continue
        for line in sys.stdin:
            yield line.rstrip("\r\n")  # an empty line too: answer n belongs to line n


def _image_ranks(model: "Model") -> tuple[int, ...]:
    """Dimensions that one image may have: a grey one may lack its channel axis."""
    (image,) = next(iter(model.bundle.manifest.models.values())).inputs
    return (2, 3) if image.shape[-1] == 1 else (3,)


def _images(path: Path, *, ranks: tuple[int, ...]) -> "Iterator[tuple[str, NDArray[np.generic]]]":
    import numpy as np

    try:
        array: NDArray[np.generic] = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise MissingError("E0614", f"there is no file '{path}'", fix="check the path") from None
    except (ValueError, OSError, EOFError) as error:
        raise UsageError("E0140", f"'{path}' is not a plain .npy array", why=str(error)) from None
    # (H, W) and (H, W, 1) are one grey image; (N, H, W) of grey ones and (H, W, 3) are told apart by the last axis.
    is_one = array.ndim in ranks and (array.ndim == 2 or array.shape[-1] in {1, 3})
    if is_one:
        yield str(path), array
    elif array.ndim - 1 in ranks:
        for index, image in enumerate(array):
            yield f"{path}[{index}]", image
    else:
        raise UsageError("E0141", f"'{path}' has shape {array.shape}, which is neither an image nor a row of images")
