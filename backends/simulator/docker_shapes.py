"""Docker's JSON: what a container, an image, an engine looks like in its API."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

from backends.simulator.containers import SimContainer, Spec
from backends.simulator.world import rfc3339

Json = dict[str, Any]

VERSION = "28.5.1"
API_VERSION = "1.51"
MIN_API_VERSION = "1.44"
IMAGE_CREATED = 1793000000


def digest(text: str) -> str:
    """A content address."""
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def version() -> Json:
    """/version."""
    return {
        "Platform": {"Name": "Docker Engine - Community"},
        "Components": [{"Name": "Engine", "Version": VERSION, "Details": {"ApiVersion": API_VERSION}}],
        "Version": VERSION, "ApiVersion": API_VERSION, "MinAPIVersion": MIN_API_VERSION,
        "GitCommit": "f8215cc", "GoVersion": "go1.24.8", "Os": "linux", "Arch": "amd64",
        "KernelVersion": "6.8.0-85-generic", "BuildTime": "2025-10-08T12:17:26.000000000+00:00",
    }  # fmt: skip


def info(name: str, containers: list[SimContainer], memory_mib: float, gpu: bool) -> Json:
    """/info, the parts a console reads."""
    running = sum(c.running for c in containers)
    runtimes: Json = {"runc": {"path": "runc"}}
    if gpu:
        runtimes["nvidia"] = {"path": "nvidia-container-runtime"}
    return {
        "ID": hashlib.sha256(name.encode()).hexdigest()[:32], "Name": name, "Containers": len(containers),
        "ContainersRunning": running, "ContainersPaused": 0, "ContainersStopped": len(containers) - running,
        "Images": len({c.spec.image for c in containers}), "Driver": "overlay2", "ServerVersion": VERSION,
        "OperatingSystem": "Ubuntu 24.04.3 LTS", "OSType": "linux", "Architecture": "x86_64", "NCPU": 16,
        "MemTotal": int(memory_mib * 2**20), "DockerRootDir": "/var/lib/docker", "Runtimes": runtimes,
        "DefaultRuntime": "runc", "LiveRestoreEnabled": False, "CgroupDriver": "systemd", "Warnings": None,
    }  # fmt: skip


def _ports(c: SimContainer) -> Json:
    """Published ports as inspect has them; listed only while it runs."""
    if c.program is None or not c.running:
        return {}
    port = str(c.program.server.port)
    return {f"{c.spec.inner_port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]}


def _mounts(c: SimContainer) -> list[Json]:
    return [
        {
            "Type": "bind" if source.startswith("/") else "volume",
            "Name": source, "Source": source if source.startswith("/") else f"/var/lib/docker/volumes/{source}/_data",
            "Destination": target, "Driver": "local", "Mode": "", "RW": True, "Propagation": "",
        }
        for source, target in c.spec.volumes.items()
    ]  # fmt: skip


def _age(seconds: float) -> str:
    """Docker's words for how long ago."""
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return f"{int(seconds)} seconds"
    if seconds < 3600:
        minutes = int(seconds / 60)
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    return f"{int(seconds / 3600)} hours"


def status(c: SimContainer) -> str:
    """The sentence of `docker ps`."""
    if c.state == "restarting":
        return f"Restarting ({c.exit_code}) {_age(time.time() - c.finished)} ago"
    if c.running:
        health = {None: "", "starting": " (health: starting)"}.get(c.health, f" ({c.health})")
        return f"Up {_age(time.time() - c.started)}{health}"
    if c.state == "created":
        return "Created"
    return f"Exited ({c.exit_code}) {_age(time.time() - c.finished)} ago"


def listed(c: SimContainer) -> Json:
    """One entry of /containers/json."""
    ports = [
        {"IP": p["HostIp"], "PrivatePort": int(inner.split("/")[0]), "PublicPort": int(p["HostPort"]), "Type": "tcp"}
        for inner, published in _ports(c).items()
        for p in published
    ]  # fmt: skip
    return {
        "Id": c.id, "Names": [f"/{c.name}"], "Image": c.spec.image, "ImageID": digest(c.spec.image),
        "Command": " ".join(c.spec.command) or "/app/llama-server", "Created": int(c.created), "Ports": ports,
        "Labels": c.spec.labels, "State": c.state, "Status": status(c),
        "HostConfig": {"NetworkMode": "bridge"}, "NetworkSettings": {"Networks": {"bridge": {}}},
        "Mounts": _mounts(c),
    }  # fmt: skip


def device_requests(c: SimContainer) -> list[Json] | None:
    """What --gpus all makes of it."""
    if not c.spec.gpu:
        return None
    return [{"Driver": "", "Count": -1, "DeviceIDs": None, "Capabilities": [["gpu"]], "Options": {}}]


def inspected(c: SimContainer) -> Json:
    """/containers/ID/json."""
    state: Json = {
        "Status": c.state, "Running": c.running, "Paused": False, "Restarting": c.state == "restarting",
        "OOMKilled": c.oom_killed, "Dead": False, "Pid": 4242 if c.running else 0,
        "ExitCode": c.exit_code, "Error": c.error, "StartedAt": rfc3339(c.started),
        "FinishedAt": rfc3339(c.finished),
    }  # fmt: skip
    if c.health is not None:
        streak = 3 if c.health == "unhealthy" else 0
        state["Health"] = {"Status": c.health, "FailingStreak": streak, "Log": []}
    check = {"Healthcheck": {"Test": ["CMD-SHELL", "curl -f http://localhost/health"]}} if c.spec.healthcheck else {}
    environment = [f"{k}={v}" for k, v in c.spec.environment.items()]
    binds = [f"{source}:{target}" for source, target in c.spec.volumes.items()]
    bindings = {}
    if c.program is not None:
        bindings = {f"{c.spec.inner_port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(c.program.server.port)}]}
    policy = {"RestartPolicy": {"Name": c.spec.restart, "MaximumRetryCount": 0}}
    told = {key: value for key, value in c.spec.raw.items() if value is not None}
    host = told.pop("HostConfig", {})
    told.pop("NetworkingConfig", None)
    return {
        "Id": c.id, "Created": rfc3339(c.created), "Path": "/app/llama-server", "Args": c.spec.command,
        "State": state, "Image": digest(c.spec.image), "Name": f"/{c.name}", "RestartCount": c.restarts,
        "Driver": "overlay2", "Platform": "linux", "LogPath": f"/var/lib/docker/containers/{c.id}.log",
        "HostConfig": {
            "Binds": binds or None, "NetworkMode": "bridge", "PortBindings": bindings, "AutoRemove": False,
            "Runtime": "runc", "DeviceRequests": device_requests(c), "Memory": 0, "IpcMode": "private",
            "Privileged": False, "LogConfig": {"Type": "json-file", "Config": {}},
        } | ({"Binds": None} if host.get("Mounts") else {}) | host | policy,
        "Mounts": _mounts(c),
        "Config": check | {
            "Hostname": c.id[:12], "User": "", "Tty": False, "OpenStdin": False, "Env": environment,
            "Cmd": c.spec.command or None, "Image": c.spec.image, "WorkingDir": "/app", "Entrypoint": None,
            "Labels": c.spec.labels, "ExposedPorts": {f"{c.spec.inner_port}/tcp": {}},
        } | told,
        "NetworkSettings": {
            "Ports": _ports(c), "IPAddress": "172.17.0.2" if c.running else "",
            "Networks": {"bridge": {"IPAddress": "172.17.0.2" if c.running else "", "Gateway": "172.17.0.1"}},
        },
    }  # fmt: skip


def volume(name: str, labels: dict[str, str]) -> Json:
    """/volumes/NAME."""
    return {
        "Name": name, "Driver": "local", "Mountpoint": f"/var/lib/docker/volumes/{name}/_data",
        "CreatedAt": "2026-10-02T08:08:15Z", "Labels": labels, "Scope": "local", "Options": {},
    }  # fmt: skip


def pulled(name: str) -> list[bytes]:
    """What a pull says, line after line."""
    repository, _, tag = name.rpartition(":")
    total = 1 << 20
    said: list[Json] = [{"status": f"Pulling from {repository}", "id": tag}]
    said += [
        {"status": "Downloading", "progressDetail": {"current": total * n // 4, "total": total}, "id": "a1b2c3d4e5f6"}
        for n in range(5)
    ]
    said += [{"status": f"Status: Downloaded newer image for {name}"}]
    return [json.dumps(each).encode() + b"\r\n" for each in said]


def spec_of(name: str, body: Json) -> Spec:
    """A container as /containers/create is told of it."""
    host = body.get("HostConfig") or {}
    mounts = {str(m["Source"]): str(m["Target"]) for m in host.get("Mounts") or () if m.get("Type") == "volume"}
    mounts |= {str(b).split(":")[0]: str(b).split(":")[1] for b in host.get("Binds") or ()}
    ports = [(inner, b) for inner, bindings in (host.get("PortBindings") or {}).items() for b in bindings]
    return Spec(
        name,
        str(body.get("Image", "")),
        gpu=bool(host.get("DeviceRequests")),
        restart=(host.get("RestartPolicy") or {}).get("Name") or "no",
        labels=dict(body.get("Labels") or {}),
        environment=dict(pair.partition("=")[::2] for pair in body.get("Env") or ()),
        command=list(body.get("Cmd") or []),
        volumes=mounts,
        inner_port=int(ports[0][0].partition("/")[0]) if ports else 8080,
        published=int(ports[0][1].get("HostPort") or 0) if ports else 0,
        healthcheck=bool((body.get("Healthcheck") or {}).get("Test", ["NONE"])[0] != "NONE"),
        raw=body,
    )


def image_listed(name: str) -> Json:
    """One entry of /images/json."""
    return _image_names(name) | {
        "ParentId": "", "Created": IMAGE_CREATED, "Size": 2684354560, "SharedSize": -1,
        "Containers": -1, "Labels": None,
    }  # fmt: skip


def image_inspected(name: str) -> Json:
    """/images/NAME/json."""
    return _image_names(name) | {
        "Parent": "", "Comment": "", "Created": rfc3339(IMAGE_CREATED), "Author": "", "Architecture": "amd64",
        "Os": "linux", "Size": 2684354560, "Config": {"Labels": None, "Env": None, "Entrypoint": None},
        "RootFS": {"Type": "layers", "Layers": [digest(f"{name}#layer")]},
    }  # fmt: skip


def _image_names(name: str) -> Json:
    repository, _, tag = name.partition(":")
    names = {"RepoTags": [f"{repository}:{tag or 'latest'}"], "RepoDigests": [f"{repository}@{digest(name + '@')}"]}
    return {"Id": digest(name), **names}


def stats(c: SimContainer, memory_mib: float) -> Json:
    """One sample of /containers/ID/stats."""
    now = time.time()
    cpu = {
        "cpu_usage": {"total_usage": int((now - c.started) * 2e8), "usage_in_usermode": 0},
        "system_cpu_usage": int(now * 1.6e10), "online_cpus": 16,
    }  # fmt: skip
    return {
        "id": c.id, "name": f"/{c.name}", "read": rfc3339(now), "preread": rfc3339(now - 1), "num_procs": 0,
        "pids_stats": {"current": 17 if c.running else 0}, "cpu_stats": cpu, "precpu_stats": cpu,
        "memory_stats": {"usage": 912680550, "limit": int(memory_mib * 2**20), "stats": {}},
        "networks": {"eth0": {"rx_bytes": 5338, "tx_bytes": 648}}, "blkio_stats": {},
    }  # fmt: skip


def event(kind: str, action: str, actor: str, attributes: dict[str, str], at: float) -> Json:
    """One line of /events."""
    data: Json = {
        "Type": kind, "Action": action, "Actor": {"ID": actor, "Attributes": attributes}, "scope": "local",
        "time": int(at), "timeNano": int(at * 1e9),
    }  # fmt: skip
    return data | ({"status": action, "id": actor, "from": attributes.get("image", "")} if kind == "container" else {})
