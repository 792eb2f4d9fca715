"""The table of files, fetching them from real but local mirrors, and a setup that is cut off."""

import hashlib
import re
import shutil
import subprocess
import zipfile

import pytest

from edgekit.emulator import fetch, home, setup
from edgekit.emulator.fetch import fetch_packages, fetch_wheels, lacking, mirrors, require_clients
from edgekit.emulator.home import Home
from edgekit.emulator.pins import PARTS, Pin, Pins, parse_pins, read_pins
from edgekit.emulator.setup import prepare, remove
from edgekit.versions import requirements
from edgekit_runtime.errors import MissingError, UsageError

needs_apt = pytest.mark.skipif(
    shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None, reason="there is no apt here"
)
ARCHIVE = "http://archive.invalid/debian"


@pytest.mark.parametrize("pin", read_pins().rows, ids=lambda pin: pin.file)
def test_every_file_is_pinned(pin):
    assert re.fullmatch(r"[0-9a-f]{64}", pin.sha256)
    assert re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", pin.name)
    assert re.match(r"\d", pin.version)
    assert pin.size > 1000
    wanted = {"qemu": "amd64", "aarch64": "arm64|.*_aarch64", "armv7": "armhf|.*_armv7l"}
    assert re.fullmatch(wanted[pin.part], pin.arch)


def test_names_of_pins_are_told_from_file_names():
    pin = Pin(part="qemu", place="pool/main/q/qemu/qemu-user_7.2+dfsg-7_amd64.deb", size=1, sha256="0" * 64)
    assert (pin.name, pin.version, pin.arch, pin.is_wheel) == ("qemu-user", "7.2+dfsg-7", "amd64", False)
    pin = Pin(part="aarch64", place="ai_edge_litert-2.3.0-cp311-cp311-x_aarch64.whl", size=1, sha256="0" * 64)
    assert (pin.name, pin.version, pin.arch, pin.is_wheel) == ("ai-edge-litert", "2.3.0", "x_aarch64", True)


def test_no_file_is_pinned_twice_and_each_part_has_what_it_stands_on():
    names = [(pin.part, pin.name) for pin in read_pins().rows]
    assert len(set(names)) == len(names)
    assert set(names) >= {("qemu", "qemu-user"), *((part, "libc6") for part in PARTS)}
    assert {part for part, name in names if name == "python3.11-minimal"} == {"aarch64", "armv7"}


def test_emulated_engines_are_those_that_a_build_is_made_with():
    built = {need.name: need.versions for need in requirements("edgekit") if need.extra == "build"}
    pinned = {pin.name: f"=={pin.version}" for pin in read_pins().of("aarch64") if pin.is_wheel}
    assert {name: built[name] for name in ("onnxruntime", "ai-edge-litert")}.items() <= pinned.items()


@pytest.mark.parametrize("sha256", ["", "0" * 63, "g" * 64, "A" * 64])
def test_a_row_without_a_right_sha256_is_refused(sha256):
    row = f'{{ part = "qemu", path = "a_1_all.deb", bytes = 5, sha256 = "{sha256}" }}'
    text = f'archive = "x"\npackages = [{row}]\nwheels = []'
    with pytest.raises(ValueError, match=r"a_1_all\.deb"):
        parse_pins(text)


def test_the_digest_of_a_part_follows_its_own_rows():
    rows = tuple(
        Pin(part=part, place=f"{part}_1_all.deb", size=5, sha256=digit * 64)
        for part, digit in (("qemu", "1"), ("armv7", "2"))
    )
    one, other = Pins(archive="x", rows=rows), Pins(archive="y", rows=(rows[0], *rows[:0]))
    assert one.digest("qemu") == other.digest("qemu")
    assert one.digest("armv7") != other.digest("armv7")


def test_without_apt_the_way_by_a_container_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match="apt-get, apt-config, dpkg-deb") as raised:
        prepare(("aarch64",), home=Home(tmp_path / "home"), mirror=None, tell=print)
    assert raised.value.code == "E0670"
    assert "docker run" in raised.value.fix
    assert "python:3.11-bookworm" in raised.value.fix
    assert "edgekit emulator setup" in raised.value.fix


@needs_apt
@pytest.mark.parametrize(
    ("uri", "wanted"),
    [
        ("http://mirror.invalid/debian/", ("http://mirror.invalid/debian", ARCHIVE)),
        ("http://mirror.invalid/ubuntu", None),
    ],
)
def test_the_mirror_is_that_of_the_hosts_apt(monkeypatch, tmp_path, uri, wanted):
    lines = f"Types: deb\nURIs: {uri}\nSuites: some\nComponents: main\n"
    (tmp_path / "a.sources").write_text(lines, encoding="utf-8")
    config = tmp_path / "config"
    config.write_text(f'Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "{tmp_path}";\n', encoding="utf-8")
    monkeypatch.setenv("APT_CONFIG", str(config))
    monkeypatch.setattr(fetch, "read_pins", lambda: Pins(archive=ARCHIVE, rows=()))
    if wanted is not None:
        assert mirrors(None) == wanted
        return
    with pytest.raises(MissingError) as raised:
        mirrors(None)
    assert raised.value.code == "E0673"


def make_pin(folder, name, content, *, part="qemu"):
    """Put a file on a mirror, and give its pin."""
    path = folder / "pool" / f"{name}_1+1_all.deb"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Pin(part=part, place=f"pool/{path.name}", size=len(content), sha256=hashlib.sha256(content).hexdigest())


@needs_apt
def test_packages_come_from_the_first_mirror_that_has_them(tmp_path):
    first, second, here = (tmp_path / name for name in ("first", "second", "here"))
    here.mkdir()
    pins = [make_pin(first, "a", b"aaaa"), make_pin(second, "b", b"bbbb")]
    fetch_packages(pins, here, [f"file://{first}", f"file://{second}"])
    assert {path.name: path.read_bytes() for path in here.iterdir()} == {
        "a_1+1_all.deb": b"aaaa",
        "b_1+1_all.deb": b"bbbb",
    }


@needs_apt
def test_a_package_that_no_mirror_has_is_named(tmp_path):
    pin = make_pin(tmp_path / "mirror", "a", b"aaaa")
    (tmp_path / "mirror" / pin.place).unlink()
    with pytest.raises(MissingError, match=re.escape(pin.file)) as raised:
        fetch_packages([pin], tmp_path, [f"file://{tmp_path / 'mirror'}"])
    assert raised.value.code == "E0675"
    assert "--mirror" in raised.value.fix


@needs_apt
def test_a_package_with_another_content_is_refused(tmp_path):
    mirror, here = tmp_path / "mirror", tmp_path / "here"
    here.mkdir()
    pin = make_pin(mirror, "a", b"aaaa")
    (mirror / pin.place).write_bytes(b"aaab")
    with pytest.raises(MissingError, match="is not the file") as raised:
        fetch_packages([pin], here, [f"file://{mirror}"])
    assert raised.value.code == "E0674"
    assert list(here.iterdir()) == []


@needs_apt
@pytest.mark.parametrize("planted", ["a_1+1_all.deb", "a_1+1_all.deb.part"])
def test_a_half_file_of_a_killed_fetch_is_fetched_again(tmp_path, planted):
    pin = make_pin(tmp_path / "mirror", "a", b"aaaa" * 1000)
    (tmp_path / planted).write_bytes(b"aaaa" * 500)
    fetch_packages([pin], tmp_path, [f"file://{tmp_path / 'mirror'}"])
    assert (tmp_path / pin.file).read_bytes() == b"aaaa" * 1000
    assert not (tmp_path / f"{pin.file}.part").exists()


def test_a_whole_file_of_a_killed_fetch_is_taken_over(tmp_path):
    pin = make_pin(tmp_path / "mirror", "a", b"aaaa")
    (tmp_path / f"{pin.file}.part").write_bytes(b"aaaa")
    assert lacking([pin], tmp_path) == ()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == [pin.file]


def write_wheel(folder, version):
    path = folder / f"edgekit_nothing-{version}-cp311-cp311-manylinux_2_28_aarch64.whl"
    info = f"edgekit_nothing-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: edgekit-nothing\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp311-cp311-manylinux_2_28_aarch64\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


def test_wheels_for_another_machine_are_fetched_and_checked(tmp_path, monkeypatch):
    index, here = tmp_path / "index", tmp_path / "here"
    index.mkdir()
    here.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    path = write_wheel(index, "1.0")
    content = path.read_bytes()
    right = Pin(part="aarch64", place=path.name, size=len(content), sha256=hashlib.sha256(content).hexdigest())
    fetch_wheels([right], here)
    assert [file.name for file in here.iterdir()] == [path.name]
    (here / path.name).unlink()
    with pytest.raises(MissingError) as raised:
        fetch_wheels([Pin(part="aarch64", place=path.name, size=len(content), sha256="0" * 64)], here)
    assert raised.value.code == "E0674"
    assert not (here / path.name).exists()
    with pytest.raises(MissingError) as raised:
        fetch_wheels([Pin(part="aarch64", place=path.name.replace("1.0", "1.1"), size=9, sha256="0" * 64)], here)
    assert raised.value.code == "E0676"


def pack_deb(folder, name, files):
    """Build a real Debian package; give its bytes."""
    tree = folder / name
    (tree / "DEBIAN").mkdir(parents=True)
    control = (
        f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody <nobody@invalid.example>\nDescription: x\n"
    )
    (tree / "DEBIAN" / "control").write_text(control, encoding="utf-8")
    for file in files:
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        (tree / file).write_text(file, encoding="utf-8")
    subprocess.run(["dpkg-deb", "--build", tree, folder / f"{name}.deb"], check=True, capture_output=True)
    return (folder / f"{name}.deb").read_bytes()


@pytest.fixture
def small_table(tmp_path, monkeypatch):
    """A table whose part for this machine is two small packages, on a local mirror."""
    mirror, build = tmp_path / "mirror", tmp_path / "build"
    first = pack_deb(build, "first", ["usr/bin/qemu-aarch64", "usr/bin/qemu-alpha", "usr/share/doc/x"])
    pins = (make_pin(mirror, "first", first), make_pin(mirror, "second", pack_deb(build, "second", ["usr/lib/y"])))
    for module in (fetch, home, setup):
        monkeypatch.setattr(module, "read_pins", lambda: Pins(archive=f"file://{tmp_path / 'archive'}", rows=pins))
    monkeypatch.setattr(setup, "_COMPILERS", ())
    return mirror, pins


@needs_apt
def test_a_setup_that_was_cut_off_goes_on(tmp_path, small_table):
    mirror, (first, second) = small_table
    place, lines = Home(tmp_path / "emulator"), []
    content = (mirror / second.place).read_bytes()
    (mirror / second.place).unlink()
    with pytest.raises(MissingError, match="second"):
        prepare((), home=place, mirror=f"file://{mirror}", tell=lines.append)
    assert lines[0].startswith("qemu: fetches 2 files")
    assert not place.is_ready("qemu")
    assert (place.downloads / first.file).is_file()
    (mirror / second.place).write_bytes(content)
    (mirror / first.place).unlink()  # it is not asked for again
    lines.clear()
    prepare((), home=place, mirror=f"file://{mirror}", tell=lines.append)
    assert lines[0].startswith("qemu: fetches 1 files")
    assert "1 are here from an earlier setup" in lines[0]
    assert place.is_ready("qemu")
    found = {path.relative_to(place.root).as_posix() for path in place.part("qemu").rglob("*") if path.is_file()}
    assert found == {"qemu/usr/bin/qemu-aarch64", "qemu/usr/lib/y", "qemu/ready.json"}
    assert not place.downloads.exists()
    assert any("instructions will not be counted" in line and "apt install gcc" in line for line in lines)
    lines.clear()
    prepare((), home=place, mirror="file:///nowhere", tell=lines.append)  # nothing is left to fetch
    assert place.is_ready("qemu")


@needs_apt
def test_a_part_is_made_again_when_the_table_changes(tmp_path, small_table, monkeypatch):
    mirror, pins = small_table
    place = Home(tmp_path / "emulator")
    prepare((), home=place, mirror=f"file://{mirror}", tell=lambda _: None)
    monkeypatch.setattr(home, "read_pins", lambda: Pins(archive="x", rows=pins[:1]))
    assert not place.is_ready("qemu")


@needs_apt
def test_removed_means_gone(tmp_path, small_table):
    mirror, _ = small_table
    place = Home(tmp_path / "emulator")
    prepare((), home=place, mirror=f"file://{mirror}", tell=lambda _: None)
    remove(place)
    assert not place.root.exists()
    remove(place)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError) as raised:
        prepare((), home=Home(tmp_path / "file" / "emulator"), mirror=None, tell=print)
    assert raised.value.code == "E0162"


@needs_apt
def test_another_processor_is_told_to_run_the_self_test_itself(monkeypatch):
    import os

    machine = os.uname_result(("Linux", "host", "6.1", "#1", "aarch64"))
    monkeypatch.setattr(os, "uname", lambda: machine)
    with pytest.raises(MissingError, match="not on Linux aarch64") as raised:
        require_clients()
    assert raised.value.code == "E0672"
    assert "selftest" in raised.value.fix
