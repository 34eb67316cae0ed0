"""What every message is: fields that are checked when it is read, before anyone acts on it."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=0, lt=2**53)]
Text = Annotated[str, Meta(max_length=2**20)]
DtypeName = Literal["float32", "float16", "bfloat16"]


class Message(msgspec.Struct, kw_only=True, eq=False, tag_field="type", forbid_unknown_fields=True):
    """`check` raises ValueError, naming the field, for values that cannot be meant."""

    def check(self) -> None:
        return None
