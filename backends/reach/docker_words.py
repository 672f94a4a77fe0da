"""Docker's answers in our vocabulary: payloads to workloads and events, refusals to advice. Pure, and lenient."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeGuard

from backends.cluster.launch import launch
from backends.cluster.reading import Launch, Workload
from backends.errors import RuntimeFailure
from backends.reach.runtime import RuntimeEvent
from backends.reach.streams import clean, first_words
from backends.text import plain

KIND: Final = "docker"

_STATES: Final = frozenset({"created", "running", "restarting", "paused", "exited", "dead"})
_GPU_DEVICES: Final = ("/dev/kfd", "/dev/dri", "/dev/nvidia")
_SECRET: Final = re.compile(r"key|token|passw|secret|credential", re.IGNORECASE)

MOST_WORDS: Final = 200
"""Arguments and mounts of one container that are read."""

BLOT: Final = "***"
"""What stands for a secret in an argument."""

_NO_GPU: Final = frozenset({"", "void", "none"})

_ADVICE: Final = (
    (
        "could not select device driver",
        "Install nvidia-container-toolkit on {node}, then: nvidia-ctk runtime configure --runtime=docker, and restart "
        "Docker.",
    ),
    (
        "port is already allocated",
        "Another container holds that port: see `docker ps` on {node}, and stop one of both.",
    ),
    ("address already in use", "Another program holds that port on {node}: see `ss -ltnp` there."),
    ("no space left", "Free disk space on {node}: docker system df."),
    ("permission denied", "Let the user use Docker: sudo usermod -aG docker USER on {node}, then log in anew."),
    ("client version", "Docker on {node} was changed meanwhile; the next try agrees on a version anew."),
    ("cannot start a paused container", "docker unpause it on {node}."),
    ("nvidia-container-cli", "The GPU driver of {node} does not answer: nvidia-smi there; often a reboot is needed."),
    (
        "cannot connect to the docker daemon",
        "Start Docker on {node}: sudo systemctl start docker (Docker Desktop runs only while somebody is logged in).",
    ),
    (
        "failed to open the raw stream connection",
        "Start Docker on {node}: sudo systemctl start docker (Docker Desktop runs only while somebody is logged in).",
    ),
    ("context not found", "See `docker context ls` on {node}, and correct docker.context in cluster.toml."),
    ("docker: command not found", "Install Docker on {node}, or say docker = false in cluster.toml."),
    ("not recognized as an internal", "Install Docker on {node}, or say docker = false in cluster.toml."),
)


def workload(payload: object) -> Workload:
    """The workload that one `GET /containers/ID/json` tells of."""
    data, state, host = _dict(payload), _dict(_at(payload, "State")), _dict(_at(payload, "HostConfig"))
    status = str(state.get("Status") or "dead")
    ended = status in ("exited", "dead")
    health = _at(state, "Health", "Status")
    code = state.get("ExitCode")
    return Workload(
        name=plain(str(data.get("Name") or "")).removeprefix("/"),
        runtime=KIND,
        state=status if status in _STATES else "dead",
        id=str(data.get("Id") or ""),
        image=plain(str(_at(data, "Config", "Image") or ""), 300),
        health=health if health in ("starting", "healthy", "unhealthy") else None,
        started_at=timestamp(state.get("StartedAt")),
        exit_code=code if ended and isinstance(code, int) else None,
        oom_killed=state.get("OOMKilled") is True,
        error=first_words(str(state.get("Error") or "")),
        gpu=uses_gpu(host, _at(data, "Config", "Env")),
        restart_policy=plain(str(_at(host, "RestartPolicy", "Name") or "no")),
        ports=_ports(host.get("PortBindings"), _at(data, "NetworkSettings", "Ports")),
        launch=_launch(data),
        digest=plain(str(data.get("Image") or "")),
        arguments=without_secrets([str(word) for word in _list(data.get("Args"))[:MOST_WORDS]]),
        mounts=tuple(sorted(_mount(each) for each in _list(data.get("Mounts"))[:MOST_WORDS])),
    )


def _launch(data: Mapping[str, Any]) -> Launch | None:
    config = _dict(data.get("Config"))
    command = [plain(str(word), 300) for word in (*_list(config.get("Entrypoint")), *_list(config.get("Cmd")))]
    pairs = (plain(str(pair), 300).partition("=") for pair in _list(config.get("Env")))
    mounts = {
        str(mount.get("Destination", "")): str(mount.get("Name") or mount.get("Source") or "")
        for mount in map(_dict, _list(data.get("Mounts")))
    }
    return launch(command, {name: value for name, _, value in pairs}, mounts)


def without_secrets(words: Sequence[str]) -> tuple[str, ...]:
    """A command line as it may be kept: the values of whatever is called a key, token, password or secret blotted."""
    found: list[str] = []
    hide = False
    for word in words:
        option, equals, _ = word.partition("=")
        secret = option.startswith("-") and _SECRET.search(option) is not None
        if hide and not word.startswith("--"):
            found.append(BLOT)
        else:
            found.append(plain(f"{option}={BLOT}" if secret and equals else word))
        hide = secret and not equals
    return tuple(found)


def _mount(payload: object) -> str:
    named = _at(payload, "Name") if _at(payload, "Type") == "volume" else None
    return plain(f"{named or _at(payload, 'Source') or '?'}:{_at(payload, 'Destination') or '?'}")


def uses_gpu(host: Mapping[str, Any], environment: object) -> bool:
    """Whether a container gets GPUs: by device request, by the nvidia runtime, or by device file."""
    for request in _list(host.get("DeviceRequests")):
        groups = [_list(group) for group in _list(_at(request, "Capabilities"))]
        wanted = [str(device) for device in _list(_at(request, "DeviceIDs"))]
        if any("gpu" in group for group in groups) or any("gpu=" in device for device in wanted):
            return True
    if host.get("Runtime") == "nvidia":
        for entry in _list(environment):
            name, _, value = str(entry).partition("=")
            if name == "NVIDIA_VISIBLE_DEVICES" and value.strip().lower() not in _NO_GPU:
                return True
    devices = (str(_at(device, "PathOnHost") or "") for device in _list(host.get("Devices")))
    return any(device.startswith(_GPU_DEVICES) for device in devices)


def event(payload: object) -> RuntimeEvent | None:
    """The event that one line of `GET /events` tells of; None where it is not about a container."""
    data, attributes = _dict(payload), _dict(_at(payload, "Actor", "Attributes"))
    name, action = attributes.get("name"), data.get("Action")
    if data.get("Type") != "container" or not isinstance(name, str) or not isinstance(action, str):
        return None
    nanos, seconds = data.get("timeNano"), data.get("time")
    at = nanos / 1e9 if _is_time(nanos) else float(seconds) if _is_time(seconds) else 0.0
    action = action.partition(":")[0]
    return RuntimeEvent(
        at=at,
        name=name,
        action="health" if action == "health_status" else action,
        id=str(_at(data, "Actor", "ID") or ""),
    )


def restart_policy(payload: object) -> str:
    """The restart policy of `GET /containers/ID/json`, as the docker command writes it."""
    policy = _at(payload, "HostConfig", "RestartPolicy")
    name, count = str(_at(policy, "Name") or "no"), _at(policy, "MaximumRetryCount")
    return f"{name}:{count}" if name == "on-failure" and count else name


def labels(payload: object) -> dict[str, str]:
    """The labels of `GET /containers/ID/json`."""
    return {str(key): str(value) for key, value in _dict(_at(payload, "Config", "Labels")).items()}


def mounted(payload: object, volume: str) -> list[tuple[str, str]]:
    """Which of the listed containers, by id, have the volume, and where each has it."""
    return [
        (str(item.get("Id", "")), str(mount.get("Destination", "")))
        for item in map(_dict, _list(payload))
        for mount in map(_dict, _list(item.get("Mounts")))
        if mount.get("Name") == volume
    ]


def has_terminal(payload: object) -> bool:
    """Whether a container's output comes raw, as from a terminal, and not in frames."""
    return _at(payload, "Config", "Tty") is True


def timestamp(text: object) -> float | None:
    """Docker's time (RFC 3339 with nanoseconds) in Unix seconds; None for its "never", year 1."""
    match = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)", str(text))
    if match is None or match[1].startswith("0001"):
        return None
    try:
        whole = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00"))
    except ValueError:
        return None
    return whole.timestamp() + float(match[2] or 0)


def refusal(node: str, status: int, words: str) -> RuntimeFailure:
    """What Docker refused, in its own words, with advice where there is any."""
    said = plain(" ".join(clean(line) for line in words[:4000].splitlines()), 500) or "no reason given"
    advice = next((advice for part, advice in _ADVICE if part in words.lower()), "")
    return RuntimeFailure(f"Docker on {node}: {said}", advice.format(node=node), status=status or None)


def no_answer(node: str, socket: str, error: BaseException | None) -> RuntimeFailure:
    """Why Docker's socket cannot be used, from the system's error."""
    number = error.errno if isinstance(error, OSError) else None
    if number == errno.ENOENT:
        return RuntimeFailure(
            f"Docker on {node}: there is no socket {socket}.",
            "Is Docker installed and running (sudo systemctl start docker)? If not meant to be: docker = false.",
        )
    if number in (errno.EACCES, errno.EPERM):
        return refusal(node, 0, f"permission denied on {socket}")
    if number == errno.ECONNREFUSED:
        return RuntimeFailure(
            f"Docker on {node}: {socket} refuses connections; its daemon has stopped.",
            f"Start it on {node}: sudo systemctl start docker, then look at journalctl -u docker.",
        )
    words = first_words(str(error)) if error else ""
    return RuntimeFailure(
        f"Docker on {node}: the connection broke off ({words or 'no reason given'}).",
        f"Is its daemon being restarted? On {node}: systemctl status docker.",
    )


def _ports(*tables: object) -> tuple[int, ...]:
    ports = {
        int(port)
        for table in tables
        for bindings in _dict(table).values()
        for binding in _list(bindings)
        if re.fullmatch(r"\d{1,5}", port := str(_at(binding, "HostPort") or ""))
    }
    return tuple(sorted(ports - {0}))


def _is_time(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and 0 <= value < 2**63


def _dict(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _at(value: object, *path: str) -> Any:
    for key in path:
        value = _dict(value).get(key)
    return value
