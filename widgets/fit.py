"""The fit screen's lines: a node's GPUs with a bar each, the models that should go there, and their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Final

from rich.cells import cell_len
from textual.binding import Binding, BindingType
from textual.message import Message

from backends.memory.advice import Gpu
from backends.memory.estimate import CONTEXT_BYTES, CPU
from backends.memory.headers import Header
from backends.memory.load import Load
from backends.memory.model import Model
from backends.memory.settings import Settings
from widgets.format import fit, gib
from widgets.glyphs import Glyphs
from widgets.lines import Line, LinePane, line

CACHES: Final = ("f16", "q8_0", "q4_0")
CONTEXTS: Final = tuple(1 << power for power in range(9, 21))
MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Place:
    """A node, its GPUs, and the MiB in use of each now (None: not known)."""

    node: str
    gpus: tuple[Gpu, ...]
    used: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may go there: unread without a header, `trouble` where it cannot be read.

    `settled` says that `load` is of these settings and this node.
    """

    name: str
    marked: bool = False
    header: Header | None = None
    settings: Settings = field(default_factory=Settings)
    load: Load | None = None
    trouble: str = ""
    safetensors: bool = False
    settled: bool = False

    @property
    def layers(self) -> int:
        """How many layers can go to a GPU, the output's too."""
        return Model(self.header).layers + 1 if self.header and not self.safetensors else 1

    @property
    def context(self) -> int:
        """Its context in tokens, asked for or trained."""
        if self.settings.context or self.header is None or self.safetensors:
            return self.settings.context
        return Model(self.header).trained_context


class FitPane(LinePane):
    """Edits the settings of candidates; who owns it computes their loads."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "mark", show=False),
        Binding("left,h,minus", "change(-1)", show=False),
        Binding("right,l,plus", "change(1)", show=False),
        Binding("n", "next_node", show=False),
        Binding("w", "write", show=False),
        Binding("d", "deploy", show=False),
    ]
    DEFAULT_CSS = "FitPane { height: 1fr; }"

    class Changed(Message):
        """A candidate's settings or mark are others now, or all of them stand on another node."""

        def __init__(self, name: str | None) -> None:
            super().__init__()
            self.name = name

    class Written(Message):
        """A person wants a candidate's settings as arguments."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    class Deployed(Message):
        """A person wants to deploy a candidate with its settings."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    def __init__(self, places: Sequence[Place], candidates: Sequence[Candidate], glyphs: Glyphs) -> None:
        super().__init__(glyphs=glyphs, title="Fit")
        self._places = list(places)
        self.candidates: dict[str, Candidate] = {each.name: each for each in candidates}

    @property
    def place(self) -> Place:
        """Where they go."""
        return self._places[0]

    @property
    def marked(self) -> list[Candidate]:
        """Those that should go there."""
        return [each for each in self.candidates.values() if each.marked]

    def update(self, candidate: Candidate) -> None:
        """Show a candidate anew."""
        self.candidates[candidate.name] = candidate
        self.redraw()

    def compose_lines(self, width: int) -> Sequence[Line]:
        """The bars, then every model with its settings where it is marked."""
        rows = [
            line((f"on {self.place.node}", "title"), ("   n: another node" if len(self._places) > 1 else "", "dim"))
        ]
        needs = self.needs()
        for gpu, used in zip(self.place.gpus, (*self.place.used, *[None] * 16), strict=False):
            rows.append(self._bar(gpu, needs.get(gpu.name, 0), used, width))
        if any(gpu.driver != CONTEXT_BYTES for gpu in self.place.gpus):
            learned = ", ".join(f"{gpu.driver / MIB:.0f}" for gpu in self.place.gpus)
            rows.append(line((f"  drivers keep {learned} MiB of that for each process, as learned", "dim")))
        if not self.place.gpus:
            rows.append(line(("  it has no GPU of a known size: everything goes to its CPU", "warn")))
        rows.append(line(""))
        for each in self.candidates.values():
            rows += self._candidate(each, width)
        return rows

    def needs(self) -> Mapping[str, int]:
        """Bytes that all marked ones together need of each GPU."""
        found: dict[str, int] = {}
        for each in self.marked:
            for gpu, size in (each.load.needs if each.load else {}).items():
                found[gpu] = found.get(gpu, 0) + size
        return found

    def _bar(self, gpu: Gpu, need: int, used: float | None, width: int) -> Line:
        share = need / gpu.capacity
        verdict = "fits" if share <= 1 else "does not fit"
        style = "bad" if share > 1 else "warn" if share > 0.9 else "good"
        if not all(each.settled for each in self.marked):
            verdict, style = self.glyphs.ellipsis, "dim"
        now = f"  in use now {gib(used)}" if used is not None and width >= 70 else ""
        figures = f" {need / MIB / 1024:.1f} of {gpu.capacity / MIB / 1024:.1f} GiB {100 * share:.0f}% "
        room = min(32, width - len(figures) - len(verdict) - len(now) - 10)
        bar = f"[{self.glyphs.bar(min(1.0, share), room, min(1.0, share))}]" if room >= 4 else ""
        return line(f"  {gpu.name} ", (bar, style), figures, (verdict, style), (now, "dim"))

    def _candidate(self, each: Candidate, width: int) -> list[Line]:
        mark = "[x]" if each.marked else "[ ]"
        longest = max(cell_len(other.name) for other in self.candidates.values())
        name = fit(each.name, max(10, min(width - 30, longest)), self.glyphs.ellipsis)
        if each.trouble:
            return [line(f"{mark} {name}  ", (each.trouble, "bad"), key=each.name)]
        if not each.marked:
            return [line((f"{mark} {name}", "dim"), key=each.name)]
        if each.load is None:
            return [line(f"{mark} {name}  ", (f"reading{self.glyphs.ellipsis}", "dim"), key=each.name)]
        cpu = sum(device.total for device in each.load.devices if device.name == CPU) / MIB / 1024
        total = sum(device.total for device in each.load.devices) / MIB / 1024
        sure = ", at most" if each.load.certainty == "bound" else ""
        beside = f", {cpu:.1f} of it on the CPU" if cpu >= 0.05 and width >= 70 else ""
        figure = f"  {total:.1f} GiB{sure}{beside}"
        rows = [line((f"{mark} {name}", "title"), (figure, "" if each.settled else "dim"), key=each.name)]
        rows.append(_setting(each, "context", f"{each.context} tokens"))
        if not each.safetensors:
            layers = each.layers if each.settings.gpu_layers is None else each.settings.gpu_layers
            rows.append(_setting(each, "layers", f"{layers} of {each.layers} on the GPU"))
            rows.append(_setting(each, "cache", each.settings.cache_k))
        lines = (*each.load.advice, each.load.remark) if each.load.fits is False else (each.load.remark,)
        rows += [line((fit(f"      {words}", width, self.glyphs.ellipsis), "warn")) for words in lines if words]
        return rows

    def _split(self) -> tuple[Candidate | None, str]:
        name, _, what = (self.selected or "").partition("\n")
        return self.candidates.get(name), what

    def action_mark(self) -> None:
        """Put the model on the node, or take it off."""
        each, _ = self._split()
        if each is not None:
            self.update(replace(each, marked=not each.marked, settled=False))
            self.post_message(self.Changed(each.name))

    def action_change(self, step: int) -> None:
        """Change the selected setting by a step."""
        each, what = self._split()
        if each is None or not what or each.header is None:
            return
        self.update(replace(each, settings=changed(each, what, step), settled=False))
        self.post_message(self.Changed(each.name))

    def action_next_node(self) -> None:
        """Put all of them on the next node."""
        self._places.append(self._places.pop(0))
        self.candidates = {name: replace(each, settled=False) for name, each in self.candidates.items()}
        self.redraw()
        self.post_message(self.Changed(None))

    def action_write(self) -> None:
        """Show the settings as arguments."""
        each, _ = self._split()
        if each is not None and each.header is not None:
            self.post_message(self.Written(each.name))

    def action_deploy(self) -> None:
        """Hand the settings to deployment."""
        each, _ = self._split()
        if each is not None and each.header is not None:
            self.post_message(self.Deployed(each.name))


def _setting(each: Candidate, what: str, value: str) -> Line:
    return line((f"      {what:<9}", "dim"), (f"< {value} >", "accent"), key=f"{each.name}\n{what}")


def changed(each: Candidate, what: str, step: int) -> Settings:
    """A candidate's settings with one of them a step further, within what makes sense."""
    settings = each.settings
    if what == "context":
        further = [size for size in CONTEXTS if (size > each.context if step > 0 else size < each.context)]
        return replace(settings, context=(further[0] if step > 0 else further[-1]) if further else each.context)
    if what == "layers":
        now = each.layers if settings.gpu_layers is None else settings.gpu_layers
        layers = max(0, min(each.layers, now + step))
        return replace(settings, gpu_layers=None if layers == each.layers else layers)
    at = CACHES.index(settings.cache_k) if settings.cache_k in CACHES else 0
    cache = CACHES[max(0, min(len(CACHES) - 1, at + step))]
    return replace(settings, cache_k=cache, cache_v=cache, flash=True)
