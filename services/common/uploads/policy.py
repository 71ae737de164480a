"""What the configuration allows to be uploaded: size and media types. Pure."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

from services.common.errors import ContentTooLarge, UnsupportedMediaType


@dataclass(frozen=True, slots=True)
class UploadPolicy:
    """Limits of one file: `max_size` in bytes, `media_types` as patterns such as `video/*`; none allow every type."""

    max_size: int
    media_types: tuple[str, ...] = ()

    def check_length(self, length: int | None) -> None:
        """Raises ContentTooLarge. None is a length that is not known yet."""
        if length is not None and length > self.max_size:
            raise ContentTooLarge(f"the file is larger than {self.max_size} bytes")

    def check_media_type(self, content_type: str) -> str:
        """Return `content_type`. Raises UnsupportedMediaType where no pattern matches it."""
        media_type = content_type.partition(";")[0].strip().lower()
        if self.media_types and not any(fnmatchcase(media_type, pattern.lower()) for pattern in self.media_types):
            raise UnsupportedMediaType(f"media type {media_type} is not allowed")
        return content_type
