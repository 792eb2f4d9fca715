#!/bin/bash
# Makes a folder that runs Python, onnxruntime and LiteRT of aarch64 under qemu user mode: setup.sh FOLDER
# Debian 12 packages are unpacked there; nothing is installed. About 25 MB of qemu source is read for one header.
set -e
here=$(dirname "$(realpath "$0")")
folder=$(realpath -m "$1")
mkdir -p "$folder"/{apt/lists/partial,apt/cache/archives/partial,apt/sources,debs,host,guest/proc,site}
cd "$folder"
mirror=$(sed -n 's/^URIs: //p' /etc/apt/sources.list.d/*.sources | grep -m1 -E '/debian$')
printf 'Types: deb deb-src\nURIs: %s\nSuites: bookworm\nComponents: main\nSigned-By: %s\n' "$mirror" \
    /usr/share/keyrings/debian-archive-keyring.gpg > apt/sources/debian.sources
: > apt/status
cat > apt/conf <<X
APT::Architecture "arm64"; APT::Architectures { "arm64"; "amd64"; }; Acquire::Languages "none"; APT::Sandbox::User "root";
Dir::State "$folder/apt"; Dir::State::Lists "$folder/apt/lists"; Dir::State::status "$folder/apt/status";
Dir::Cache "$folder/apt/cache"; Dir::Etc::sourcelist "/dev/null"; Dir::Etc::sourceparts "$folder/apt/sources";
Dir::Etc::parts "/dev/null";
X
export APT_CONFIG=$folder/apt/conf
apt-get update -qq
cd debs
apt-get source -qq --download-only qemu
tar xf qemu_*.orig.tar.xz --wildcards '*/include/qemu/qemu-plugin.h' --strip-components=3
host=$(printf '%s:amd64 ' qemu-user libcapstone4 liburing2 libglib2.0-0 libpcre2-8-0 libnuma1 libgnutls30 libp11-kit0 \
    libidn2-0 libunistring2 libtasn1-6 libnettle8 libhogweed6 libgmp10 libffi8 zlib1g libgcc-s1 libc6)
apt-get download -qq $host
for package in *_amd64.deb; do dpkg -x "$package" ../host; done
apt-get download -qq libc6 libgcc-s1 libstdc++6 zlib1g libpython3.11-minimal python3.11-minimal libpython3.11-stdlib \
    libexpat1 libffi8 libbz2-1.0 liblzma5 libssl3
for package in *_arm64.deb; do dpkg -x "$package" ../guest; done
cd ..
unset APT_CONFIG
pip download -q --no-deps --only-binary=:all: --implementation cp --python-version 3.11 --abi cp311 \
    --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 -d wheels numpy onnxruntime==1.31.1 ai-edge-litert==2.3.0
for wheel in wheels/*.whl; do python3 -m zipfile -e "$wheel" site; done
gcc -O2 -shared -fPIC -Idebs -o libcount.so "$here/count.c"
