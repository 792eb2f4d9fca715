"""The counting plugin's classes on known instructions, and the reading of its marks."""

import shutil
import subprocess
from importlib import resources

import pytest

from edgekit.emulator.counts import CLASSES, EMPTY_WINDOWS, read_counts

# Encoded by hand after the Arm Architecture Reference Manual, and read back with a disassembler once.
WORDS = {
    "dot_product": {
        0x4E829420: "sdot v0.4s, v1.16b, v2.16b",
        0x2E829420: "udot v0.2s, v1.8b, v2.8b",
        0x4F82E020: "sdot v0.4s, v1.16b, v2.4b[0]",
        0x4E829C20: "usdot v0.4s, v1.16b, v2.16b",
        0x4F82F020: "usdot v0.4s, v1.16b, v2.4b[0]",
    },
    "int8_matmul": {
        0x4E82A420: "smmla v0.4s, v1.16b, v2.16b",
        0x6E82A420: "ummla v0.4s, v1.16b, v2.16b",
        0x4E82AC20: "usmmla v0.4s, v1.16b, v2.16b",
    },
    "simd_multiply": {
        0x4EA29420: "mla v0.4s, v1.4s, v2.4s",
        0x0E628020: "smlal v0.4s, v1.4h, v2.4h",
        0x4E22C020: "smull2 v0.8h, v1.16b, v2.16b",
        0x4E22CC20: "fmla v0.4s, v1.4s, v2.4s",
        0x4F821020: "fmla v0.4s, v1.4s, v2.s[0]",
        0x6E22DC20: "fmul v0.4s, v1.4s, v2.4s",
        0x4E420C20: "fmla v0.8h, v1.8h, v2.8h",
        0x6E828420: "sqrdmlah v0.4s, v1.4s, v2.4s",
        0x6EA2B420: "sqrdmulh v0.4s, v1.4s, v2.4s",
    },
    "simd_other": {
        0x4EA28420: "add v0.4s, v1.4s, v2.4s",
        0x4E606820: "sadalp v0.4s, v1.8h",
        0x6F00E400: "movi v0.2d, #0",
        0x0E22E020: "pmull v0.8h, v1.8b, v2.8b",
        0x4E284820: "aese v0.16b, v1.16b",
        0x4E083C20: "mov x0, v1.d[0]",
        0x5EF1B820: "addp d0, v1.2d",
    },
    "load_store": {
        0x3DC00000: "ldr q0, [x0]",
        0x4C407000: "ld1 {v0.16b}, [x0]",
        0xA94007E0: "ldp x0, x1, [sp]",
        0xB9000020: "str w0, [x1]",
        0x58000000: "ldr x0, <literal>",
        0xC85F7C20: "ldxr x0, [x1]",
    },
    "branch": {
        0x14000000: "b",
        0x94000000: "bl",
        0xD65F03C0: "ret",
        0xB4000000: "cbz x0",
        0x54000000: "b.eq",
        0xD4000001: "svc #0",
    },
    "scalar_other": {
        0xD503201F: "nop",
        0x8B020020: "add x0, x1, x2",
        0x91000420: "add x0, x1, #1",
        0x9B020C20: "madd x0, x1, x2, x3",
        0x1E222820: "fadd s0, s1, s2",
        0x1F020C20: "fmadd s0, s1, s2, s3",
        0x9E220020: "scvtf s0, x1",
    },
}


def test_known_instructions_are_in_their_classes(tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler is here")
    header = resources.files("edgekit.emulator").joinpath("instruction_class.h").read_text(encoding="utf-8")
    body = (
        'int main(void) { uint32_t w; while (scanf("%x", &w) == 1) printf("%d\\n", instruction_class(w)); return 0; }'
    )
    (tmp_path / "classes.c").write_text(f"#include <stdio.h>\n{header}\n{body}\n", encoding="utf-8")
    strict = [compiler, "-Wall", "-Wextra", "-Werror", "-o", "classes", "classes.c"]
    subprocess.run(strict, cwd=tmp_path, check=True, timeout=60)
    words = [word for known in WORDS.values() for word in known]
    given = "\n".join(f"{word:x}" for word in words)
    done = subprocess.run([tmp_path / "classes"], input=given, capture_output=True, text=True, check=True, timeout=60)
    found = dict(zip(words, (CLASSES[int(line)] for line in done.stdout.split()), strict=True))
    assert found == {word: name for name, known in WORDS.items() for word in known}
    assert set(WORDS) == set(CLASSES)


def write_marks(path, windows, *, start=1000):
    """Write two marks for each window; a window is a list of counts, total first."""
    lines, now = [], [start] * len(windows[0])
    for window in windows:
        lines.append(now)
        now = [before + more for before, more in zip(now, window, strict=True)]
        lines.append(now)
        now = [before + 500 for before in now]  # what happens between two inferences
    path.write_text("".join(" ".join(map(str, line)) + "\n" for line in lines), encoding="ascii")


def test_the_cheapest_inference_counts_less_an_empty_window_and_never_the_first(tmp_path):
    empty = [[30 + extra, 0, 0, 0, 2, 8, 5, 15 + extra] for extra in (4, 0, 1, 2)]
    inferences = [
        [130, 40, 0, 20, 12, 18, 15, 25],  # the first, and the cheapest
        [150, 41, 0, 20, 12, 28, 20, 29],
        [140, 40, 0, 20, 12, 28, 15, 25],
        [160, 41, 0, 20, 22, 28, 20, 29],
    ]
    write_marks(tmp_path / "counts", [*empty, *inferences])
    counts = read_counts(tmp_path / "counts")
    assert counts.total == 110
    assert counts.classes == dict(zip(CLASSES, (40, 0, 20, 10, 20, 10, 10), strict=True))
    assert counts.windows == (100, 120, 110, 130)


def test_a_32_bit_guest_has_a_total_alone(tmp_path):
    write_marks(tmp_path / "counts", [[10]] * EMPTY_WINDOWS + [[500], [400], [300]])
    counts = read_counts(tmp_path / "counts")
    assert (counts.total, counts.classes) == (290, {})


@pytest.mark.parametrize("marks", [0, 2 * EMPTY_WINDOWS, 2 * EMPTY_WINDOWS + 2, 2 * EMPTY_WINDOWS + 5])
def test_too_few_or_odd_marks_are_refused(tmp_path, marks):
    path = tmp_path / "counts"
    path.write_text("".join(f"{mark}\n" for mark in range(marks)), encoding="ascii")
    with pytest.raises(ValueError, match=f"^{marks} marks$"):
        read_counts(path)
