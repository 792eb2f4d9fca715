"""Two small networks with all their files, and the edits that damage an int8 file on purpose."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from edgekit_converters.export.contract import ModelContract, contract_of, exportable
from edgekit_converters.layerwise.compare import Room, compare_layers
from edgekit_converters.layerwise.onnx_network import OnnxNetwork
from edgekit_converters.layerwise.places import Place, read_places
from edgekit_converters.layerwise.tflite_network import TfliteNetwork
from edgekit_converters.layerwise.units import Twin
from edgekit_converters.quantize.graph import trace
from edgekit_converters.quantize.measure import as_rows
from edgekit_converters.quantize.modes import Mode
from edgekit_converters.quantize.plan import QuantPlan
from edgekit_converters.quantize.planner import Planner
from edgekit_converters.quantize.write import write_onnx, write_tflite
from edgekit_models.text_classifier import LayerConfig, TextClassifier, TextConfig
from edgekit_runtime.bundle import write_bundle
from edgekit_runtime.manifest import ModelEntry, TensorSpec

LENGTH = 12


class Depthwise(nn.Module):
    """Images (1, 8, 8, 3): convolution, depthwise convolution, pointwise convolution, each with ReLU; mean; linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 12, 1)
        self.head = nn.Linear(12, 4)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.first(image.permute(0, 3, 1, 2)).relu()
        x = self.point(self.middle(x).relu()).relu()
        return self.head(x.mean((2, 3)))


def depthwise_contract() -> ModelContract:
    image = TensorSpec(name="image", tensor="image", dtype="float32", shape=(1, 8, 8, 3))
    return ModelContract(
        inputs=(image,), outputs=(TensorSpec(name="logits", tensor="logits", dtype="float32", shape=(1, 4)),)
    )


def image_rows(count: int, *, seed: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [{"image": rng.normal(size=(1, 8, 8, 3)).astype(np.float32)} for _ in range(count)]


def text_model() -> TextClassifier:
    torch.manual_seed(0)
    layer = LayerConfig(heads=4, ffn=48)
    model = TextClassifier(
        TextConfig(vocabulary=20, max_length=LENGTH, classes=3, hidden=32, head_size=8, layers=(layer,), head="tanh")
    ).eval()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, mean=1.0 if name.endswith("norm.weight") else 0.0, std=0.3)
    return model


def text_rows(count: int, *, seed: int) -> list[dict[str, np.ndarray]]:
    """Rows of 4 to LENGTH tokens, padded."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        length = int(rng.integers(4, LENGTH + 1))
        ids, mask = np.zeros((1, LENGTH), np.int32), np.zeros((1, LENGTH), np.int32)
        ids[0, :length], mask[0, :length] = rng.integers(1, 20, length), 1
        rows.append({"input_ids": ids, "attention_mask": mask})
    return rows


@dataclass(frozen=True)
class Files:
    """One network: the plan, a folder per format, rows that nothing was calibrated on."""

    plan: QuantPlan
    folders: dict[str, Path]
    contract: ModelContract
    rows: list[dict[str, np.ndarray]]

    def model(self, form: str) -> bytes:
        return (self.folders[form] / f"model.{form}").read_bytes()

    def places(self, form: str) -> tuple[Place, ...]:
        return read_places(self.folders[form])

    def twin(self, form: str, model: bytes | None = None) -> Twin:
        kind = OnnxNetwork if form == "onnx" else TfliteNetwork
        reference = kind(self.folders[form] / f"reference.{form}")
        return Twin.of(reference, kind(model or self.model(form)), self.places(form), self.plan)

    def named(self, twin: Twin) -> list[dict[str, np.ndarray]]:
        return [
            {tensor: next(row[name] for name in row if name in tensor) for tensor in twin.reference.inputs}
            for row in self.rows
        ]

    def compare(self, form: str, folder: Path, model: bytes | None = None):
        twin = self.twin(form, model)
        room = Room(ram_bytes=10**9, disk_bytes=10**9, folder=folder)
        mask = next((tensor for tensor in twin.reference.inputs if "mask" in tensor), None)
        return compare_layers(twin, self.named(twin), room, mask=mask)

    def first(self, form: str, folder: Path, model: bytes | None = None):
        """The first row out of line, as (module, reason)."""
        return next(((r.module, r.reason) for r in self.compare(form, folder, model) if r.reason), None)


def write_files(module: nn.Module, contract: ModelContract, rows, folder: Path, *, mode, whole: bool, **how) -> Files:
    """Calibrate on all rows but the last 8; ``longest`` and ``forms`` as ``texts`` and one test give them."""
    calibration, others, longest = rows[:-8], rows[-8:], how.get("longest", 0)
    graph = trace(module, contract.example(), longest=longest)
    made = Planner(mode=mode, whole_network=whole).make(graph, as_rows(graph, calibration, trim=longest > 0))
    folders = {form: folder / form for form in how.get("forms", ("onnx", "tflite"))}
    for form, path in folders.items():
        path.mkdir()
        if form == "onnx":
            write_onnx(made, contract, path / "model.onnx", activations="uint8", opset=20)
        else:
            write_tflite(made, contract, path / "model.tflite", calibration)
    return Files(made.plan, folders, contract, others)


def images(folder: Path) -> Files:
    torch.manual_seed(1)
    module = Depthwise().eval()
    rows = image_rows(72, seed=0)
    return write_files(module, depthwise_contract(), rows, folder, mode=lambda _: Mode.STATIC, whole=True)


def texts(folder: Path) -> Files:
    def mode(name: str) -> Mode:
        return Mode.FLOAT if name == "classifier" else Mode.DYNAMIC if "ffn_out" in name else Mode.STATIC

    model = text_model()
    rows = text_rows(72, seed=0)
    contract = contract_of(model.config)
    return write_files(exportable(model), contract, rows, folder, mode=mode, whole=False, longest=LENGTH)


def bundle(files: Files, path: Path, *, onnx_model: bytes | None = None, tflite_model: bytes | None = None) -> Path:
    """A bundle of bare tensors with its lanes beside it."""
    models, members = {}, {"plan.json": files.plan.to_json().encode()}
    given = {"onnx": onnx_model, "tflite": tflite_model}
    for form, engine in (("onnx", "onnxruntime"), ("tflite", "litert")):
        content = given[form] or files.model(form)
        twin = files.twin(form)
        found = {spec.name: next(t for t in twin.lane.inputs if spec.name in t) for spec in files.contract.inputs}
        inputs = tuple(
            TensorSpec(name=s.name, tensor=found[s.name].split(":", 1)[-1], dtype=s.dtype, shape=s.shape)
            for s in files.contract.inputs
        )
        out = twin.lane.outputs[0]
        logits = files.contract.outputs[0]
        outputs = (TensorSpec(name=logits.name, tensor=out.split(":", 1)[-1], dtype=logits.dtype, shape=logits.shape),)
        members[f"model.{form}"] = content
        models[engine] = ModelEntry(member=f"model.{form}", precision="int8", inputs=inputs, outputs=outputs)
        lane = path.with_suffix(".lanes") / f"{form}-int8"
        lane.mkdir(parents=True, exist_ok=True)
        for source in files.folders[form].glob("*"):
            if source.stem in ("reference", "layers"):
                (lane / source.name).write_bytes(source.read_bytes())
    for name in files.rows[0]:
        members[f"golden/{name}.npy"] = _npy(np.concatenate([row[name] for row in files.rows]))
    members["golden/reference.npy"] = _npy(np.zeros((len(files.rows), 4), np.float32))
    write_bundle(path, name="net", version="1.0.0", task="tensors", target="x86-64", models=models, members=members)
    return path


def _npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def edited_onnx(content: bytes, name: str, change) -> bytes:
    """The file with one constant changed."""
    model = onnx.load_from_string(content)
    held = next(each for each in model.graph.initializer if each.name == name)
    held.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(held).copy()), name))
    return model.SerializeToString()


class TfliteFile:
    """A TFLite file as objects that can be changed."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        self.graph = self.model.subgraphs[0]
        for buffer in self.model.buffers:  # ai-edge-quantizer puts those of a large model behind the flatbuffer
            if buffer.data is None and (buffer.offset or 0) > 1:
                buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
                buffer.offset = buffer.size = 0

    def scale(self, tensor: int, factor: float) -> None:
        self.graph.tensors[tensor].quantization.scale = np.asarray(
            self.graph.tensors[tensor].quantization.scale, np.float32
        ) * np.float32(factor)

    def values(self, tensor: int, change) -> None:
        held = self.graph.tensors[tensor]
        kind = {0: np.float32, 2: np.int32, 9: np.int8}[held.type]
        buffer = self.model.buffers[held.buffer]
        old = np.frombuffer(bytes(buffer.data), kind).reshape(held.shape).copy()
        buffer.data = np.frombuffer(change(old).astype(kind).tobytes(), np.uint8)

    def operator(self, output: int):
        return next(each for each in self.graph.operators if int(each.outputs[0]) == output)

    def pack(self) -> bytes:
        import flatbuffers

        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
