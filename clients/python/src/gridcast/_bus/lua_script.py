"""A Lua script with the SHA-1 by which Redis names it."""

import hashlib
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Self


@dataclass(frozen=True)
class LuaScript:
    """A script that is called by its SHA-1, and is sent in full only to a server that does not have it yet."""

    source: str
    sha1: str = field(init=False)

    def __post_init__(self) -> None:
        # Redis names scripts by SHA-1; no security depends on its strength.
        object.__setattr__(self, "sha1", hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest())

    @classmethod
    def load(cls, package: str, name: str) -> Self:
        """The script in the file `lua/NAME.lua` of an installed package."""
        return cls(files(package).joinpath("lua", f"{name}.lua").read_text("utf-8"))
