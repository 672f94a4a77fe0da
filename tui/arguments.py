"""The words of the command line: its verbs, and what each may be told."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Final, NoReturn

USAGE: Final = 2
_YES: Final = "confirm what interrupts nothing"


class Parser(argparse.ArgumentParser):
    """Takes whole words only, and says what is wrong in a line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Say it, and how to use it."""
        self.exit(USAGE, f"tierdeck: {message}\n{self.format_usage()}")


class _Words:
    """The verbs as they are added, and the options that several share."""

    def __init__(self) -> None:
        self.common, self.look, self.json_too, self.told = (
            Parser(add_help=False, argument_default=argparse.SUPPRESS) for _ in range(4)
        )
        self.common.add_argument("--cluster", metavar="FILE", help="the cluster.toml to use (or TIERDECK_CLUSTER)")
        self.look.add_argument("--ascii", action="store_true", help="draw with ASCII only (or TIERDECK_ASCII=1)")
        self.look.add_argument("--read-only", action="store_true", help="remove everything that changes the world")
        self.json_too.add_argument("--json", action="store_true", help="print data as JSON")
        self.told.add_argument("--since", metavar="2h", help="only of the last two hours")
        self.told.add_argument("--file", metavar="FILE", help="read this exported history, not the cluster's own")
        self.top = Parser(
            prog="tierdeck",
            description="The console for language models on your own machines. Without a verb it opens.",
            parents=[self.common, self.look],
        )
        self.top.add_argument("--version", action="store_true", help="print the version")
        self._verbs = self.top.add_subparsers(dest="verb", metavar="VERB", parser_class=Parser)

    def verb(self, name: str, text: str, *parents: Parser) -> Parser:
        """A verb that is told `text` of itself."""
        return self._verbs.add_parser(name, help=text, description=text, parents=[self.common, *parents])

    def kinds(self, verb: Parser, kinds: str, *, required: bool = True) -> Callable[..., Parser]:
        """What adds the kinds of a verb that has several, all of which take a cluster and print JSON."""
        what = verb.add_subparsers(dest="what", metavar=kinds, required=required, parser_class=Parser)

        def kind(name: str, text: str, *parents: Parser) -> Parser:
            return what.add_parser(name, help=text, parents=[self.common, *(parents or (self.json_too,))])

        return kind


def parser() -> Parser:
    """The whole command line."""
    words = _Words()
    _first(words)
    _deploy(words)
    _queue(words)
    _export(words)
    _gateway(words)
    _procedures(words)
    _recovery(words)
    _history(words)
    _watch(words)
    _serve(words)
    _route(words)
    _models(words)
    return words.top


def _planned(verb: Parser, *, yes: str = _YES, interrupt: str = "", lease: bool = True) -> None:
    verb.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")
    _confirmed(verb, yes=yes, interrupt=interrupt, lease=lease)


def _confirmed(verb: Parser, *, yes: str = _YES, interrupt: str = "", lease: bool = True) -> None:
    """How a plan is confirmed: `interrupt` says what it may interrupt, `lease` that it takes one."""
    verb.add_argument("--yes", action="store_true", help=yes)
    if interrupt:
        verb.add_argument("--interrupt", action="store_true", help=f"confirm that {interrupt} interrupted")
    if lease:
        verb.add_argument("--take-over", action="store_true", help="end a lease that its owner no longer renews")


def _count(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        count = int(text)
        if not least <= count < 1 << 31:
            raise ValueError(text)
        return count

    return number


def _first(words: _Words) -> None:
    words.verb("status", "Look at everything once; exits 0 healthy, 1 degraded, 2 down, 3 unknown.", words.json_too)
    demo = words.verb("demo", "Open the console on an embedded cluster; nothing outside is touched.", words.look)
    demo.add_argument("--hold", action="store_true", help="no console: print its cluster.toml and keep it running")
    init = words.verb("init", "Write a first cluster.toml by looking at this machine; loads nothing.", words.json_too)
    init.add_argument("--output", metavar="FILE", help="where to write it ('-': standard output)")
    init.add_argument("--host", action="append", default=[], metavar="NAME", help="take this host of ~/.ssh/config too")
    text = "look into a Kubernetes cluster too: a context of the kubeconfig, its current one if none is named"
    init.add_argument("--kubernetes", nargs="?", const="", metavar="CONTEXT", help=text)
    text = "look only into this namespace of it"
    init.add_argument("--namespace", action="append", default=[], metavar="NAME", help=text)
    init.add_argument("--yes", action="store_true", help="ask nothing")
    words.verb("doctor", "Check keys, SSH, Docker, drivers and clocks, and say what to do.", words.json_too)
    words.verb("schema", "Print the JSON Schema of cluster.toml.")


def _deploy(words: _Words) -> None:
    text = "From a model to a served, routed endpoint: plan it, show every call, do it."
    deploy = words.verb("deploy", text, words.json_too)
    deploy.add_argument("spec", nargs="?", metavar="SPEC.toml", help="what to deploy; a few questions write one")
    deploy.add_argument("--new", action="store_true", help="write SPEC.toml first, by a few questions")
    text = "confirm it; a failure halts it, to be resumed or taken back"
    _planned(deploy, yes=text, interrupt="the gateway's requests are")
    deploy.add_argument("--rollback", action="store_true", help="with --yes: take all back where a step fails")
    deploy.add_argument("--gateway", action="store_true", help="have the gateway serve it, too, as the end of the plan")
    deploy.add_argument("--force", action="store_true", help="go on where it would not fit, and say what will happen")
    text = "Start a model that is on demand, others on demand making room where it would not fit."
    up = words.verb("up", text, words.json_too)
    up.add_argument("model", help="its endpoint, its container, or the model's name")
    _planned(up)
    text = "What is wrong with how containers were made; exits 1 where something is."
    lint = words.verb("lint", text, words.json_too)
    lint.add_argument("node", nargs="?", help="only of this node")


def _queue(words: _Words) -> None:
    kind = words.kinds(words.verb("queue", "Show or run the start queue of a node."), "show|run|boot")
    show = kind("show", "the containers in their order, and what each does")
    run = kind("run", "start them one after the other")
    boot = kind("boot", "let it, and not Docker, start them at boot")
    for each in (show, run, boot):
        each.add_argument("node", help="the node")
    run.add_argument("--only", metavar="A,B", help="only these containers")
    run.add_argument("--restart", action="store_true", help="restart what is ready, too")
    run.add_argument("--wait", type=float, default=0.0, metavar="SECONDS", help="for Docker to answer")
    _planned(run, interrupt="running work is")
    _planned(boot, lease=False)
    boot.add_argument("--program", metavar="PATH", help="where tierdeck lies on that node")


def _export(words: _Words) -> None:
    kind = words.kinds(words.verb("export", "Print what tierdeck writes for other programs."), "WHAT")
    unit = kind("boot-unit", "what starts a node's queue at boot")
    unit.add_argument("node", help="the node")
    unit.add_argument("--program", metavar="PATH", help="where tierdeck lies on that node")
    watch = kind("watch-unit", "what keeps `tierdeck watch` running: systemd")
    watch.add_argument("--program", metavar="PATH", help="where tierdeck lies on this machine")
    watch.add_argument("--metrics", metavar="HOST:PORT", help="have it give Prometheus its text there")
    prometheus = kind("prometheus", "scrape configuration")
    prometheus.add_argument(
        "--watch", default="127.0.0.1:9108", metavar="HOST:PORT", help="where the watch's metrics are"
    )
    kind("grafana", "a dashboard over the watch's metrics")
    kind("gatus", "endpoints for Gatus")
    homepage = kind("homepage", "services and a widget for Homepage")
    homepage.add_argument("--server", default="http://127.0.0.1:9090", metavar="URL", help="where Prometheus answers")
    _charts(kind)
    composed = kind("compose", "what runs on a node, for Compose")
    composed.add_argument("node", help="the node")
    for name in ("caddy", "traefik"):
        door = kind(name, "a door with a key before the engines")
        door.add_argument("--allow", action="append", default=[], metavar="NETWORK", help="let it in (private ones)")
        if name == "caddy":
            door.add_argument("--listen", default=":8090", metavar="ADDRESS", help="where Caddy listens (:8090)")
    kind("open-webui", "Open WebUI before the gateway")


def _charts(kind: Callable[..., Parser]) -> None:
    for name, text in (
        ("kubernetes", "a deployment as plain manifests: claim, job that fetches the model, Deployment, Service"),
        ("vllm-chart", "a deployment as values of vLLM's production stack"),
        ("app-template", "a deployment as values of bjw-s' app-template"),
        ("llm-d", "llm-d's routing before a deployment, as values of its InferencePool chart"),
    ):
        each = kind(name, text)
        each.add_argument("spec", metavar="SPEC.toml", help="the deployment, as `tierdeck deploy` takes it")
        each.add_argument("--namespace", default="default", metavar="NS", help="the namespace (default)")
        each.add_argument("--storage", default="100Gi", metavar="SIZE", help="of the model's volume (100Gi)")
        each.add_argument("--storage-class", default="", metavar="NAME", help="of that volume; the cluster's own")


def _gateway(words: _Words) -> None:
    text = "Write, check, compare or push LiteLLM's configuration."
    kind = words.kinds(words.verb("gateway", text), "render|lint|diff|push")
    render = kind("render", "write it from the inventory")
    render.add_argument("--output", metavar="FILE", help="write it there, not to standard output")
    lint = kind("lint", "find what is wrong in a file of your own")
    lint.add_argument("file", metavar="FILE", help="LiteLLM's config.yaml")
    lint.add_argument("--fix", action="store_true", help="show what can be mended safely")
    lint.add_argument("--yes", action="store_true", help="and write it")
    kind("diff", "what rendering would change in the gateway's file")
    push = kind("push", "replace its file; roll back if worse")
    push.add_argument("--file", metavar="FILE", help="push this file, not what is rendered")
    _planned(push, interrupt="requests through it are")


def _procedures(words: _Words) -> None:
    verb = words.verb("procedures", "List, follow or stop procedures.", words.json_too)
    kind = words.kinds(verb, "list|attach|answer|pause|cancel|resume|abandon", required=False)
    kind("list", "all that are known here")
    for name, text in (
        ("attach", "follow one"),
        ("answer", "answer the question of one: retry, skip, hold, abort or rollback; continue where it was paused"),
        ("pause", "have one wait at its step's edge, until it is answered: continue"),
        ("cancel", "stop one at its step's edge; again: now"),
        ("resume", "go on with one that was halted, cancelled or lost"),
        ("rollback", "take back all that a deployment did"),
        ("abandon", "close the journal of one that no longer runs"),
    ):
        each = kind(name, text)
        each.add_argument("id", help="its id")
        if name == "answer":
            choices = ("retry", "skip", "hold", "abort", "rollback", "continue")
            each.add_argument("choice", choices=choices, help="what to do")
        if name in ("resume", "rollback"):
            _confirmed(each, interrupt="running work is" if name == "resume" else "")


def _recovery(words: _Words) -> None:
    from backends.cluster.words import PLACING, RUNGS

    diagnose = words.verb("diagnose", "Look at a node from all sides and name its fault.", words.json_too)
    diagnose.add_argument("node", help="the node")
    text = "Bring a node back, by the least invasive rung that can help."
    recover = words.verb("recover", text, words.json_too)
    recover.add_argument("target", nargs="?", help="a node, or a tier or endpoint of one")
    recover.add_argument("--all", action="store_true", help="every node, the gateway's last")
    text = f"from {', '.join(RUNGS)} on; of a Kubernetes node also {', '.join(PLACING)}"
    recover.add_argument("--from", dest="start", choices=(*RUNGS, *PLACING), metavar="RUNG", help=text)
    _planned(recover, interrupt="running work is")
    text = "Reboot a node: its work ended first, gone and back, its queue started again."
    reboot = words.verb("reboot", text, words.json_too)
    reboot.add_argument("node", help="the node")
    _planned(reboot, interrupt="running work is")
    text = "Prove, without climbing, that each rung of a node's recovery could be climbed."
    drill = words.verb("drill", text, words.json_too)
    drill.add_argument("node", help="the node")
    text = "Leave a node or endpoint out of verdicts and alerts for a while."
    maintenance = words.verb("maintenance", text, words.json_too)
    maintenance.add_argument("name", nargs="?", help="the node or endpoint; without one all are listed")
    how = maintenance.add_mutually_exclusive_group()
    how.add_argument("--for", dest="lasting", metavar="2h", help="for how long")
    how.add_argument("--end", action="store_true", help="end it now")


def _history(words: _Words) -> None:
    text = "Tell what happened: changes, and steps of procedures."
    history = words.verb("history", text, words.json_too, words.told)
    history.add_argument("--endpoint", metavar="NAME", help="only about this endpoint, node or tier")
    history.add_argument("--changes", metavar="NAME", help="what changed since this endpoint or node last worked")
    kind = words.kinds(history, "export|card", required=False)
    export = kind("export", "write it into one file, for another machine", words.told)
    export.add_argument("target", metavar="FILE", help="a new file")
    card = kind("card", "one incident as redacted Markdown", words.told, words.json_too)
    card.add_argument("--endpoint", metavar="NAME", help="the latest of this endpoint or node")


def _watch(words: _Words) -> None:
    text = "Watch without a screen: log changes, tell people, give metrics; for systemd."
    watch = words.verb("watch", text, words.json_too)
    watch.add_argument("--metrics", metavar="HOST:PORT", help="give Prometheus its text at http://HOST:PORT/metrics")
    watch.add_argument("--recover", action="store_true", help="recover the nodes that say recover = { auto = RUNG }")
    text = "Open the console on a recorded history; nothing outside is touched."
    replay = words.verb("replay", text, words.look)
    replay.add_argument("file", help="a file of `tierdeck history export`")


def _serve(words: _Words) -> None:
    text = "Serve the console to browsers; to this machine's own unless told otherwise."
    serve = words.verb("serve", text, words.look)
    serve.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="listen here (127.0.0.1)")
    serve.add_argument("--port", type=_count(0), default=8000, metavar="N", help="and at this port (8000; 0: any)")
    serve.add_argument("--token", metavar="REFERENCE", help="what visitors must know, by reference: env:NAME, ...")
    serve.add_argument("--public-url", metavar="URL", help="how browsers reach it, where a proxy stands in front")
    serve.add_argument("--demo", action="store_true", help="serve the demo")


def _route(words: _Words) -> None:
    from backends.cluster.words import TASKS

    text = "Tell who would answer a prompt and why; --send asks for the answer."
    route = words.verb("route", text, words.json_too)
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


def _models(words: _Words) -> None:
    text = "Every model of the cluster: where it lies, how it is started, whether it is loaded."
    words.verb("models", text, words.json_too)
    text = "Tell what models will take of each device's memory, from their headers alone."
    _fit(words.verb("fit", text, words.json_too))


def _fit(fit: Parser) -> None:
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
