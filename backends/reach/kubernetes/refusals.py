"""What an API server refused, or why it did not answer, in words with advice. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from backends.errors import RuntimeFailure
from backends.reach.streams import first_words
from backends.text import plain

_MAY_NOT: Final = re.compile(
    r'User "(?P<user>[^"]*)" cannot (?P<verb>\w+) resource "(?P<what>[^"]+)"'
    r'(?: in API group "(?P<group>[^"]*)")?(?: in the namespace "(?P<namespace>[^"]+)")?'
)
_QUOTA: Final = re.compile(r"exceeded quota: (?P<words>.+)", re.DOTALL)
_ADMISSION: Final = re.compile(
    r'admission webhook "(?P<hook>[^"]+)" denied the request:?(?P<words>.*)'
    r"|ValidatingAdmissionPolicy '(?P<policy>[^']+)'.*?denied request:(?P<why>.*)"
    r"|(?P<pod>violates PodSecurity .*)",
    re.DOTALL,
)


def refusal(cluster: str, status: int, answer: object) -> RuntimeFailure:
    """A refusal in words: a missing right, a quota, an admission rule, a conflict, or what the server said."""
    if not isinstance(answer, Mapping):
        return _no_api(cluster, status, str(answer))
    said = plain(str(answer.get("message") or answer.get("reason") or "no reason given"), 400)
    if status == 401:
        return RuntimeFailure(
            f"{cluster}: the API does not accept the login.",
            "Its token or certificate is wrong or has expired: fetch the kubeconfig anew.",
            status=status,
        )
    if (words := denied(said)) is not None:
        return RuntimeFailure(f"{cluster}: {words[0]}", words[1], status=status)
    if status == 403 and (found := _MAY_NOT.search(said)):
        group = f".{found['group']}" if found["group"] else ""
        where = f" in {found['namespace']}" if found["namespace"] else ""
        return RuntimeFailure(
            f"{cluster}: may not: {found['verb']} {found['what']}{group}{where}.",
            f"Give {found['user']} that right in a Role.",
            status=status,
        )
    if status == 409 and (others := _managed(answer)):
        return RuntimeFailure(
            f"{cluster}: conflict: {others}.",
            "Who manages these fields has them otherwise: change them there, or leave them to us there.",
            status=status,
        )
    advice = {409: "Somebody else changed it at the same time; try again.", 410: "It is read anew."}.get(status, "")
    return RuntimeFailure(f"{cluster}: {said}", advice, status=status)


def _managed(answer: Mapping[str, object]) -> str:
    """The fields that others manage and have otherwise than what was applied; "" for another conflict."""
    details = answer.get("details")
    causes = details.get("causes") if isinstance(details, Mapping) else None
    found: dict[str, list[str]] = {}
    for cause in causes if isinstance(causes, list) else ():
        if isinstance(cause, Mapping) and cause.get("reason") == "FieldManagerConflict":
            who = re.search('conflict with "([^"]*)"', str(cause.get("message")))
            found.setdefault(plain(who[1] if who else "another", 80), []).append(plain(str(cause.get("field")), 120))
    return "; ".join(f"{', '.join(fields)} managed by {who}" for who, fields in found.items())


def is_withheld(failure: RuntimeFailure) -> bool:
    """Whether something was refused for want of a right, not because it cannot be."""
    return "may not:" in failure.message


def denied(said: str) -> tuple[str, str] | None:
    """What a quota or an admission rule says about something that is not to be created, and what to do."""
    if found := _QUOTA.search(said):
        return f"exceeded quota {first_words(found['words'])}", "Stop something of that namespace, or raise its quota."
    if found := _ADMISSION.search(said):
        who = found["hook"] or found["policy"] or "PodSecurity"
        why = first_words((found["words"] or found["why"] or found["pod"] or "").strip())
        return f"refused by {who}: {why}".rstrip(": "), "That rule is the cluster's own; ask who keeps it."
    return None


def no_answer(cluster: str, server: str, error: BaseException, limit: float) -> RuntimeFailure:
    """Why nothing came back, from the library's or the system's error."""
    words = first_words(f"{error} {error.__cause__ or ''}") or type(error).__name__
    where = f"{cluster}: its API {server}"
    if "TimeoutError" in type(error).__name__ or "Timeout" in type(error).__name__:
        return RuntimeFailure(f"{where} did not answer within {limit:g} s.", "Is its machine up, and the way to it?")
    if "CERTIFICATE_VERIFY_FAILED" in words:
        if "expired" in words:
            return RuntimeFailure(f"{where} shows a certificate that has expired.", "Renew it on the control node.")
        if "mismatch" in words or "not valid for" in words:
            advice = "Use a name that stands in it (k3s: --tls-san), or tls-server-name in the kubeconfig."
            return RuntimeFailure(f"{where} shows a certificate for another name.", advice)
        return RuntimeFailure(
            f"{where} shows a certificate that the kubeconfig's CA did not sign.",
            "Was the cluster installed anew? Then fetch its kubeconfig anew. Else somebody stands in between.",
        )
    if "Name or service not known" in words or "nodename nor servname" in words or "resolution" in words:
        return RuntimeFailure(f"{where} is not found: that name does not resolve.", "Correct the server's address.")
    if "refused" in words or "All connection attempts failed" in words:
        return RuntimeFailure(f"{where} refuses connections.", "Is it running (k3s: systemctl status k3s)?")
    return RuntimeFailure(f"{where} cannot be reached ({words}).", "Is its machine up, and the way to it?")


def _no_api(cluster: str, status: int, text: str) -> RuntimeFailure:
    head = text.lstrip()[:200].lower()
    if head.startswith(("<!doctype", "<html")):
        return RuntimeFailure(
            f"{cluster}: a web page answers (status {status}), not a Kubernetes API.",
            "Is the kubeconfig's server right, or does a login page stand in front of it?",
        )
    return RuntimeFailure(
        f"{cluster}: what answers is no Kubernetes API (status {status}: {first_words(text) or 'nothing'}).",
        "Is the kubeconfig's server right?",
        status=status if status >= 500 else None,
    )
