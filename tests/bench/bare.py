"""The yardstick of the first frame: the smallest Textual application there can be."""

from textual.app import App, ComposeResult
from textual.widgets import Static


class Bare(App[None]):
    def compose(self) -> ComposeResult:
        yield Static("LOCAL REMOTE NAS GATEWAY")


Bare().run()
