"""Small stages for the tests of the cache; run as a script it builds them in a process of its own."""

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from edgekit.cache import Cache, run_stages
from edgekit.pipeline import Artifacts, Kind


@dataclass
class Recorder:
    """Progress that keeps what it is told."""

    events: list[tuple[str, ...]] = field(default_factory=list)

    def stage_started(self, name, /):
        self.events.append(("started", name))

    def stage_done(self, name, /, *, seconds, note, cached):
        assert seconds >= 0
        self.events.append(("cached" if cached else "made", name, note))

    def stage_failed(self, name, /):
        self.events.append(("failed", name))

    def notice(self, text, /):
        self.events.append(("notice", text))

    def of(self, kind):
        return [event for event in self.events if event[0] == kind]


@dataclass(frozen=True)
class MakeData:
    text: str = "rows"
    needs: tuple[str, ...] = ("numpy",)
    takes: ClassVar[tuple[Kind, ...]] = ()
    gives: ClassVar[Kind] = Kind.DATA

    def config(self) -> Mapping[str, object]:
        return {"text": self.text}

    def versions(self) -> tuple[str, ...]:
        return self.needs

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        (into / "sub").mkdir()
        (into / "sub" / "rows.txt").write_text(self.text)
        (into / "count.txt").write_text(str(len(self.text)))
        return f"{len(self.text)} letters"


@dataclass(frozen=True)
class MakeTeacher:
    takes: ClassVar[tuple[Kind, ...]] = (Kind.DATA,)
    gives: ClassVar[Kind] = Kind.TEACHER

    def config(self) -> Mapping[str, object]:
        return {}

    def versions(self) -> tuple[str, ...]:
        return ()

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        (into / "teacher.txt").write_text((artifacts[Kind.DATA].path / "sub" / "rows.txt").read_text().upper())
        return ""


@dataclass(frozen=True)
class Hang(MakeTeacher):
    """Writes half of its result, tells so, and waits if the flag file is not there yet."""

    flag: str = ""

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        (into / "half.txt").write_text("half")
        flag = Path(self.flag)
        if not flag.exists():
            flag.touch()
            time.sleep(600)
        (into / "whole.txt").write_text("whole")
        return ""


@dataclass(frozen=True)
class Own(MakeTeacher):
    """Gives another result in every process."""

    def run(self, artifacts: Artifacts, into: Path, /) -> str:
        time.sleep(0.2)
        (into / "pid.txt").write_text(str(os.getpid()))
        return ""


def main(root: str, which: str, flag: str) -> None:
    stage = Hang(flag=flag) if which == "hang" else Own()
    if which == "own":
        while not Path(flag).exists():  # the starting gun of the test
            time.sleep(0.001)
    recorder = Recorder()
    made = run_stages([MakeData(), stage], cache=Cache(Path(root)), seed=0, progress=recorder)
    texts = {path.name: path.read_text() for path in sorted(made[Kind.TEACHER].path.iterdir())}
    json.dump({"digest": made[Kind.TEACHER].digest, "texts": texts, "events": recorder.events}, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
