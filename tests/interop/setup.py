#!/usr/bin/env python3
"""Installs the clients of others that the tests let talk to Tickwire, under .tools/clients.

All are pinned by release and checksum. Whatever cannot be had is named, and its test says that it is
skipped: nothing else needs it.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

CLIENTS = Path(__file__).resolve().parent.parent.parent / ".tools" / "clients"

# Name, release, and checksum of the archive.
WEBSOCKETS = ("websockets", "17.4", "c6bd2c9781915592b209160d0f017d4c7c82ad53075e6b0c24d2a89299e7f9e9")
WS = ("ws", "8.23.0", "b8bd105a274ae9ca114f8c6ce4d9dbb0c764fe5118ba633c557e1703e297c587")
# An environment of its own, as it needs others; their releases and checksums are in this list.
SCHEMATHESIS = ("schemathesis", "4.32.5", Path(__file__).with_name("schemathesis.txt"))


class Missing(Exception):
    """Something is not there; the text says what."""


def fetch_wheel(name, release, scratch):
    """The wheel without compiled parts: it is the same everywhere."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-input", "--no-deps", "--only-binary=:all:", "--platform", "any"]
    pip += ["--implementation", "py", "--abi", "none", f"{name}=={release}", "--dest", str(scratch)]
    if subprocess.run(pip, check=False).returncode != 0:
        raise Missing("pip could not fetch it")
    return next(scratch.glob("*.whl"))


def fetch_package(name, release, scratch):
    if shutil.which("npm") is None or shutil.which("node") is None:
        raise Missing("there is no node with npm")
    npm = ["npm", "pack", "--silent", "--pack-destination", str(scratch), f"{name}@{release}"]
    if subprocess.run(npm, check=False, stdout=subprocess.DEVNULL).returncode != 0:
        raise Missing("npm could not fetch it")
    return next(scratch.glob("*.tgz"))


def unpack(archive, into):
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(into)
        return
    with tarfile.open(archive) as package:
        for member in package.getmembers():
            inside = (into / member.name).resolve()
            if not member.isfile() or into.resolve() not in inside.parents:
                raise Missing(f"its archive holds {member.name}, which is no file of its own")
            inside.parent.mkdir(parents=True, exist_ok=True)
            inside.write_bytes(package.extractfile(member).read())


def install(client, fetch):
    name, release, checksum = client
    place = CLIENTS / f"{name}-{release}"
    if place.is_dir():
        return
    CLIENTS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CLIENTS) as scratch:
        scratch = Path(scratch)
        archive = fetch(name, release, scratch)
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != checksum:
            raise Missing(f"its checksum is {found}, not {checksum}")
        unpack(archive, scratch / "whole")
        (scratch / "whole").replace(place)
    print(f"{name} {release} is installed under .tools/clients")


def install_environment(client):
    name, release, pins = client
    place = CLIENTS / f"{name}-{release}"
    python = place / "bin" / "python"
    works = [str(python), "-c", f"import {name}"]
    if python.exists() and subprocess.run(works, check=False, stderr=subprocess.DEVNULL).returncode == 0:
        return
    shutil.rmtree(place, ignore_errors=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    pip += ["--only-binary=:all:", "--require-hashes", "--requirement", str(pins)]
    for step in ([sys.executable, "-m", "venv", str(place)], pip, works):
        if subprocess.run(step, check=False).returncode != 0:
            shutil.rmtree(place, ignore_errors=True)
            raise Missing(f"`{' '.join(step)}` failed")
    print(f"{name} {release} is installed under .tools/clients")


def main():
    steps = (
        (WEBSOCKETS, lambda client: install(client, fetch_wheel)),
        (WS, lambda client: install(client, fetch_package)),
        (SCHEMATHESIS, install_environment),
    )
    for client, step in steps:
        try:
            step(client)
        except (Missing, OSError) as problem:
            print(f"clients: {client[0]} {client[1]} is not there, so its test is skipped: {problem}",
                  file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
