"""Account and project to sign in with."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google.auth
import google.auth.credentials
import google.auth.exceptions
import google.oauth2.credentials
import google.oauth2.service_account
from ee import oauth
from google.auth import _cloud_sdk

from mmearth_data.errors import FileInputError, InputError
from mmearth_data.sources.earthengine.failures import SignInMissing
from mmearth_data.words import reason_of

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECT_VARIABLES = ("EARTHENGINE_PROJECT", "GOOGLE_CLOUD_PROJECT")
SCOPES = [f"https://www.googleapis.com/auth/{scope}" for scope in ("earthengine", "cloud-platform")]
GOOGLE_MACHINE = ("K_SERVICE", "GCE_METADATA_HOST", "GCE_METADATA_IP", "KUBERNETES_SERVICE_HOST")
"""Environment variables of Google's machines, which may provide an account; elsewhere, the search takes 9 seconds."""
UNUSABLE = (ValueError, TypeError, AttributeError, KeyError, google.auth.exceptions.GoogleAuthError)
"""What google-auth raises for files that are not credentials."""
WAYS = (
    "(1) run `earthengine authenticate`; "
    "(2) run `gcloud auth application-default login`, or point GOOGLE_APPLICATION_CREDENTIALS to a key file; "
    "(3) --service-account KEY.json. "
    "A new store needs no account with --source synthetic, or --recipe demo."
)
HOW_TO_SIGN_IN = f"Expected credentials for Earth Engine, found none: {WAYS}"
HOW_TO_NAME_A_PROJECT = (
    "Expected a Cloud project that is registered for Earth Engine, found none: "
    "--ee-project ID, or set EARTHENGINE_PROJECT or GOOGLE_CLOUD_PROJECT. "
    "A new store needs no account with --source synthetic, or --recipe demo."
)


@dataclass(frozen=True, slots=True)
class Account:
    """Account and project of a session."""

    credentials: google.auth.credentials.Credentials
    project: str  # Cloud project that is charged


def anonymous(project: str | None) -> Account:
    """Anonymous account; servers outside the service's domain never receive another one."""
    return Account(google.auth.credentials.AnonymousCredentials(), project or "anonymous")


def sign_in(project: str | None, service_account: Path | None) -> Account:
    """Find credentials and a project, without using the network; `SignInMissing` lists all the ways to sign in.

    Without ``project``, it is that of the environment or else of the credentials. Without a key file ``service_account``,
    the credentials are the tokens of ``earthengine authenticate`` or else the application default credentials.
    """
    credentials = _service_account(service_account) if service_account else _tokens() or _application_default()
    if credentials is None:
        raise SignInMissing(HOW_TO_SIGN_IN)
    named = project or next((value for name in PROJECT_VARIABLES if (value := os.environ.get(name))), None)
    own = getattr(credentials, "quota_project_id", None) or getattr(credentials, "project_id", None)
    chosen = named or own
    if not chosen or oauth.is_sdk_project(chosen):
        raise SignInMissing(HOW_TO_NAME_A_PROJECT)
    return Account(credentials, chosen)


def _service_account(path: Path) -> Any:  # noqa: ANN401 - google-auth is untyped
    try:
        key = _json_object(path)
        return google.oauth2.service_account.Credentials.from_service_account_info(key, scopes=SCOPES)
    except (OSError, *UNUSABLE) as error:
        problem = f"expected the key file of a service account (JSON), got: {reason_of(error)}."
        raise FileInputError(path, problem) from None


def _tokens() -> Any | None:  # noqa: ANN401
    path = Path(oauth.get_credentials_path())
    try:
        _json_object(path)
        arguments = oauth.get_credentials_arguments()
        _require_text(arguments)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, *UNUSABLE) as error:
        raise FileInputError(
            path,
            f"expected the tokens of `earthengine authenticate` (JSON), got: {reason_of(error)}. Run `earthengine "
            "authenticate --force`, or delete the file.",
        ) from None
    if not arguments["refresh_token"]:
        return None
    return google.oauth2.credentials.Credentials(None, **arguments)


def _json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file; raises ValueError if it is not an object."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("JSON that is not an object")  # noqa: TRY004 - as for other invalid files
    return found


def _require_text(arguments: Mapping[str, Any]) -> None:
    """Refuse tokens and names that are not text, with which the client would fail later."""
    for name, value in arguments.items():
        for text in value if name == "scopes" and isinstance(value, list) else (value,):
            if not isinstance(text, str | None):
                raise ValueError(f"{name} that is not text")  # noqa: TRY004 - as for other invalid files


def _application_default() -> Any | None:  # noqa: ANN401
    if not _application_default_likely():
        return None
    path = _application_default_file()
    try:
        if path.is_file():
            _json_object(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on quota projects, which this module sets
            credentials, project = google.auth.default(scopes=SCOPES)
    except (OSError, *UNUSABLE) as error:
        several = isinstance(error, google.auth.exceptions.DefaultCredentialsError)
        problem = ": ".join(" ".join(str(part).split()) for part in error.args) if several else reason_of(error)
        raise InputError(
            f"Expected application default credentials for Earth Engine, such as {path}; got: {problem.rstrip('.')}. {WAYS}"
        ) from None
    if project and not getattr(credentials, "quota_project_id", None) and hasattr(credentials, "with_quota_project"):
        return credentials.with_quota_project(project)
    return credentials


def _application_default_file() -> Path:
    """Path of the application default credentials; the file need not exist."""
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    return Path(named or _cloud_sdk.get_application_default_credentials_path())


def _application_default_likely() -> bool:
    """Whether application default credentials can exist, judging from files and variables only."""
    if any(os.environ.get(name) for name in ("GOOGLE_APPLICATION_CREDENTIALS", *GOOGLE_MACHINE)):
        return True
    if _application_default_file().is_file():
        return True
    try:
        return Path("/sys/class/dmi/id/product_name").read_text().strip().startswith("Google")
    except OSError:
        return False
