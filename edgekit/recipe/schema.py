"""The recipe as YAML holds it: strict models that refuse unknown keys and become the dataclasses of ``spec.py``.

Defaults live in ``spec.py`` alone: a model hands on only the keys that were given.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, model_validator

from edgekit.recipe.section import (
    UNSET,
    Count,
    Epochs,
    GateTexts,
    Increasing,
    PointsText,
    Positive,
    Rate,
    Section,
    Sha256,
    Text,
    fault,
    unique,
)
from edgekit.recipe.spec import (
    AdaptSpec,
    BudgetSpec,
    DataSource,
    DataSpec,
    DistillSpec,
    ExportSpec,
    ImageSpec,
    ModelSpec,
    ParitySpec,
    PruneSpec,
    QuantizeSpec,
    Recipe,
    SourceKind,
    StudentSpec,
    Task,
    TeacherSource,
)

__all__ = ["DataKind", "RecipeModel"]

DataKind = Literal["csv", "jsonl", "parquet", "datasets", "images", "npz", "idx", "sklearn"]

_FILE_KINDS = ("csv", "jsonl", "parquet", "npz", "idx", "images")  # may lie inside a package
_SPLIT_KINDS = ("datasets", "idx")


class TeacherModel(Section):
    """``model.teacher``: the kind of source is a key."""

    folder: Text = Field(default=UNSET)
    hub: str = Field(default=UNSET, pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    package: Text = Field(default=UNSET)
    factory: str = Field(default=UNSET, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    weights: str = Field(default=UNSET, pattern=r"\.safetensors$")
    architecture: Text = Field(default=UNSET)
    subfolder: str = ""
    revision: str = ""
    config: dict[str, Any] = Field(default_factory=dict)
    sha256: dict[str, Sha256] = Field(default_factory=dict)
    licence: str = ""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        kinds = [kind.value for kind in SourceKind if kind.value in self.model_fields_set]
        _exactly_one(kinds, [kind.value for kind in SourceKind])
        _only_with("subfolder", kinds[0], ("package", "hub"), self.model_fields_set)
        _only_with("revision", kinds[0], ("hub",), self.model_fields_set)
        _only_with("config", kinds[0], ("weights", "architecture", "factory"), self.model_fields_set)
        _only_with("sha256", kinds[0], ("folder", "hub", "package", "weights"), self.model_fields_set)
        if kinds == ["weights"] and not self.config:
            raise fault("needs 'config' beside 'weights': the parameters of the architecture", key="weights")
        return self

    def build(self) -> TeacherSource:
        """Make the dataclass."""
        (kind,) = (kind for kind in SourceKind if kind.value in self.model_fields_set)
        rest = self.given(*(each.value for each in SourceKind))
        return TeacherSource(kind=kind, location=getattr(self, kind.value), **rest)


class StudentModel(Section):
    """``model.student``."""

    layers: Increasing = Field(default=UNSET, min_length=1)
    hidden: int = Field(default=UNSET, ge=0, multiple_of=8)
    widths: list[Positive] = Field(default=UNSET, min_length=1)
    max_length: int = Field(default=UNSET, ge=3, le=8192)


class ModelModel(Section):
    """``model``."""

    task: Literal["text-classification", "image-classification"]
    teacher: TeacherModel
    student: StudentModel = StudentModel()

    def build(self) -> ModelSpec:
        """Make the dataclass."""
        return ModelSpec(
            task=Task(self.task), teacher=self.teacher.build(), student=StudentSpec(**self.student.given())
        )


class SourceModel(Section):
    """``data.train`` and ``data.eval``: the kind of source is a key."""

    csv: Text = Field(default=UNSET)
    jsonl: Text = Field(default=UNSET)
    parquet: Text = Field(default=UNSET)
    datasets: Text = Field(default=UNSET)
    images: Text = Field(default=UNSET)
    npz: Text = Field(default=UNSET)
    idx: Text = Field(default=UNSET)
    sklearn: Text = Field(default=UNSET)
    package: str = ""
    split: str = ""
    sha256: Sha256 = Field(default="")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        kinds = [kind for kind in get_args(DataKind) if kind in self.model_fields_set]
        _exactly_one(kinds, list(get_args(DataKind)))
        _only_with("package", kinds[0], _FILE_KINDS, self.model_fields_set)
        _only_with("split", kinds[0], _SPLIT_KINDS, self.model_fields_set)
        _only_with("sha256", kinds[0], ("csv", "jsonl", "parquet", "npz"), self.model_fields_set)
        return self

    def build(self) -> DataSource:
        """Make the dataclass."""
        (kind,) = (kind for kind in get_args(DataKind) if kind in self.model_fields_set)
        return DataSource(kind=kind, location=getattr(self, kind), **self.given(*get_args(DataKind)))


class ImageModel(Section):
    """``data.image``."""

    height: int = Field(ge=1, le=8192)
    width: int = Field(ge=1, le=8192)
    channels: Literal[1, 3] = Field(default=UNSET)
    scale: float = Field(default=UNSET, gt=0)
    mean: list[float] = Field(default=UNSET)
    std: list[Annotated[float, Field(gt=0)]] = Field(default=UNSET)

    @model_validator(mode="after")
    def _per_channel(self) -> Self:
        channels = self.channels or ImageSpec(height=1, width=1).channels
        for key in ("mean", "std"):
            values = getattr(self, key)
            if values is not None and len(values) != channels:
                raise fault(f"needs one value per channel: {channels}, not {len(values)}", key=key)
        if channels > 1 and not {"mean", "std"} <= self.model_fields_set:
            raise fault(f"needs 'mean' and 'std' with {channels} values each", key="channels")
        return self


class DataModel(Section):
    """``data``."""

    train: SourceModel
    eval: SourceModel = Field(default=UNSET)
    eval_rows: Positive = Field(default=UNSET)
    text: Text = Field(default=UNSET)
    label: Text = Field(default=UNSET)
    where: dict[str, str] = Field(default=UNSET)
    labels: dict[str, Text] = Field(default=UNSET, min_length=2)
    image: ImageModel = Field(default=UNSET)
    licence: str = Field(default=UNSET)

    @model_validator(mode="after")
    def _one_eval(self) -> Self:
        if "eval" in self.model_fields_set and "eval_rows" in self.model_fields_set:
            raise fault("gives both 'eval' and 'eval_rows'; give one", key="eval_rows")
        if not {"eval", "eval_rows"} & self.model_fields_set:
            raise fault("needs 'eval' (a source) or 'eval_rows' (how many rows to split off 'train')")
        return self

    def build(self) -> DataSpec:
        """Make the dataclass."""
        return DataSpec(
            train=self.train.build(),
            eval=self.eval.build() if "eval" in self.model_fields_set else None,
            image=ImageSpec(**self.image.given()) if "image" in self.model_fields_set else None,
            **self.given("train", "eval", "image"),
        )


class AdaptModel(Section):
    """``adapt``."""

    epochs: Epochs = Field(default=UNSET)
    batch_size: Positive = Field(default=UNSET)
    learning_rate: Rate = Field(default=UNSET)
    frozen_layers: Count = Field(default=UNSET)


class DistillModel(Section):
    """``distill``."""

    epochs: Epochs = Field(default=UNSET)
    batch_size: Positive = Field(default=UNSET)
    learning_rate: Rate = Field(default=UNSET)
    temperature: float = Field(default=UNSET, gt=0, le=100)
    ce_weight: float = Field(default=UNSET, ge=0, le=1)
    hidden_weight: float = Field(default=UNSET, ge=0)


class PruneModel(Section):
    """``prune``."""

    heads: Count = Field(default=UNSET)
    ffn: Count = Field(default=UNSET)
    channels: float = Field(default=UNSET, ge=0, lt=1)
    multiple: Positive = Field(default=UNSET)
    criterion: Literal["magnitude", "activation"] = Field(default=UNSET)
    recover_epochs: Epochs = Field(default=UNSET)

    @model_validator(mode="after")
    def _ffn_multiple(self) -> Self:
        multiple = self.multiple or PruneSpec().multiple
        if self.ffn is not None and self.ffn % multiple:
            near = max(multiple, round(self.ffn / multiple) * multiple)
            raise fault(
                f"must be a multiple of prune.multiple ({multiple}), not {self.ffn}; nearest: {near}", key="ffn"
            )
        return self


class QuantizeModel(Section):
    """``quantize``."""

    calibration_rows: Positive = Field(default=UNSET)
    ranges: Literal["minmax", "percentile", "entropy", "mse"] = Field(default=UNSET)
    activations: Literal["auto", "uint8", "int8", "int16"] = Field(default=UNSET)
    ffn_output: Literal["dynamic", "float", "static"] = Field(default=UNSET)
    embedding: Literal["int8", "int4", "float"] = Field(default=UNSET)
    weights: Literal["int8", "int4", "power-of-two", "codebook"] = Field(default=UNSET)
    rounding: Literal["nearest", "gptq", "adaround"] = Field(default=UNSET)
    block: Literal[0, 32, 64, 128, 256] = Field(default=UNSET)
    techniques: bool = Field(default=UNSET)
    min_sqnr_db: float = Field(default=UNSET, gt=0)
    within_max_drop: bool = Field(default=UNSET)
    all_int8: bool = Field(default=UNSET)
    plan: Text = Field(default=UNSET)
    seven_bit: bool | Literal["pairs"] = Field(default=UNSET)
    per_tensor: bool = Field(default=UNSET)
    whole_network: Literal["off", "int8", "int16-residual"] = Field(default=UNSET)

    @model_validator(mode="after")
    def _scheme(self) -> Self:
        coded = self.weights is not None and self.weights != "int8"
        if self.within_max_drop and (coded or self.min_sqnr_db is not None):
            raise fault("needs weights: int8 and no min_sqnr_db; one bound is enough", key="within_max_drop")
        if coded and (self.activations == "int16" or self.ffn_output == "static" or self.all_int8):
            given = {"activations": self.activations == "int16", "ffn_output": self.ffn_output == "static"}
            key = next((name for name, wrong in given.items() if wrong), "all_int8")
            raise fault(f"needs weights: int8; {self.weights} weights meet no calibrated activations", key=key)
        if self.weights != "int4":
            if self.rounding not in (None, "nearest"):
                raise fault(f"{self.rounding} chooses the codes of weights: int4", key="rounding")
            if self.block is not None and self.embedding != "int4":
                raise fault("is a block of 4-bit weights; set weights: int4", key="block")
        return self


class ExportModel(Section):
    """``export``."""

    formats: Annotated[list[Literal["onnx", "tflite"]], AfterValidator(unique)] = Field(default=UNSET, min_length=1)
    # 17 brought LayerNormalization as one operator; 23 is the newest that the exporter was seen to write.
    opset: int = Field(default=UNSET, ge=17, le=23)
    keep_int8: bool = Field(default=UNSET)


class BudgetModel(Section):
    """``budget``."""

    max_drop: PointsText = Field(default=UNSET)
    max_changed: PointsText = Field(default=UNSET)
    max_size_mb: float = Field(default=UNSET, gt=0)
    max_latency_ms: float = Field(default=UNSET, gt=0)


class ParityModel(Section):
    """``parity``."""

    gates: GateTexts = Field(default=UNSET)


class RecipeModel(Section):
    """The whole file."""

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", max_length=64)
    version: str = Field(pattern=r"^(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*)){2}$")
    model: ModelModel
    data: DataModel
    adapt: AdaptModel = AdaptModel()
    distill: DistillModel = DistillModel()
    prune: PruneModel = PruneModel()
    quantize: QuantizeModel = QuantizeModel()
    export: ExportModel = ExportModel()
    budget: BudgetModel = BudgetModel()
    parity: ParityModel = ParityModel()
    targets: Annotated[list[str], AfterValidator(unique)] = Field(default=UNSET, min_length=1)
    seed: int = Field(default=UNSET, ge=0, le=2**32 - 1)
    precision: Literal["auto", "float32", "bfloat16"] = Field(default=UNSET)

    def build(self, folder: Path) -> Recipe:
        """Make the dataclass; ``folder`` is where relative paths start."""
        return Recipe(
            folder=folder,
            model=self.model.build(),
            data=self.data.build(),
            adapt=AdaptSpec(**self.adapt.given()),
            distill=DistillSpec(**self.distill.given()),
            prune=PruneSpec(**self.prune.given()),
            quantize=QuantizeSpec(**self.quantize.given()),
            export=ExportSpec(**self.export.given()),
            budget=BudgetSpec(**self.budget.given()),
            parity=ParitySpec(**self.parity.given()),
            **self.given("model", "data", "adapt", "distill", "prune", "quantize", "export", "budget", "parity"),
        )

    def given_keys(self) -> Iterator[tuple[str, ...]]:
        """Yield the path of every key that the file holds in a section of this schema."""
        yield from _given_keys(self, ())


def _given_keys(section: Section, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name in section.model_fields_set:
        yield (*path, name)
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _given_keys(value, (*path, name))


def _exactly_one(given: Sequence[str], known: Sequence[str]) -> None:
    if not given:
        raise fault(f"names no source; give one of: {', '.join(known)}")
    if len(given) > 1:
        raise fault(f"names {len(given)} sources ({', '.join(given)}); give one", key=given[1])


def _only_with(key: str, kind: str, kinds: tuple[str, ...], given: set[str]) -> None:
    if key in given and kind not in kinds:
        raise fault(f"has no meaning for a source of kind '{kind}'; it goes with: {', '.join(kinds)}", key=key)


def known_keys(path: tuple[str | int, ...]) -> Mapping[str, object]:
    """Give the fields of the section at ``path``; empty where there is no section."""
    section: type[Section] = RecipeModel
    for part in path:
        field = section.model_fields.get(str(part))
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, Section):
            return {}
        section = field.annotation
    return section.model_fields
