"""What a build is told: frozen, typed, checked when made. The YAML schema in ``schema.py`` turns a file into these."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from edgekit.recipe.units import Points

__all__ = [
    "AdaptSpec",
    "BudgetSpec",
    "DataSource",
    "DataSpec",
    "DistillSpec",
    "ExportSpec",
    "ImageSpec",
    "ModelSpec",
    "ParitySpec",
    "PruneSpec",
    "QuantizeSpec",
    "Recipe",
    "SourceKind",
    "StudentSpec",
    "Task",
    "TeacherSource",
]


class Task(StrEnum):
    """What a model answers."""

    TEXT_CLASSIFICATION = "text-classification"
    IMAGE_CLASSIFICATION = "image-classification"


class SourceKind(StrEnum):
    """Where a teacher comes from."""

    FOLDER = "folder"  # a local transformers folder: config.json, model.safetensors, tokenizer.json
    HUB = "hub"  # a hub id; the only source that touches the network
    PACKAGE = "package"  # an installed distribution that carries the files
    FACTORY = "factory"  # module:function that returns an nn.Module; needs --trust-code
    WEIGHTS = "weights"  # a .safetensors file and a config of one of our own architectures
    ARCHITECTURE = "architecture"  # one of our own architectures, trained from scratch by the adapt stage


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSource:
    """Where the teacher comes from.

    Attributes:
        kind: Which of the sources.
        location: Folder, hub id, distribution name, ``module:function``, weights file or architecture name.
        subfolder: Folder inside a package or hub repository; empty for its root.
        revision: Hub commit or tag; empty for the default branch.
        config: Architecture parameters (``weights`` and ``architecture`` only), e.g. ``{"widths": [16, 32]}``.
        sha256: Expected digest by file name, e.g. ``{"model.safetensors": "53aa..."}``; checked before use.
        licence: SPDX name that goes into the bundle; empty when unknown.
    """

    kind: SourceKind
    location: str
    subfolder: str = ""
    revision: str = ""
    config: Mapping[str, object] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)
    licence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentSpec:
    """What the student starts as.

    Attributes:
        layers: Teacher layers that the student copies, in order, counted from 0 (text only); empty = all.
        hidden: Hidden width, a multiple of 8; the teacher's channels with the largest mean activation are kept and the
            distillation loss learns a projection back (text only); 0 = the teacher's.
        widths: Channels of each block (image only); empty = the teacher's.
        max_length: Tokens per text, including the special ones (text only).
    """

    layers: tuple[int, ...] = ()
    hidden: int = 0
    widths: tuple[int, ...] = ()
    max_length: int = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Task, teacher and student."""

    task: Task
    teacher: TeacherSource
    student: StudentSpec = StudentSpec()


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Where rows come from.

    Attributes:
        kind: ``csv``, ``jsonl``, ``parquet``, ``datasets`` (a name for the ``datasets`` library), ``images`` (a folder
            with one sub-folder per class), ``npz`` (arrays ``x`` and ``y``), ``idx`` (a pair of MNIST-style files),
            ``sklearn`` (a data set that scikit-learn carries).
        location: Path (relative paths start at the recipe's folder), or the name for ``datasets`` and ``sklearn``.
        package: Installed distribution that ``location`` is a path inside of; empty for a plain path.
        split: Split name for ``datasets``, ``train`` or ``t10k`` for ``idx``; empty for the source's only one.
        sha256: Expected digest of the file; empty = not checked.
    """

    kind: Literal["csv", "jsonl", "parquet", "datasets", "images", "npz", "idx", "sklearn"]
    location: str
    package: str = ""
    split: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """How an image becomes a tensor: resize to (height, width), ``(x * scale - mean) / std`` per channel, NHWC float32.

    Attributes:
        height: Rows in pixels.
        width: Columns in pixels.
        channels: 1 (grey) or 3 (RGB).
        scale: Factor on raw values, e.g. 1/255 for 8-bit images.
        mean: Per channel, after scaling.
        std: Per channel, after scaling; above 0.
    """

    height: int
    width: int
    channels: int = 1
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSpec:
    """Rows to learn from and rows to judge by.

    Attributes:
        train: Source of training rows.
        eval: Source of evaluation rows; None = split off ``eval_rows`` from ``train``.
        eval_rows: Rows split off when ``eval`` is None; the split is stratified by label and seeded.
        text: Column with the text (tables).
        label: Column with the label (tables).
        where: Rows are kept if each column here equals its value (tables).
        labels: Names by raw label value, e.g. ``{"0": "negative"}``; empty = the raw values are the names.
        image: Image preprocessing (images only).
        licence: SPDX name or sentence that goes into the bundle's provenance.
    """

    train: DataSource
    eval: DataSource | None = None
    eval_rows: int = 0
    text: str = "text"
    label: str = "label"
    where: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    image: ImageSpec | None = None
    licence: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptSpec:
    """Fine-tune the teacher on the training rows. ``epochs = 0`` takes it as it is.

    Attributes:
        epochs: Passes over the training rows.
        batch_size: Rows per step.
        learning_rate: Peak; linear warm-up over 6 % of steps, then linear decay to 0.
        frozen_layers: Encoder layers that stay as they are, counted from the input; embeddings always stay (text only).
    """

    epochs: float = 2
    batch_size: int = 32
    learning_rate: float = 1e-4
    frozen_layers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSpec:
    """Teach the student: ``ce_weight*CE + (1-ce_weight)*T^2*KL + hidden_weight*MSE(hidden)``.

    Attributes:
        epochs: Passes over the training rows; 0 leaves the student as it was initialised.
        batch_size: Rows per step.
        learning_rate: Peak; linear warm-up over 6 % of steps, then linear decay to 0.
        temperature: T of the soft targets.
        ce_weight: Share of the hard-label loss, 0 to 1 (lambda in Hinton et al. 2015).
        hidden_weight: Weight of the hidden-state loss (text only); 0 turns it off.
    """

    epochs: float = 2
    batch_size: int = 32
    learning_rate: float = 2e-4
    temperature: float = 2.0
    ce_weight: float = 0.3
    hidden_weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSpec:
    """Remove the least useful structure, then recover by distillation.

    Attributes:
        heads: Attention heads kept per layer (text); 0 keeps all.
        ffn: Feed-forward neurons kept per layer, a multiple of ``multiple`` (text); 0 keeps all.
        channels: Fraction of channels removed, 0 to below 1 (image).
        multiple: Kept sizes are rounded up to a multiple of this, for the target's kernels.
        criterion: ``magnitude`` of weights or mean ``activation`` on training rows.
        recover_epochs: Distillation epochs after pruning.
    """

    heads: int = 0
    ffn: int = 0
    channels: float = 0.0
    multiple: int = 8
    criterion: Literal["magnitude", "activation"] = "activation"
    recover_epochs: float = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeSpec:
    """Static int8.

    Attributes:
        calibration_rows: Training rows that the activation ranges are measured on.
        ranges: How a range is chosen from the values that calibration saw. ``minmax`` holds all of them; ``percentile``
            (99.99), ``entropy`` and ``mse`` may clip, and are kept only if they help, unless ``techniques`` is off.
        activations: ``auto`` takes the target's row; ``uint8`` or ``int8`` force it (ONNX only; TFLite is int8).
            ``int16`` gives static layers 16-bit inputs and outputs in both formats.
        ffn_output: Mode of the feed-forward output layers of a transformer, whose outliers break int8: ``float``
            (int8 weights are not used there), ``dynamic``, or ``static``.
        embedding: ``int8``, ``int4`` or ``float`` word embeddings.
        weights: Code of the linear layers' weights (text only). ``int4`` layers round their inputs at each run,
            ``power-of-two`` and ``codebook`` ones leave them float; heads stay float.
        rounding: What chooses the codes of ``int4``; ``gptq`` and ``adaround`` are kept only if they help.
        block: Inputs that share a scale of ``int4``; 0 = one scale per output channel. A layer whose inputs it does not
            divide takes one scale per channel.
        techniques: Try the accuracy techniques and keep those that help; off gives the naive plan, for comparison.
        min_sqnr_db: The most sensitive layers leave static int8 until the simulated model is this close to float on
            held-in rows, in dB; None = all stay.
        seven_bit: Narrow the weights until no 16-bit sum of x86 without VNNI can saturate: True keeps codes within
            +-64, safe in any kernel; ``pairs`` narrows a channel only as far as ONNX Runtime's kernels need.
        per_tensor: One scale for all weights of a layer, for targets whose kernels take none per channel.
        whole_network: Text, ONNX: every operator reads and gives integers, layer norm, softmax and GELU too, as NPUs
            need it. ``int8``, or ``int16-residual`` with 16 bits for what a layer norm sums up. The modes of layers,
            which other keys choose, do not apply then.
        within_max_drop: Take the fastest modes whose simulated accuracy on training rows that were not calibrated on
            loses at most ``budget.max_drop``.
        all_int8: No layer may leave static int8 for ``min_sqnr_db`` or ``within_max_drop``, as NPUs need it.
        plan: ``NAME-TARGET.plan.json`` of an earlier build of the same model and rows: nothing is measured, its
            decisions hold. Relative paths start at the recipe's folder.
    """

    calibration_rows: int = 256
    ranges: Literal["minmax", "percentile", "entropy", "mse"] = "minmax"
    activations: Literal["auto", "uint8", "int8", "int16"] = "auto"
    ffn_output: Literal["dynamic", "float", "static"] = "dynamic"
    embedding: Literal["int8", "int4", "float"] = "int8"
    weights: Literal["int8", "int4", "power-of-two", "codebook"] = "int8"
    rounding: Literal["nearest", "gptq", "adaround"] = "nearest"
    block: Literal[0, 32, 64, 128, 256] = 32
    techniques: bool = True
    min_sqnr_db: float | None = None
    within_max_drop: bool = False
    all_int8: bool = False
    plan: str = ""
    seven_bit: bool | Literal["pairs"] = False
    per_tensor: bool = False
    whole_network: Literal["off", "int8", "int16-residual"] = "off"

    @property
    def searches(self) -> bool:
        """Whether layers may leave the mode that the recipe gives them."""
        return self.min_sqnr_db is not None or self.within_max_drop

    @property
    def for_speed(self) -> bool:
        """Whether int8 is wanted for its speed: fewer bits are asked for size, 16-bit activations for closeness."""
        return self.weights == "int8" and self.activations != "int16"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportSpec:
    """Formats to write.

    Attributes:
        formats: Model files.
        opset: Of ONNX.
        keep_int8: The bundle holds int8 even for an engine in which float32 is faster on the build machine.
    """

    formats: tuple[Literal["onnx", "tflite"], ...] = ("onnx", "tflite")
    opset: int = 20
    keep_int8: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSpec:
    """What the user allows.

    Attributes:
        max_drop: Accuracy that int8 may lose against the student's own float32, in percentage points.
        max_changed: Share of decisions that int8 may change against float32, in percentage points of the rows.
        max_size_mb: Size of the larger int8 model file in MB (1e6 bytes); None = no bound.
        max_latency_ms: CPU time per inference on the build machine, one thread; None = no bound.
    """

    max_drop: Points = field(default_factory=lambda: Points(1.0))
    max_changed: Points = field(default_factory=lambda: Points(5.0))
    max_size_mb: float | None = None
    max_latency_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParitySpec:
    """What every comparison of the bundle's lanes must meet, at the end of the build and on a device.

    Attributes:
        gates: Bound with its unit by name of the gate, e.g. ``{"min_cosine": "0.99 cosine"}``; they go into the bundle.
    """

    gates: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Everything a build needs; replaying it gives the same bundle.

    Attributes:
        name: Bundle name: lower-case letters, digits and hyphens.
        version: Version of the user's model, ``major.minor.patch``.
        folder: Folder of the recipe file; relative paths start here.
        targets: Names from ``edgekit targets``; the first is the default.
        seed: Seed of every random choice.
        precision: Of the matrix products in training; ``auto`` takes bfloat16 where the CPU has it.
    """

    name: str
    version: str
    folder: Path
    model: ModelSpec
    data: DataSpec
    adapt: AdaptSpec = AdaptSpec()
    distill: DistillSpec = DistillSpec()
    prune: PruneSpec = PruneSpec()
    quantize: QuantizeSpec = QuantizeSpec()
    export: ExportSpec = ExportSpec()
    budget: BudgetSpec = field(default_factory=BudgetSpec)
    parity: ParitySpec = field(default_factory=ParitySpec)
    targets: tuple[str, ...] = ("x86-64",)
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"

    @property
    def carried_gates(self) -> dict[str, str]:
        """Bounds that the bundle carries to every later comparison, by gate: those of the budget, and the gates."""
        budget = {"max_drop": self.budget.max_drop, "max_changed": self.budget.max_changed}
        return {**{name: f"{float(bound.value)!r} points" for name, bound in budget.items()}, **self.parity.gates}
