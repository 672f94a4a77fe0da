"""Where things lie: the person's configuration, our state, per the XDG rules of each system."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def cluster_file(given: str | None, environment: Mapping[str, str]) -> Path:
    """The cluster.toml to use: the one given, else TIERDECK_CLUSTER, else the one in the configuration directory."""
    named = given or environment.get("TIERDECK_CLUSTER")
    return Path(os.path.expanduser(named)).absolute() if named else config_dir() / "cluster.toml"


def config_dir() -> Path:
    """Where cluster.toml and config.toml lie."""
    from platformdirs import user_config_path

    return user_config_path("tierdeck", appauthor=False)


def state_path(environment: Mapping[str, str]) -> Path:
    """Where journals, locks and learned figures lie, or will lie; TIERDECK_STATE overrides it."""
    from platformdirs import user_state_path

    named = environment.get("TIERDECK_STATE")
    return Path(os.path.expanduser(named)).absolute() if named else user_state_path("tierdeck", appauthor=False)


def state_dir(environment: Mapping[str, str]) -> Path:
    """The state directory, for our eyes only (0700), made if missing."""
    path = state_path(environment)
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.chmod(path, 0o700)
    return path


def private_copy(path: Path, text: str) -> None:
    """Write `text` to `path` at once and for our eyes only."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f"{path.name}.{os.getpid()}.new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(fresh, path)
