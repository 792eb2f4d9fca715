"""A bundle that answers: raw input to labelled result, with nothing but numpy and one engine."""

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self, cast

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.bundle import Bundle
from edgekit_runtime.engines.registry import EngineRow, choose_engine, get_engine, open_engine
from edgekit_runtime.errors import BundleError, MissingError, UsageError
from edgekit_runtime.preprocess.image import ImagePreprocess
from edgekit_runtime.preprocess.text import TextPreprocess
from edgekit_runtime.signature import check
from edgekit_runtime.tasks.classification import Prediction, classify
from edgekit_runtime.tasks.contract import CLASSIFIERS, check_contract
from edgekit_runtime.tasks.embedding import vector_of

if TYPE_CHECKING:
    from edgekit_runtime.selftest import SelfTest

__all__ = ["Benchmark", "Model", "load", "open_preprocess"]

# str for text; an array or the path of a file for images.
Input = str | os.PathLike[str] | NDArray[Any]
Tensors = dict[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Time of the engine alone, per inference.

    Attributes:
        cpu_ms_min: Least CPU time, in ms.
        cpu_ms_median: Median CPU time, in ms.
        wall_ms_median: Median time on the clock, in ms.
        runs: Inferences measured.
        engine: Its name.
        threads: Of the engine.
    """

    cpu_ms_min: float
    cpu_ms_median: float
    wall_ms_median: float
    runs: int
    engine: str
    threads: int


class Model:
    """A verified bundle with an open engine. Safe to share between threads; made by ``load``.

    Attributes:
        bundle: Where it came from.
        labels: Name of each class; empty unless the bundle classifies.
        engine_name: Engine that runs it.
        threads: Of the engine.
    """

    def __init__(self, bundle: Bundle, *, engine: str | None = None, threads: int = 1, prove: bool = True) -> None:
        """Open ``bundle``; see ``load`` for the arguments and errors.

        Args:
            bundle: Verified.
            engine: See ``load``.
            threads: Of the engine.
            prove: Refuse an engine that fails the goldens although it is known for wrong answers (E0519); off where
                its answers are to be judged.
        """
        manifest = bundle.manifest
        row = get_engine(engine) if engine is not None else choose_engine(manifest.models)
        entry = manifest.models.get(row.runtime)
        if entry is None:
            raise MissingError(
                "E0654",
                f"the bundle has no model for {row.name}; it has one for {', '.join(manifest.models)}",
                fix="take another engine, or build the bundle with both formats",
            )
        self.bundle: Final = bundle
        self.engine_name: Final = row.name
        self.threads: Final = threads
        self.labels: Final = _labels(bundle) if manifest.task in CLASSIFIERS else ()
        self._preprocess: Final = None if manifest.task == "tensors" else open_preprocess(bundle)
        check_contract(manifest, entry, self._preprocess, len(self.labels))
        self._engine: Final = open_engine(row.name, bundle.read(entry.member), entry.inputs, entry.outputs, threads)
        if prove and row.proves_itself:
            self._prove(row)

    def _prove(self, row: EngineRow) -> None:
        test = self.selftest()
        if not test.passed:
            failed = "; ".join(f"{check.name}: {check.detail}" for check in test.checks if not check.passed)
            self.close()
            raise BundleError(
                "E0519",
                f"{row.name} {row.version} does not answer as the machine that built the bundle",
                why=failed,
                fix="install ai-edge-litert or onnxruntime; for tflite-runtime build with quantize.embedding: float "
                "and quantize.ffn_output: float",
            )

    def __call__(self, x: Input) -> Prediction:
        """Answer one input: a text, an image array, or the path of an image file.

        Raises:
            UsageError: The input does not fit the model (E09xx), or the bundle does not classify (E0150).
            MissingError: A path that is not there, or Pillow is needed and not installed.
            BundleError: The model failed or answered NaN.
        """
        if not self.labels:
            raise self._other_task("gives no label")
        return classify(self._engine.run(self.preprocess(x))["logits"], self.labels)

    def embed(self, text: str) -> NDArray[np.float32]:
        """Give the vector of a text, float32 (D,), from a bundle of the task ``text-embedding``.

        Raises:
            UsageError: ``text`` is no text (E0909), or the bundle has another task (E0150).
            BundleError: The model failed or answered NaN.
        """
        if self.bundle.manifest.task != "text-embedding":
            raise self._other_task("gives no vector")
        return vector_of(self._engine.run(self.preprocess(text))["vector"])

    def _other_task(self, what: str) -> UsageError:
        task = self.bundle.manifest.task
        call = {"text-embedding": "model.embed(text)", "tensors": "model.run(name=array, ...)"}.get(task, "model(x)")
        return UsageError("E0150", f"a bundle of the task {task} {what}", fix=f"call {call}")

    def predict_batch(self, xs: Iterable[Input]) -> list[Prediction]:
        """Answer several inputs, one after the other: the models take one row at a time."""
        if isinstance(xs, str):
            raise UsageError("E0909", "predict_batch takes a list of inputs, not one text")
        return [self(x) for x in xs]

    def preprocess(self, x: Input) -> Tensors:
        """Give the tensors that ``run`` takes.

        Raises:
            UsageError: The input does not fit, or the bundle takes tensors as they are (E0150).
        """
        if self._preprocess is None:
            raise self._other_task("has no preprocessing")
        # The cast is for the checker alone: each preprocessing refuses what it cannot take.
        return cast("Callable[[Input], Tensors]", self._preprocess)(x)

    def run(self, **tensors: NDArray[np.generic]) -> Tensors:
        """Run the bare model on tensors of exactly its dtypes and shapes."""
        return self._engine.run(tensors)

    def benchmark(self, runs: int = 50, warmup: int = 5) -> Benchmark:
        """Time the engine on a golden input.

        With one thread the clock is the calling thread's CPU time, which other processes cannot disturb; with more it
        is the CPU time of the whole process.
        """
        if runs < 1 or warmup < 0:
            raise UsageError("E0908", f"runs must be at least 1 and warmup at least 0, not {runs} and {warmup}")
        entry = self.bundle.manifest.models[get_engine(self.engine_name).runtime]
        feeds = {spec.name: self.bundle.npy(f"golden/{spec.name}.npy")[:1] for spec in entry.inputs}
        clock = time.thread_time if self.threads == 1 else time.process_time
        for _ in range(warmup):
            self._engine.run(feeds)
        cpu, wall = [], []
        for _ in range(runs):
            wall_start, start = time.perf_counter(), clock()
            self._engine.run(feeds)
            cpu.append(1e3 * (clock() - start))
            wall.append(1e3 * (time.perf_counter() - wall_start))
        return Benchmark(
            cpu_ms_min=min(cpu),
            cpu_ms_median=float(np.median(cpu)),
            wall_ms_median=float(np.median(wall)),
            runs=runs,
            engine=self.engine_name,
            threads=self.threads,
        )

    def selftest(self) -> "SelfTest":
        """Compare this machine's answers with those recorded when the bundle was built."""
        from edgekit_runtime.selftest import run_selftest

        return run_selftest(self)

    def close(self) -> None:
        """Free the engine; later calls are refused."""
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(
    path: str | os.PathLike[str],
    *,
    engine: str | None = None,
    threads: int = 1,
    key: str | os.PathLike[str] | None = None,
    min_release_counter: int = 0,
) -> Model:
    """Verify a bundle and open it.

    Args:
        path: The ``.edge`` file.
        engine: ``onnxruntime``, ``litert``, ``tflite-runtime`` or ``tensorflow``; None takes the first that is
            installed and for which the bundle has a model.
        threads: Of the engine.
        key: File of the public key that must have signed the bundle; None takes any bundle that is intact.
        min_release_counter: With ``key``: refuse releases with a lower counter.

    Raises:
        MissingError: No such file, or the engine or the package that checks signatures is not installed.
        BundleError: The file is not an intact bundle, is not signed by ``key``, or its parts do not fit together.
        UsageError: An unknown engine, a wrong number of threads, or a file that holds no public key.
    """
    checked = check(path, None if key is None else [key], min_release_counter=min_release_counter)
    return Model(checked.bundle, engine=engine, threads=threads)


def open_preprocess(bundle: Bundle) -> TextPreprocess | ImagePreprocess:
    """Build the preprocessing that ``preprocess.json`` describes.

    Raises:
        BundleError: It is damaged, or of a kind that this version does not know.
    """
    config = bundle.json("preprocess.json")
    kind = config.get("kind") if isinstance(config, dict) else None
    if kind == "image":
        return ImagePreprocess.from_json(cast("Mapping[str, object]", config))
    length = config.get("max_length") if isinstance(config, dict) else None
    if kind != "text" or not isinstance(length, int):
        raise BundleError("E0514", f"preprocess.json is not understood: kind {kind!r}, max_length {length!r}")
    return TextPreprocess(bundle.read("tokenizer.json"), max_length=length)


def _labels(bundle: Bundle) -> tuple[str, ...]:
    labels = bundle.json("labels.json")
    if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(label, str) for label in labels):
        raise BundleError("E0516", "labels.json must be a list of two or more texts")
    return tuple(labels)
