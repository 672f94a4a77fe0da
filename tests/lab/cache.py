"""Where the big pieces are built, and what a test does when one of them is not there."""

import os
import shutil
from pathlib import Path

import pytest

XORGXRDP = Path("/usr/lib/xorg/modules/libxorgxrdp.so")


def cache() -> Path:
    """The folder outside the tree in which setup.sh builds the big pieces."""
    if named := os.environ.get("TIERDECK_LAB_CACHE"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tierdeck-lab"


def llama_python() -> str:
    """The interpreter that has xllamacpp and gguf."""
    return str(cache() / "llama/bin/python")


def root_tar() -> Path:
    """The Debian root with llama.cpp in it, for the container image."""
    return cache() / "image/root.tar"


def missing(part: str) -> str:
    """Why this part cannot be started here, or nothing; a part is one of the names below."""
    files = {
        "docker": [Path(shutil.which("dockerd") or "/usr/sbin/dockerd"), root_tar()],
        "sshd": [Path("/usr/sbin/sshd")],
        "syncthing": [Path("/usr/bin/syncthing")],
        "llamacpp": [Path(llama_python())],
        "litellm": [cache() / "litellm/bin/litellm"],
        "prometheus": [Path(shutil.which(name) or f"/usr/bin/{name}") for name in ("prometheus", "promtool")],
        "rdp": [Path("/usr/sbin/xrdp"), XORGXRDP, *(Path("/usr/bin") / name for name in ("xfreerdp", "Xvfb"))],
        "browser": [Path("/usr/bin/chromium")],
        "nla": [Path("/usr/bin") / name for name in ("freerdp-shadow-cli", "xfreerdp", "Xvfb")],
        "kubernetes": [Path("/usr/bin/etcd"), cache() / "kubernetes/kube-scheduler"],
        "netns": [Path(shutil.which("ip") or "/usr/sbin/ip")],
        "tun": [Path("/dev/net/tun")],
    }[part]
    if part in ("docker", "sshd", "rdp", "netns") and os.geteuid():
        return f"{part} must be started as root"
    builder = "tests/lab/kubernetes/build.sh" if part == "kubernetes" else "tests/lab/setup.sh"
    return next((f"{path} is not there: run {builder}" for path in files if not path.exists()), "")


def require(*parts: str) -> None:
    """Skips the test when a part is missing, and fails it where TIERDECK_LAB=required."""
    for reason in filter(None, map(missing, parts)):
        if os.environ.get("TIERDECK_LAB") == "required":
            pytest.fail(f"the lab is required: {reason}", pytrace=False)
        pytest.skip(reason)
