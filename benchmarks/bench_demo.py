"""Does the demo keep its promises? Builds a recipe and records size, CPU time and accuracy of every lane.

CPU times of teacher and student are taken in turn in one run, one thread. With ``--fresh`` the stage cache is a new
folder, so the build's own wall time is recorded too.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

from record import write_result

from edgekit.build import build_recipe
from edgekit.cli.progress import make_progress
from edgekit.recipe.load import load_recipe


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--fresh", action="store_true", help="build from nothing")
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe)
    with tempfile.TemporaryDirectory() as folder:
        if arguments.fresh:
            os.environ["EDGEKIT_CACHE"] = folder
        start = time.perf_counter()
        result = build_recipe(
            recipe,
            target=recipe.targets[0],
            out=Path(folder) / "out",
            trust_code=False,
            offline=True,
            progress=make_progress(),
        )
        seconds = time.perf_counter() - start
        bundle_mb = result.bundle.stat().st_size / 1e6
    teacher = result.report.row("teacher")
    assert teacher is not None
    lanes = {}
    for row in result.report.rows:
        lanes[row.lane] = {
            "size_mb": round(row.size_mb, 2),
            "parameters": row.parameters,
            "macs": row.macs,
            "accuracy": row.accuracy,
            "accuracy_interval_95": [round(value, 4) for value in row.accuracy_interval_95],
            "share_of_teacher_accuracy": round(row.accuracy / teacher.accuracy, 4),
            "drop_points": row.drop_points,
            "changed_rows": row.changed,
            "sqnr_db": row.sqnr_db,
            "cpu_ms_min": row.cpu_ms_min,
            "cpu_ms_median": row.cpu_ms_median,
            "times_smaller_than_teacher": round(teacher.size_mb / row.size_mb, 2),
            "times_less_cpu_than_teacher": (
                round(teacher.cpu_ms_min / row.cpu_ms_min, 2) if teacher.cpu_ms_min and row.cpu_ms_min else None
            ),
        }
    figures: dict[str, object] = {
        "eval_rows": result.report.eval_rows,
        "bundle_mb": round(bundle_mb, 2),
        "bundle_sha256": result.digest,
        "lanes": lanes,
    }
    if arguments.fresh:
        figures["build_wall_s"] = round(seconds, 1)
    flag = " --fresh" if arguments.fresh else ""
    write_result(f"build_{recipe.name}", figures, command=f"python benchmarks/bench_demo.py {arguments.recipe}{flag}")


if __name__ == "__main__":
    main()
