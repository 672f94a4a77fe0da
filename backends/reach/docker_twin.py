"""What creates a container like another: its settings as Docker inspects them, as Docker wants them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

_NOT_ASKED: Final = ("Hostname", "MacAddress")
"""Settings that Docker fills in by itself, after the id of the container."""

_OWN: Final = (
    "/.dockerenv", "/sbin/docker-init", "/dev/", "/proc/", "/sys/", "/run/", "/tmp/", "/var/log/", "/var/run/",
    "/var/tmp/", "/usr/bin/nvidia", "/usr/lib", "/usr/share/", "/etc/ld.so.cache", "/etc/mtab", "/etc/hosts",
    "/etc/hostname", "/etc/resolv.conf", "/etc/vulkan", "/etc/OpenCL", "/root/.nv", "/root/.cache",
)  # fmt: skip
"""Where files appear in every container, by Docker, by the GPU's hook, or as what may be made anew."""

_ADDED: Final = 1


def hindrance(details: Mapping[str, Any]) -> str:
    """Why no faithful twin can be made of a container, or ""."""
    host = details.get("HostConfig") or {}
    if host.get("AutoRemove"):
        return "it was started with --rm, and is gone once it is stopped"
    if host.get("Links"):
        return "it has --link, which cannot be made again"
    return ""


def body(details: Mapping[str, Any], *, image: str) -> dict[str, Any]:
    """What POST /containers/create takes for a twin, on `image`, with its first network; no secret leaves Docker."""
    config = {key: value for key, value in details["Config"].items() if key not in _NOT_ASKED}
    own = str(details["Config"].get("Hostname", ""))
    if own and not details["Id"].startswith(own):
        config["Hostname"] = own  # a name that somebody gave
    host = {key: value for key, value in details["HostConfig"].items() if key != "ContainerIDFile"}
    host["Binds"] = [*(host.get("Binds") or ()), *_nameless(details)] or None
    first = next(iter(_networks(details)), None)
    joined = {first[0]: first[1]} if first else {}
    return {**config, "Image": image, "HostConfig": host, "NetworkingConfig": {"EndpointsConfig": joined}}


def more_networks(details: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The networks that a twin is connected to after it was created: old Dockers take only one at first."""
    return dict(list(_networks(details))[1:])


def written(changes: object, details: Mapping[str, Any]) -> list[str]:
    """Files that a container wrote outside its volumes and that a twin will not have, of what GET changes lists."""
    listed = [change for change in changes if isinstance(change, dict)] if isinstance(changes, list) else []
    added = [str(change.get("Path")) for change in listed if change.get("Kind") == _ADDED]
    mounted = [mount["Destination"] for mount in details.get("Mounts") or ()]
    mounted += [*((details.get("HostConfig") or {}).get("Tmpfs") or ())]
    own = (*_OWN, *(f"{path}/" for path in mounted))
    folders = {parent for path in (*added, *mounted) for parent in _parents(path)}
    return [path for path in added if path not in folders and not f"{path}/".startswith(own)]


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")
    return ("/".join(parts[:count]) for count in range(2, len(parts)))


def _nameless(details: Mapping[str, Any]) -> list[str]:
    """Volumes that got no name of their own: a twin would get new, empty ones."""
    host = details["HostConfig"]
    named = {bind.split(":")[1] for bind in host.get("Binds") or () if ":" in bind}
    named |= {mount.get("Target") for mount in host.get("Mounts") or ()}
    volumes = [mount for mount in details.get("Mounts") or () if mount.get("Type") == "volume"]
    return [f"{mount['Name']}:{mount['Destination']}" for mount in volumes if mount["Destination"] not in named]


def _networks(details: Mapping[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    """Each network with the settings that somebody gave it; the network of the mode first."""
    mode = str(details["HostConfig"].get("NetworkMode", ""))
    networks = (details.get("NetworkSettings") or {}).get("Networks") or {}
    for name in sorted(networks, key=lambda name: name != mode):
        if name in ("bridge", "host", "none") or mode.startswith("container:"):
            continue  # nothing can be set there
        told = networks[name] or {}
        aliases = [alias for alias in told.get("Aliases") or () if not details["Id"].startswith(alias)]
        kept = {key: told[key] for key in ("IPAMConfig", "Links", "DriverOpts") if told.get(key)}
        yield name, {**kept, **({"Aliases": aliases} if aliases else {})}
