"""The setting of the upload hook, which upload and live share."""

from pathlib import Path

from pydantic import Field, SecretStr, field_validator

from services.common.settings import Settings
from services.common.webhooks.endpoints import Endpoint, parse_hook

MAX_SECRET_FILE_BYTES = 4096


def read_secret_file(path: str) -> str:
    """Return the text of a file with secrets. Raises ValueError, without the path: it may be a secret in the wrong place."""
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_SECRET_FILE_BYTES).decode("ascii")
    except OSError as error:
        raise ValueError(f"secret_file names a file that cannot be read: {error.strerror}") from None
    except ValueError:  # not ASCII, or a path with a null character
        raise ValueError("secret_file names a file that is not text") from None


class HookSettings(Settings):
    """Who is asked before an upload or a live stream begins."""

    upload_hook: SecretStr = Field(
        SecretStr(""),
        description="JSON object with url, and secret or secret_file: asked before each upload and live stream "
        "(docs/webhooks.md); empty: none",
    )

    @field_validator("upload_hook")
    @classmethod
    def _check_upload_hook(cls, value: SecretStr) -> SecretStr:
        if text := value.get_secret_value():
            parse_hook(text, read_secret_file)
        return value

    def hook_endpoint(self) -> Endpoint | None:
        """Where the upload hook is asked, None where it is not."""
        text = self.upload_hook.get_secret_value()
        return parse_hook(text, read_secret_file) if text else None
