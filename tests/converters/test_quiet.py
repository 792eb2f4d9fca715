"""Converters are silent while they work and heard when they fail."""

import ctypes
import logging
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from edgekit_converters.quiet import converting
from edgekit_runtime.errors import ConversionError, UsageError


def make_noise(*, raising: BaseException | None = None) -> None:
    sys.stdout.write("python stdout\n")
    sys.stderr.write("python stderr\n")
    os.write(1, b"descriptor 1\n")
    os.write(2, b"descriptor 2\n")
    ctypes.CDLL(None).printf(b"C stdout\n")
    logging.getLogger("converter").warning("a log line")
    warnings.warn("a warning", stacklevel=1)
    if raising is not None:
        raise raising


def descriptors() -> list[str]:
    """The open descriptors; the listing's own is closed again by the time it is looked at."""
    listed = [entry.name for entry in Path("/proc/self/fd").iterdir()]
    return sorted(name for name in listed if Path("/proc/self/fd", name).exists())


def test_nothing_is_heard_of_a_success(capfd, caplog) -> None:
    sys.stdout.write("before\n")
    with converting("E0720", "x"):
        make_noise()
    sys.stdout.write("after\n")
    os.write(2, b"heard again\n")
    ctypes.CDLL(None).fflush(None)
    out, err = capfd.readouterr()
    assert out == "before\nafter\n"
    assert err == "heard again\n"
    assert not caplog.records


def test_nothing_comes_out_later_either() -> None:
    """What C code has in its own buffer would show when the process ends."""
    code = (
        "import ctypes\nfrom edgekit_converters.quiet import converting\n"
        "with converting('E0720', 'x'): ctypes.CDLL(None).printf(b'late noise')\n"
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=buffered)
    assert done.stdout == done.stderr == ""


def test_a_failure_brings_the_last_lines(capfd) -> None:
    def fail() -> None:
        for i in range(9):
            os.write(2, b"line %d\n" % i)
        raise RuntimeError("cannot lower aten.foo\nand a page of stack")

    with pytest.raises(ConversionError) as caught, converting("E0721", "the model could not be converted"):
        fail()
    error = caught.value
    assert (error.code, error.what) == ("E0721", "the model could not be converted")
    assert error.why.split("\n       ") == ["RuntimeError: cannot lower aten.foo", "line 6", "line 7", "line 8"]
    assert "--debug" in error.fix
    assert isinstance(error.__cause__, RuntimeError)
    assert capfd.readouterr() == ("", "")


def test_a_failure_without_words_names_its_kind() -> None:
    with pytest.raises(ConversionError) as caught, converting("E0721", "x"):
        raise KeyError
    assert caught.value.why == "KeyError: no message"


@pytest.mark.parametrize("error", [UsageError("E0101", "ours"), KeyboardInterrupt()])
def test_our_errors_and_an_interrupt_pass_as_they_are(error, capfd) -> None:
    with pytest.raises(type(error)) as caught, converting("E0720", "x"):
        make_noise(raising=error)
    assert caught.value is error
    sys.stdout.write("heard\n")
    assert capfd.readouterr().out == "heard\n"


def test_descriptors_are_given_back() -> None:
    before = descriptors()
    places = [os.fstat(number) for number in (1, 2)]
    for i in range(5):
        try:
            with converting("E0720", "x"), converting("E0721", "y"):
                os.write(1, b"noise")
                if i % 2:
                    raise RuntimeError("fails")
        except ConversionError:
            pass
    assert descriptors() == before
    assert [os.fstat(number)[:3] for number in (1, 2)] == [place[:3] for place in places]


def test_logging_and_warnings_are_as_before() -> None:
    level, filters = logging.root.manager.disable, list(warnings.filters)
    with converting("E0720", "x"):
        assert logging.root.manager.disable == logging.WARNING
    assert logging.root.manager.disable == level
    assert warnings.filters == filters
