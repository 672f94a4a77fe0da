"""llama.cpp's own HTTP server, set up from the environment: the container's entry point, and a process without one.

MODEL_PATH, PORT (8000), HOST (0.0.0.0), N_CTX (512), N_PARALLEL (2), API_KEY, MODEL_ALIAS, SLEEP_IDLE (seconds),
VERBOSITY (3). With PLAY_GPU its log names the buffers that it keeps for computing as a GPU's.
Arguments of llama-server, as far as it knows them, count more.
With LOCK_FILE and LOCK_SECONDS (1.5) it first plays a driver that deadlocks: the lock is held for that long, and
whoever meets another on it hangs, as does that other one, until all of them are killed; then the lock is free again.
"""

import fcntl
import itertools
import os
import signal
import sys
import threading
import time
from typing import NoReturn


def hang() -> NoReturn:
    """As a process inside a deadlocked driver: nothing but SIGKILL ends it."""
    while True:
        time.sleep(3600)


def initialise_driver(path: str, seconds: float) -> None:
    """Takes the driver's lock for some seconds; two at once hang for ever, both of them."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("the driver is taken: deadlock", flush=True)
        os.write(lock, b"x")
        fcntl.flock(lock, fcntl.LOCK_EX)
        hang()
    os.ftruncate(lock, 0)
    time.sleep(seconds)
    if os.fstat(lock).st_size:
        print("somebody came while the driver was taken: deadlock", flush=True)
        hang()
    os.close(lock)


def play_gpu() -> None:
    """What the engine writes from now on goes through our hands."""
    out = os.dup(1)
    heard, said = os.pipe()
    os.dup2(said, 1)
    os.dup2(said, 2)

    def pass_on() -> None:
        with os.fdopen(heard, "rb") as lines:
            for line in lines:
                for name in (b"CPU_REPACK model", b"CPU KV", b"CPU compute"):
                    line = line.replace(name, b"CUDA0 " + name.split()[1])
                os.write(out, line)

    threading.Thread(target=pass_on, daemon=True).start()


FLAGS = {
    "--model": "MODEL_PATH", "--port": "PORT", "--host": "HOST", "--ctx-size": "N_CTX", "--parallel": "N_PARALLEL",
    "--alias": "MODEL_ALIAS", "--api-key-file": "API_KEY_FILE",
}  # fmt: skip


def settings() -> dict[str, str]:
    """The environment, with what the arguments say instead."""
    words = sys.argv[1:]
    said = {FLAGS[flag]: value for flag, value in itertools.pairwise(words) if flag in FLAGS}
    found = {**os.environ, **said}
    if "API_KEY_FILE" in found:
        with open(found["API_KEY_FILE"]) as file:
            found["API_KEY"] = file.read().strip()
    return found


def serve() -> None:
    """Loads the model and serves it; the process ends with status 1 when it cannot be loaded."""
    try:
        import xllamacpp  # type: ignore[import-not-found,unused-ignore]

        env = settings()
        params = xllamacpp.CommonParams()
        params.model.path = env["MODEL_PATH"]
        params.hostnames = [env.get("HOST", "0.0.0.0")]
        params.port = int(env.get("PORT", "8000"))
        params.n_ctx = int(env.get("N_CTX", "512"))
        params.n_parallel = int(env.get("N_PARALLEL", "2"))
        params.sleep_idle_seconds = int(env.get("SLEEP_IDLE", "-1"))
        if env.get("API_KEY"):
            params.api_keys = [env["API_KEY"]]
        if env.get("MODEL_ALIAS"):
            params.model_alias = {env["MODEL_ALIAS"]}
        params.verbosity = int(env.get("VERBOSITY", "3"))
        params.cpuparams.n_threads = 1
        params.warmup = params.fit_params = False
        params.endpoint_metrics = params.endpoint_props = params.endpoint_slots = True
        serve.server = xllamacpp.Server(params)  # type: ignore[attr-defined]
    except Exception as error:
        print(f"cannot serve: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def main() -> None:
    """Serves until SIGTERM or SIGINT, which are waited for because process 1 of a container has no default for them."""
    stops = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops)
    if path := os.environ.get("LOCK_FILE"):
        initialise_driver(path, float(os.environ.get("LOCK_SECONDS", "1.5")))
    if os.environ.get("PLAY_GPU"):
        play_gpu()
    threading.Thread(target=serve, daemon=True).start()
    signal.sigwait(stops)
    os._exit(0)


if __name__ == "__main__":
    main()
