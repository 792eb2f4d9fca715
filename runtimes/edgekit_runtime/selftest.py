"""Does this machine answer as the build machine did? The goldens in the bundle are the judge.

int8 is not bit-equal across CPUs and kernels, so outputs have a bound and not equality; preprocessing is ours and has
no such excuse.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgekit_runtime.bundle import Bundle
from edgekit_runtime.engines.registry import get_engine
from edgekit_runtime.errors import BundleError
from edgekit_runtime.rows import IMAGES, golden_rows
from edgekit_runtime.statistics import changed_decisions, is_constant, max_abs_difference, sqnr_db

if TYPE_CHECKING:
    from edgekit_runtime.model import Input, Model

__all__ = ["MIN_SQNR_DB", "Check", "SelfTest", "flat_outputs", "run_selftest"]

# Noise of 1 % of the signal's power. Kernel sets of one engine differ by about 30 dB; saturation on an x86 CPU without
# VNNI or a wrong zero point falls far below.
MIN_SQNR_DB = 20.0
_MAX_CHANGED = 0.05  # of the golden rows, but one row at least: a near tie may fall either way
_IMAGE_TOLERANCE = 1e-5  # relative to the largest entry; fused multiply-add rounds once less


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison.

    Attributes:
        name: What was compared.
        passed: Within the bound; a NaN never is.
        detail: Measured value and bound.
    """

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class SelfTest:
    """All comparisons on one engine.

    Attributes:
        engine: Its name.
        rows: Golden inputs that were run.
        checks: One per comparison.
    """

    engine: str
    rows: int
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)


def run_selftest(model: "Model") -> SelfTest:
    """Run every golden input through preprocessing and engine.

    Raises:
        BundleError: The bundle carries no goldens, or they do not fit.
    """
    bundle = model.bundle
    runtime = get_engine(model.engine_name).runtime
    recorded, reference = bundle.npy(f"golden/{runtime}.npy"), bundle.npy("golden/reference.npy")
    entry = bundle.manifest.models[runtime]
    names, answer = [spec.name for spec in entry.inputs], [spec.name for spec in entry.outputs]
    tensors = {name: bundle.npy(f"golden/{name}.npy") for name in names}
    raw = _raw_inputs(bundle)
    rows = len(recorded) if raw is None else len(raw)
    if rows == 0 or {len(array) for array in (recorded, reference, *tensors.values())} != {rows}:
        raise BundleError("E0518", f"the goldens do not fit together: {rows} inputs")
    runs = [model.run(**{n: tensors[n][i : i + 1] for n in names}) for i in range(rows)]
    answers = np.concatenate([flat_outputs(run, answer) for run in runs])
    sqnr = sqnr_db(recorded, answers)
    checks = [
        Check("outputs", sqnr >= MIN_SQNR_DB, f"{sqnr:.1f} dB to the build machine; at least {MIN_SQNR_DB:.0f} dB"),
        Check("alive", not is_constant(answers) or is_constant(reference), "outputs vary with the input"),
    ]
    if raw is not None:
        checks.insert(0, _compare_tensors(model, raw, tensors))
    if model.labels:
        checks.insert(-1, _compare_decisions(recorded, answers))
    return SelfTest(engine=model.engine_name, rows=rows, checks=tuple(checks))


def _compare_decisions(recorded: NDArray[np.generic], answers: NDArray[np.generic]) -> Check:
    rows = len(answers)
    changed, allowed = changed_decisions(recorded, answers), max(1, int(_MAX_CHANGED * rows))
    detail = f"{changed} of {rows} differ from the build machine; at most {allowed}"
    return Check("decisions", changed <= allowed, detail)


def flat_outputs(outputs: Mapping[str, NDArray[np.generic]], names: Sequence[str]) -> NDArray[np.float32]:
    """Give the outputs of one run side by side in one row, float32 (1, entries); of a classifier, its logits."""
    return np.concatenate([np.asarray(outputs[name], np.float32).reshape(1, -1) for name in names], axis=1)


def _raw_inputs(bundle: Bundle) -> "list[Input] | None":
    """Give what goes into preprocessing; None where there is none."""
    if bundle.manifest.task == "tensors":
        return None
    rows = golden_rows(bundle)
    return list(rows.texts or rows.arrays[IMAGES])


def _compare_tensors(model: "Model", raw: "list[Input]", tensors: dict[str, NDArray[np.generic]]) -> Check:
    worst = 0.0
    for place, x in enumerate(raw):
        for name, measured in model.preprocess(x).items():
            wanted = tensors[name][place : place + 1]
            bound = 0.0
            if wanted.dtype.kind == "f":
                bound = _IMAGE_TOLERANCE * max(1.0, float(np.abs(wanted.astype(np.float64)).max()))
            difference = max_abs_difference(wanted, measured)
            # Written so that NaN fails.
            if not difference <= bound:
                return Check("preprocessing", passed=False, detail=f"row {place}: {name} differs by {difference:.4g}")
            worst = max(worst, difference)
    return Check("preprocessing", passed=True, detail=f"largest difference {worst:.4g}")
