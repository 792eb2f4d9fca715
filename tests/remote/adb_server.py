"""An adb server with one device, by the protocol of adb's SERVICES.TXT and SYNC.TXT, for the real client to talk to.

The device is this machine: its commands are run here, with ``/data/local/tmp`` replaced by a folder of the test.
"""

import contextlib
import os
import re
import socketserver
import struct
import subprocess
import threading
from pathlib import Path

HOME = b"/data/local/tmp"
FEATURES = b"shell_v2,cmd"
STDOUT, STDERR, EXIT = 1, 2, 3
CHUNK = 64 << 10


class Device(socketserver.ThreadingTCPServer):
    """Listens on a free port of the loopback.

    Attributes:
        folder: Stands for ``/data/local/tmp``.
        serial: Of the device.
        state: What is wrong with it, in adb's words; empty for a device that works.
        features: What it can do.
        damage: A file name whose content is changed on its way.
        commands: Every shell command that came.
        unplug: Cut the connection instead of running a command that contains this; may be empty.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, folder: Path, serial: str = "PHONE-1") -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.folder, self.serial = folder, serial
        self.state, self.features, self.damage, self.unplug = "", FEATURES, "", ""
        self.commands: list[str] = []

    @property
    def port(self) -> int:
        return self.server_address[1]

    def here(self, text: bytes) -> bytes:
        return text.replace(HOME, os.fsencode(self.folder))


@contextlib.contextmanager
def running_device(folder: Path):
    with Device(folder) as device:
        thread = threading.Thread(target=device.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield device
        finally:
            device.shutdown()
            thread.join()


class _Session(socketserver.StreamRequestHandler):
    """One connection of a client: requests of four hexadecimal digits of length and a name."""

    server: Device

    def handle(self):
        while head := self.rfile.read(4):
            request = self.rfile.read(int(head, 16))
            if request == b"host:version":
                return self._okay(_counted(b"0029"))  # 41
            wanted = re.search(rb"(?:transport|tport:serial|host-serial):([^:]*)(?::features)?$", request)
            trouble = self.server.state
            if wanted and wanted[1].decode() != self.server.serial:
                trouble = trouble or f"device '{wanted[1].decode()}' not found"
            if trouble:
                return self._fail(trouble)
            if request.endswith(b":features"):
                return self._okay(_counted(self.server.features))
            if request.startswith((b"host:tport:", b"host:transport")):
                self._okay(struct.pack("<Q", 1) if b"tport" in request else b"")
            elif request.startswith(b"shell,v2"):
                return self._shell(request.partition(b":")[2])
            elif request == b"sync:":
                self._okay()
                return self._sync()
            else:
                return self._fail(f"unknown service {request!r}")
        return None

    def _okay(self, more=b""):
        self.wfile.write(b"OKAY" + more)

    def _fail(self, why):
        self.wfile.write(b"FAIL" + _counted(why.encode()))

    def _shell(self, command):
        self.server.commands.append(command.decode())
        if self.server.unplug and self.server.unplug in command.decode():
            return
        self._okay()
        done = subprocess.run(["sh", "-c", self.server.here(command)], capture_output=True, check=False)
        for stream, data in ((STDOUT, done.stdout), (STDERR, done.stderr), (EXIT, bytes([done.returncode & 255]))):
            for start in range(0, len(data), CHUNK):
                part = data[start : start + CHUNK]
                self.wfile.write(struct.pack("<BI", stream, len(part)) + part)

    def _sync(self):
        while head := self.rfile.read(8):
            kind, length = struct.unpack("<4sI", head)
            if kind == b"QUIT":
                return
            name = self.server.here(self.rfile.read(length))
            {b"STAT": self._stat, b"SEND": self._receive, b"RECV": self._give}[kind](name)

    def _stat(self, name):
        try:
            found = Path(os.fsdecode(name)).stat()
            self.wfile.write(struct.pack("<4sIII", b"STAT", found.st_mode, found.st_size, int(found.st_mtime)))
        except OSError:
            self.wfile.write(struct.pack("<4sIII", b"STAT", 0, 0, 0))

    def _receive(self, request):
        path = Path(os.fsdecode(request.rpartition(b",")[0]))
        data = b""
        while (head := struct.unpack("<4sI", self.rfile.read(8)))[0] == b"DATA":
            data += self.rfile.read(head[1])
        if path.name == self.server.damage:
            data = data[:-1] + bytes([data[-1] ^ 1])
        try:
            path.write_bytes(data)
            self.wfile.write(struct.pack("<4sI", b"OKAY", 0))
        except OSError as error:
            why = f"couldn't create file: {error.strerror}".encode()
            self.wfile.write(struct.pack("<4sI", b"FAIL", len(why)) + why)

    def _give(self, name):
        data = Path(os.fsdecode(name)).read_bytes()
        for start in range(0, len(data), CHUNK):
            part = data[start : start + CHUNK]
            self.wfile.write(struct.pack("<4sI", b"DATA", len(part)) + part)
        self.wfile.write(struct.pack("<4sI", b"DONE", 0))


def _counted(data):
    return b"%04x" % len(data) + data
