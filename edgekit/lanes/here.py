"""Lanes of this machine: the float student in PyTorch, and every model of a bundle in the engines installed here."""

from dataclasses import dataclass, replace

import numpy as np

from edgekit.kept import kept_lane
from edgekit.lanes.base import Question
from edgekit.lanes.local import TORCH_DYNAMIC, run_engine_lane, run_torch_lane
from edgekit.lanes.models import bundle_lane, model_bundle
from edgekit_runtime.bundle import Bundle
from edgekit_runtime.evidence import Cost, LaneEvidence, collect, fingerprint, this_machine
from edgekit_runtime.model import Model

__all__ = ["EngineHere", "TorchHere"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHere:
    """A model in an engine of this machine, by the code that a device runs.

    Attributes:
        name: Of the lane.
        model: Key of ``MODELS``.
        engine: Key of ``ENGINES``.
    """

    name: str
    model: str
    engine: str

    def answer(self, question: Question) -> LaneEvidence:
        """See ``ParityLane``."""
        packed = model_bundle(question.bundle, question.path, self.model)
        bundle = question.bundle if packed is None else Bundle.from_bytes(packed)
        with Model(bundle, engine=self.engine, prove=False) as model:
            found = collect(model, question.rows, lane=self.name)
        # This process holds PyTorch and every lane; its memory says nothing about a device.
        return replace(found, cost=replace(found.cost, peak_rss_mib=None))


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchHere:
    """The student in PyTorch: float32, or ``torch-int8-dynamic``.

    Attributes:
        name: ``torch`` or ``torch-int8-dynamic``.
    """

    name: str

    def answer(self, question: Question) -> LaneEvidence:
        """See ``ParityLane``; the tensors are made by the bundle's preprocessing."""
        import torch

        from edgekit.quantise_only.parity import came_ready
        from edgekit.quantise_only.stages import run_graph_lane

        feeds = question.feeds
        if self.name == TORCH_DYNAMIC:
            outputs = run_engine_lane(bundle_lane(question.bundle, question.path, self.name), feeds)
        elif came_ready(question.bundle):
            outputs = run_graph_lane(kept_lane(question.path, "ready"), feeds)
        else:
            outputs = run_torch_lane(kept_lane(question.path, "torch"), feeds)
        prints = {name: np.array([fingerprint(row[name]) for row in feeds]) for name in feeds[0]}
        return LaneEvidence(
            lane=self.name,
            engine="torch",
            engine_version=str(torch.__version__),
            precision="int8" if self.name == TORCH_DYNAMIC else "float32",
            threads=1,
            kernels=str(torch.backends.quantized.engine) if self.name == TORCH_DYNAMIC else "ATen",
            machine=this_machine(),
            outputs=outputs,
            tensors=prints,
            selftest=None,
            cost=Cost(),
        )
