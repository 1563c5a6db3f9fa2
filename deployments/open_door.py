"""No keys, no public address: what everybody can reach must not be open to everybody."""

from app.errors import SettingsError
from app.loopback import is_loopback
from app.settings import Settings


def refuse_public_host(host: str, setting: str, settings: Settings) -> None:
    """`setting` is where `host` stands, for the words. Raises SettingsError where there are no keys."""
    if settings.api_keys or is_loopback(host):
        return
    raise SettingsError(
        f"{setting} is {host}, which others can reach, and there are no API keys. "
        "Set BATCHYARD_API_KEYS (comma-separated), or serve on 127.0.0.1"
    )
