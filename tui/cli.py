"""The command line: says what there is, and imports only what the verb needs (Textual only for the console)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

USAGE = 2
STATUS_USAGE = 3
"""`tierdeck status` keeps 2 for DOWN, as monitoring plugins do, so a typing error must be 3."""


class _Parser(argparse.ArgumentParser):
    """Takes whole words only, and says what is wrong in a line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Say it, and how to use it."""
        self.exit(USAGE, f"tierdeck: {message}\n{self.format_usage()}")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    from backends.cluster.words import PLACING, RUNGS

    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--cluster", metavar="FILE", help="the cluster.toml to use (or TIERDECK_CLUSTER)")
    look = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    look.add_argument("--ascii", action="store_true", help="draw with ASCII only (or TIERDECK_ASCII=1)")
    look.add_argument("--read-only", action="store_true", help="remove everything that changes the world")
    json_too = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    json_too.add_argument("--json", action="store_true", help="print data as JSON")
    top = _Parser(
        prog="tierdeck",
        description="The console for language models on your own machines. Without a verb it opens.",
        parents=[common, look],
    )
    top.add_argument("--version", action="store_true", help="print the version")
    verbs = top.add_subparsers(dest="verb", metavar="VERB", parser_class=_Parser)

    def verb(name: str, text: str, *parents: _Parser) -> _Parser:
        return verbs.add_parser(name, help=text, description=text, parents=[common, *parents])

    verb("status", "Look at everything once; exits 0 healthy, 1 degraded, 2 down, 3 unknown.", json_too)
    demo = verb("demo", "Open the console on an embedded cluster; nothing outside is touched.", look)
    demo.add_argument("--hold", action="store_true", help="no console: print its cluster.toml and keep it running")
    init = verb("init", "Write a first cluster.toml by looking at this machine; loads nothing.", json_too)
    init.add_argument("--output", metavar="FILE", help="where to write it ('-': standard output)")
    init.add_argument("--host", action="append", default=[], metavar="NAME", help="take this host of ~/.ssh/config too")
    words = "look into a Kubernetes cluster too: a context of the kubeconfig, its current one if none is named"
    init.add_argument("--kubernetes", nargs="?", const="", metavar="CONTEXT", help=words)
    words = "look only into this namespace of it"
    init.add_argument("--namespace", action="append", default=[], metavar="NAME", help=words)
    init.add_argument("--yes", action="store_true", help="ask nothing")
    verb("doctor", "Check keys, SSH, Docker, drivers and clocks, and say what to do.", json_too)
    verb("schema", "Print the JSON Schema of cluster.toml.")
    deploy = verb("deploy", "From a model to a served, routed endpoint: plan it, show every call, do it.", json_too)
    deploy.add_argument("spec", nargs="?", metavar="SPEC.toml", help="what to deploy; a few questions write one")
    deploy.add_argument("--new", action="store_true", help="write SPEC.toml first, by a few questions")
    deploy.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    deploy.add_argument(
        "--yes", action="store_true", help="confirm it; a failure halts it, to be resumed or taken back"
    )
    deploy.add_argument("--rollback", action="store_true", help="with --yes: take all back where a step fails")
    deploy.add_argument("--gateway", action="store_true", help="have the gateway serve it, too, as the end of the plan")
    deploy.add_argument("--interrupt", action="store_true", help="confirm that the gateway's requests are interrupted")
    deploy.add_argument("--force", action="store_true", help="go on where it would not fit, and say what will happen")
    deploy.add_argument("--take-over", action="store_true", help="end a lease that its owner no longer renews")
    up = verb("up", "Start a model that is on demand, others on demand making room where it would not fit.", json_too)
    up.add_argument("model", help="its endpoint, its container, or the model's name")
    up.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    up.add_argument("--yes", action="store_true", help="confirm what interrupts nothing")
    up.add_argument("--take-over", action="store_true", help="end a lease that its owner no longer renews")
    lint = verb("lint", "What is wrong with how containers were made; exits 1 where something is.", json_too)
    lint.add_argument("node", nargs="?", help="only of this node")
    _queue(verb("queue", "Show or run the start queue of a node."), common, json_too)
    _export(verb("export", "Print what tierdeck writes for other programs."), common, json_too)
    _gateway(verb("gateway", "Write, check, compare or push LiteLLM's configuration."), common, json_too)
    _procedures(verb("procedures", "List, follow or stop procedures.", json_too), common, json_too)
    diagnose = verb("diagnose", "Look at a node from all sides and name its fault.", json_too)
    diagnose.add_argument("node", help="the node")
    recover = verb("recover", "Bring a node back, by the least invasive rung that can help.", json_too)
    recover.add_argument("target", nargs="?", help="a node, or a tier or endpoint of one")
    recover.add_argument("--all", action="store_true", help="every node, the gateway's last")
    words = f"from {', '.join(RUNGS)} on; of a Kubernetes node also {', '.join(PLACING)}"
    recover.add_argument("--from", dest="start", choices=(*RUNGS, *PLACING), metavar="RUNG", help=words)
    reboot = verb("reboot", "Reboot a node: its work ended first, gone and back, its queue started again.", json_too)
    reboot.add_argument("node", help="the node")
    for each in (recover, reboot):
        each.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
        each.add_argument("--yes", action="store_true", help="confirm what interrupts nothing")
        each.add_argument("--interrupt", action="store_true", help="confirm that running work is interrupted")
        each.add_argument("--take-over", action="store_true", help="end a lease that its owner no longer renews")
    drill = verb("drill", "Prove, without climbing, that each rung of a node's recovery could be climbed.", json_too)
    drill.add_argument("node", help="the node")
    maintenance = verb("maintenance", "Leave a node or endpoint out of verdicts and alerts for a while.", json_too)
    maintenance.add_argument("name", nargs="?", help="the node or endpoint; without one all are listed")
    how = maintenance.add_mutually_exclusive_group()
    how.add_argument("--for", dest="lasting", metavar="2h", help="for how long")
    how.add_argument("--end", action="store_true", help="end it now")
    told = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    told.add_argument("--since", metavar="2h", help="only of the last two hours")
    told.add_argument("--file", metavar="FILE", help="read this exported history, not the cluster's own")
    _history(
        verb("history", "Tell what happened: changes, and steps of procedures.", json_too, told), common, json_too, told
    )
    watch = verb("watch", "Watch without a screen: log changes, tell people, give metrics; for systemd.", json_too)
    watch.add_argument("--metrics", metavar="HOST:PORT", help="give Prometheus its text at http://HOST:PORT/metrics")
    watch.add_argument("--recover", action="store_true", help="recover the nodes that say recover = { auto = RUNG }")
    replay = verb("replay", "Open the console on a recorded history; nothing outside is touched.", look)
    replay.add_argument("file", help="a file of `tierdeck history export`")
    _serve(verb("serve", "Serve the console to browsers; to this machine's own unless told otherwise.", look))
    _route(verb("route", "Tell who would answer a prompt and why; --send asks for the answer.", json_too))
    verb("models", "Every model of the cluster: where it lies, how it is started, whether it is loaded.", json_too)
    _fit(verb("fit", "Tell what models will take of each device's memory, from their headers alone.", json_too))
    return top


def _serve(serve: _Parser) -> None:
    serve.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="listen here (127.0.0.1)")
    serve.add_argument("--port", type=_count(0), default=8000, metavar="N", help="and at this port (8000; 0: any)")
    serve.add_argument("--token", metavar="REFERENCE", help="what visitors must know, by reference: env:NAME, ...")
    serve.add_argument("--public-url", metavar="URL", help="how browsers reach it, where a proxy stands in front")
    serve.add_argument("--demo", action="store_true", help="serve the demo")


def _route(route: _Parser) -> None:
    from backends.cluster.words import TASKS

    route.add_argument(
        "--classify", metavar="FILE", help='tell the task of each JSON line {"text": ..}; - reads them here'
    )
    route.add_argument("prompt", nargs="*", help="the prompt ('-': standard input); or bench ENDPOINT: how fast it is")
    route.add_argument("--task", choices=TASKS, help="say the task")
    route.add_argument("--target", metavar="ENDPOINT", help="ask this endpoint, whatever its health")
    route.add_argument("--model", metavar="MODEL", help="ask only who has this model, and for that one")
    route.add_argument("--image", metavar="FILE", help="an image that goes with the prompt: PNG, JPEG, GIF, WebP")
    route.add_argument("--send", action="store_true", help="send it and print the answer")
    route.add_argument("--yes", action="store_true", help="start the model first where it is on demand and off")
    route.add_argument("--gateway", action="store_true", help="send it through the gateway")
    route.add_argument("--concurrency", metavar="1,2,4,8", help="bench: prompts at once, level by level (1,2,4,8)")


def _fit(fit: _Parser) -> None:
    kinds = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
    fit.add_argument("models", nargs="*", metavar="FILE|URL|MODEL", help="a GGUF file, its address, or a model's name")
    learned = fit.add_mutually_exclusive_group()
    learned.add_argument("--learned", action="store_true", help="list what was learned of memory by looking on")
    learned.add_argument("--forget", action="store_true", help="forget it (with --node: of that node)")
    fit.add_argument("--node", metavar="N", help="on this node's GPUs")
    fit.add_argument("--dry-run-on", metavar="N", help="have llama.cpp's own dry run there tell it (llama-fit-params)")
    fit.add_argument(
        "--gpu", action="append", default=[], metavar="24GiB", help="on a GPU of this size; may be repeated"
    )
    fit.add_argument("--ctx", type=_count(0), default=0, metavar="N", help="tokens of context (0: as it was trained)")
    fit.add_argument("--parallel", type=_count(1), default=1, metavar="N", help="slots")
    fit.add_argument("--unified", action="store_true", help="one cache for all slots")
    fit.add_argument("--batch", type=_count(1), default=2048, metavar="N", help="tokens of a batch")
    fit.add_argument("--ubatch", type=_count(1), default=512, metavar="N", help="tokens computed at once")
    fit.add_argument("--cache-type-k", choices=kinds, default="f16", metavar="T", help=f"of keys: {', '.join(kinds)}")
    fit.add_argument("--cache-type-v", choices=kinds, default="f16", metavar="T", help="of values, the same")
    fit.add_argument("--flash-attn", choices=("on", "off"), default="on", help="flash attention")
    fit.add_argument("--gpu-layers", metavar="N|all", help="layers on the GPUs (all)")
    fit.add_argument("--tensor-split", metavar="A,B", help="each GPU's share")
    fit.add_argument("--cpu-moe", type=_count(0), default=0, metavar="N", help="layers whose experts stay on the CPU")
    fit.add_argument(
        "--override-tensor", action="append", default=[], metavar="REGEX=CPU", help="tensors that go elsewhere, by name"
    )
    fit.add_argument("--build", metavar="b11549", help="llama.cpp's build, if it is not of today")


def _count(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        count = int(text)
        if not least <= count < 1 << 31:
            raise ValueError(text)
        return count

    return number


def _queue(queue: _Parser, common: _Parser, json_too: _Parser) -> None:
    what = queue.add_subparsers(dest="what", metavar="show|run|boot", required=True, parser_class=_Parser)
    show = what.add_parser("show", help="the containers in their order, and what each does", parents=[common, json_too])
    run = what.add_parser("run", help="start them one after the other", parents=[common, json_too])
    boot = what.add_parser("boot", help="let it, and not Docker, start them at boot", parents=[common, json_too])
    for each in (show, run, boot):
        each.add_argument("node", help="the node")
    run.add_argument("--only", metavar="A,B", help="only these containers")
    run.add_argument("--restart", action="store_true", help="restart what is ready, too")
    run.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="for Docker to answer")
    for each in (run, boot):
        each.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
        each.add_argument("--yes", action="store_true", help="confirm what interrupts nothing")
    boot.add_argument("--program", metavar="PATH", help="where tierdeck lies on that node")
    run.add_argument("--take-over", action="store_true", help="end a lease that its owner no longer renews")
    run.add_argument("--interrupt", action="store_true", help="confirm that running work is interrupted")


def _history(history: _Parser, common: _Parser, json_too: _Parser, told: _Parser) -> None:
    history.add_argument("--endpoint", metavar="NAME", help="only about this endpoint, node or tier")
    history.add_argument("--changes", metavar="NAME", help="what changed since this endpoint or node last worked")
    what = history.add_subparsers(dest="what", metavar="export|card", parser_class=_Parser)
    export = what.add_parser("export", help="write it into one file, for another machine", parents=[common, told])
    export.add_argument("target", metavar="FILE", help="a new file")
    card = what.add_parser("card", help="one incident as redacted Markdown", parents=[common, told, json_too])
    card.add_argument("--endpoint", metavar="NAME", help="the latest of this endpoint or node")


def _export(export: _Parser, common: _Parser, json_too: _Parser) -> None:
    what = export.add_subparsers(dest="what", metavar="WHAT", required=True, parser_class=_Parser)
    unit = what.add_parser("boot-unit", help="what starts a node's queue at boot", parents=[common, json_too])
    unit.add_argument("node", help="the node")
    unit.add_argument("--program", metavar="PATH", help="where tierdeck lies on that node")
    watch = what.add_parser(
        "watch-unit", help="what keeps `tierdeck watch` running: systemd", parents=[common, json_too]
    )
    watch.add_argument("--program", metavar="PATH", help="where tierdeck lies on this machine")
    watch.add_argument("--metrics", metavar="HOST:PORT", help="have it give Prometheus its text there")
    prometheus = what.add_parser("prometheus", help="scrape configuration", parents=[common, json_too])
    prometheus.add_argument(
        "--watch", default="127.0.0.1:9108", metavar="HOST:PORT", help="where the watch's metrics are"
    )
    what.add_parser("grafana", help="a dashboard over the watch's metrics", parents=[common, json_too])
    what.add_parser("gatus", help="endpoints for Gatus", parents=[common, json_too])
    homepage = what.add_parser("homepage", help="services and a widget for Homepage", parents=[common, json_too])
    homepage.add_argument("--server", default="http://127.0.0.1:9090", metavar="URL", help="where Prometheus answers")
    for name, text in (
        ("kubernetes", "a deployment as plain manifests: claim, job that fetches the model, Deployment, Service"),
        ("vllm-chart", "a deployment as values of vLLM's production stack"),
        ("app-template", "a deployment as values of bjw-s' app-template"),
        ("llm-d", "llm-d's routing before a deployment, as values of its InferencePool chart"),
    ):
        each = what.add_parser(name, help=text, parents=[common, json_too])
        each.add_argument("spec", metavar="SPEC.toml", help="the deployment, as `tierdeck deploy` takes it")
        each.add_argument("--namespace", default="default", metavar="NS", help="the namespace (default)")
        each.add_argument("--storage", default="100Gi", metavar="SIZE", help="of the model's volume (100Gi)")
        each.add_argument("--storage-class", default="", metavar="NAME", help="of that volume; the cluster's own")

    composed = what.add_parser("compose", help="what runs on a node, for Compose", parents=[common, json_too])
    composed.add_argument("node", help="the node")
    for name in ("caddy", "traefik"):
        door = what.add_parser(name, help="a door with a key before the engines", parents=[common, json_too])
        door.add_argument("--allow", action="append", default=[], metavar="NETWORK", help="let it in (private ones)")
        if name == "caddy":
            door.add_argument("--listen", default=":8090", metavar="ADDRESS", help="where Caddy listens (:8090)")
    what.add_parser("open-webui", help="Open WebUI before the gateway", parents=[common, json_too])


def _gateway(gateway: _Parser, common: _Parser, json_too: _Parser) -> None:
    what = gateway.add_subparsers(dest="what", metavar="render|lint|diff|push", required=True, parser_class=_Parser)
    render = what.add_parser("render", help="write it from the inventory", parents=[common, json_too])
    render.add_argument("--output", metavar="FILE", help="write it there, not to standard output")
    lint = what.add_parser("lint", help="find what is wrong in a file of your own", parents=[common, json_too])
    lint.add_argument("file", metavar="FILE", help="LiteLLM's config.yaml")
    lint.add_argument("--fix", action="store_true", help="show what can be mended safely")
    lint.add_argument("--yes", action="store_true", help="and write it")
    what.add_parser("diff", help="what rendering would change in the gateway's file", parents=[common, json_too])
    push = what.add_parser("push", help="replace its file; roll back if worse", parents=[common, json_too])
    push.add_argument("--file", metavar="FILE", help="push this file, not what is rendered")
    push.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    push.add_argument("--yes", action="store_true", help="confirm what interrupts nothing")
    push.add_argument("--interrupt", action="store_true", help="confirm that requests through it are interrupted")
    push.add_argument("--take-over", action="store_true", help="end a lease that its owner no longer renews")


def _procedures(procedures: _Parser, common: _Parser, json_too: _Parser) -> None:
    what = procedures.add_subparsers(
        dest="what", metavar="list|attach|answer|pause|cancel|resume|abandon", parser_class=_Parser
    )
    what.add_parser("list", help="all that are known here", parents=[common, json_too])
    for name, text in (
        ("attach", "follow one"),
        ("answer", "answer the question of one: retry, skip, hold, abort or rollback; continue where it was paused"),
        ("pause", "have one wait at its step's edge, until it is answered: continue"),
        ("cancel", "stop one at its step's edge; again: now"),
        ("resume", "go on with one that was halted, cancelled or lost"),
        ("rollback", "take back all that a deployment did"),
        ("abandon", "close the journal of one that no longer runs"),
    ):
        each = what.add_parser(name, help=text, parents=[common, json_too])
        each.add_argument("id", help="its id")
        if name == "answer":
            choices = ("retry", "skip", "hold", "abort", "rollback", "continue")
            each.add_argument("choice", choices=choices, help="what to do")
        if name == "resume":
            each.add_argument("--interrupt", action="store_true", help="confirm that running work is interrupted")
        if name in ("resume", "rollback"):
            each.add_argument("--yes", action="store_true", help="confirm what interrupts nothing")
            each.add_argument("--take-over", action="store_true", help="end a lease that its owner no longer renews")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit as DESIGN promises; a person never sees a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words == ["--version"]:
        from tui.version import __version__

        print(f"tierdeck {__version__}")
        raise SystemExit(0)
    try:
        arguments = parser().parse_args(words)
    except SystemExit as end:
        raise SystemExit(STATUS_USAGE if end.code == USAGE and _verb(words) == "status" else end.code) from None
    if getattr(arguments, "version", False):
        main(["--version"])
    raise SystemExit(_run(arguments))


def _verb(words: Sequence[str]) -> str:
    """The first word that is neither an option nor the value of one."""
    pairs = zip(("", *words), words, strict=False)
    bare = (word for before, word in pairs if before != "--cluster" and not word.startswith("-"))
    return next(bare, "")


def _run(arguments: argparse.Namespace) -> int:
    from backends.errors import InventoryError, ReachError, TierdeckError

    verb = arguments.verb or "console"
    status = verb == "status"
    try:
        code = _call(verb, arguments)
        print(end="", flush=True)
        return code
    except InventoryError as error:
        return _told(error, STATUS_USAGE if status else USAGE)
    except ReachError as error:
        return _told(error, 3)
    except TierdeckError as error:
        return _told(error, 3 if status else 1)
    except TimeoutError:
        return _told("the time limit is over.", 3 if status else 4)
    except KeyboardInterrupt:
        return 130
    except OSError as error:  # most likely of standard output: what was not written yet goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 3 if status else 1
        return code if isinstance(error, BrokenPipeError) else _told(error, code)


def _told(error: object, code: int) -> int:
    with suppress(OSError):  # nobody is left to be told
        print(f"tierdeck: {error}", file=sys.stderr)
    return code


def _call(verb: str, arguments: argparse.Namespace) -> int:
    import gc
    import os
    from importlib import import_module

    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # else it reads the entry points of every package
    _allow_many_files()
    if verb == "console":
        gc.disable()  # modules that load leave no garbage; the feed enables it once all are there
    if verb == "route" and arguments.classify is not None:
        verb = "classify"
    run: int = import_module(f"tui.verbs.{verb}").run(arguments)
    return run


def _allow_many_files() -> None:
    """Raise the soft limit on open files: 1,000 endpoints take as many sockets, and 256 is the default on macOS."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


if __name__ == "__main__":
    main()
