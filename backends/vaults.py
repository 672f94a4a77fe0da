"""Vaults reached over the network: HashiCorp Vault and Azure Key Vault, each by its library, an optional extra.

The functions block, and so are called in a thread. What a vault says of a failure is told, its values and tokens never.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from backends.errors import SecretError
from backends.text import plain

_AZURE_NAMES: Final = re.compile(r"(?P<vault>[A-Za-z][A-Za-z0-9-]{1,22}[A-Za-z0-9])/(?P<name>[A-Za-z0-9-]{1,127})")
"""What Azure allows as names of a vault and of a secret."""


def read_hashicorp(reference: str, rest: str, environment: Mapping[str, str], limit: float) -> str:
    """A field of a secret of HashiCorp Vault's KV engine, of version 2 or 1 as its mount says.

    VAULT_ADDR, VAULT_TOKEN (else ~/.vault-token), VAULT_NAMESPACE and VAULT_CACERT mean what they mean to Vault's own
    program.
    """
    path, _, field = rest.partition("#")
    path = path.strip("/")
    if not path or not field or ".." in path.split("/"):
        raise SecretError(f"{reference}: a path and a field are needed.", "vault:PATH#FIELD")
    hvac = _library(reference, "hvac", "HashiCorp Vault", "vault")
    requests = importlib.import_module("requests.exceptions")
    address = environment.get("VAULT_ADDR")
    if not address:
        raise SecretError(f"{reference}: where Vault is, is not said.", "export VAULT_ADDR=https://...:8200")
    client = hvac.Client(
        url=address,
        token=_token(reference, environment),
        namespace=environment.get("VAULT_NAMESPACE"),
        verify=environment.get("VAULT_CACERT") or True,
        timeout=limit,
    )
    errors = importlib.import_module("hvac.exceptions")
    try:
        found = _read(client, path)
    except errors.Forbidden:
        raise _forbidden(reference, client, errors) from None
    except (errors.VaultDown, errors.VaultNotInitialized) as error:
        raise _down(reference, error) from None
    except errors.VaultError as error:
        raise SecretError(f"{reference}: Vault refused: {_said(error)}") from None
    except requests.SSLError:
        advice = "Name the authority of its certificate: export VAULT_CACERT=FILE."
        raise SecretError(f"{reference}: the certificate of Vault at {address} is not trusted.", advice) from None
    except requests.Timeout:
        raise TimeoutError from None
    except requests.RequestException as error:
        raise SecretError(
            f"{reference}: Vault at {address} is not reached ({type(error).__name__}).",
            "Is it running, and VAULT_ADDR right?",
        ) from None
    finally:
        client.adapter.close()
    if found is None:
        advice = "Its path begins with the mount, as in `vault kv get PATH`, without data/ in between."
        raise SecretError(f"{reference}: Vault has no such secret, or it was deleted.", advice)
    if found.get(field) is None:
        raise SecretError(f"{reference}: the secret has no field {plain(field)}.", f"vault kv get {plain(path)}")
    return str(found[field])


def _read(client: Any, path: str) -> Any:
    """The fields of a secret, None where there is none; the mount is asked for its version as Vault's program does."""
    mount = client.adapter.get(f"/v1/sys/internal/ui/mounts/{path}")["data"]
    root = str(mount["path"])
    if (mount.get("options") or {}).get("version") != "2":
        answer = client.read(path)
        return answer and answer["data"]
    answer = client.read(f"{root}data/{path.removeprefix(root)}")
    return answer and answer["data"]["data"]


def _token(reference: str, environment: Mapping[str, str]) -> str:
    token = environment.get("VAULT_TOKEN", "").strip()
    if not token:
        try:
            token = Path(environment.get("HOME") or Path.home(), ".vault-token").read_text().strip()
        except (OSError, UnicodeError):
            token = ""
    if not token:
        raise SecretError(f"{reference}: there is no token for Vault.", "Log in: vault login; or set VAULT_TOKEN.")
    return token


def _forbidden(reference: str, client: Any, errors: Any) -> SecretError:
    """Whether the token is no good at all, or only not good for this path."""
    try:
        client.lookup_token()
    except errors.Forbidden:
        return SecretError(f"{reference}: Vault does not accept the token; it may have expired.", "vault login")
    except errors.VaultError as error:
        return _down(reference, error)
    return SecretError(f"{reference}: the token may not read it.", "Give its policy the capability read on this path.")


def _down(reference: str, error: Exception) -> SecretError:
    said = _said(error)
    if "sealed" in said.lower():
        return SecretError(f"{reference}: Vault is sealed.", "Unseal it: vault operator unseal.")
    return SecretError(f"{reference}: Vault is not in service: {said}", "vault status tells more.")


def _said(error: Exception) -> str:
    """Vault's own words."""
    return plain(", ".join(getattr(error, "errors", None) or ()) or type(error).__name__)


def read_azure(reference: str, rest: str) -> str:
    """A secret of Azure Key Vault, by whatever login DefaultAzureCredential finds (az login, environment, identity)."""
    named = _AZURE_NAMES.fullmatch(rest)
    if named is None:
        raise SecretError(f"{reference}: a vault and a secret are needed.", "azure-kv:VAULT/SECRET")
    identity = _library(reference, "azure.identity", "Azure Key Vault", "azure")
    secrets = _library(reference, "azure.keyvault.secrets", "Azure Key Vault", "azure")
    errors = importlib.import_module("azure.core.exceptions")
    log = logging.getLogger("azure")
    if not log.handlers:
        log.addHandler(logging.NullHandler())  # else it writes warnings over the screen
    address = f"https://{named['vault']}.vault.azure.net"
    try:
        with (
            identity.DefaultAzureCredential() as credential,
            secrets.SecretClient(vault_url=address, credential=credential, retry_total=1) as client,
        ):
            return client.get_secret(named["name"]).value or ""
    except errors.ClientAuthenticationError:
        raise SecretError(f"{reference}: Azure does not accept the login; it may have expired.", "az login") from None
    except errors.ResourceNotFoundError:
        raise SecretError(
            f"{reference}: the vault has no such secret.", "az keyvault secret list shows them."
        ) from None
    except errors.HttpResponseError as error:
        if error.status_code == 403:
            advice = "Give it the role Key Vault Secrets User; or is it disabled, or expired, or the firewall closed?"
            raise SecretError(f"{reference}: the login may not read it.", advice) from None
        raise SecretError(f"{reference}: Azure refused (status {error.status_code}).") from None
    except errors.AzureError as error:
        raise SecretError(
            f"{reference}: {address} is not reached ({type(error).__name__}).", "Is the vault's name right?"
        ) from None


def _library(reference: str, name: str, vault: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise SecretError(
            f"{reference}: the library for {vault} is not installed.", f'Install it: pip install "tierdeck[{extra}]"'
        ) from None
