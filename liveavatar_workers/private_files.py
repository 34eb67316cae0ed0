"""Files that only their owner may read: by their mode, and on Windows by their access list."""

import os
import re
import stat
import sys
from pathlib import Path

from liveavatar_runtime.errors import InputError

WIDE_GROUPS = {
    "WD": "Everyone",
    "AU": "Authenticated Users",
    "BU": "Users",
    "BG": "Guests",
    "AN": "Anonymous",
    "IU": "Interactive",
    "NU": "Network",
    "DU": "Domain Users",
    "S-1-1-0": "Everyone",
    "S-1-5-11": "Authenticated Users",
    "S-1-5-32-545": "Users",
}
"""How Windows writes groups to which more than the owner and administrators belong."""
READING_RIGHTS = ("FA", "FR", "GA", "GR")
READ_BIT, GENERIC_READ_BITS = 0x1, 0x90000000
"""FILE_READ_DATA; GENERIC_READ and GENERIC_ALL."""


def write_private(file: Path, content: str) -> None:
    """A new file that nobody else may read, not even for a moment."""
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.write(content)


def check_private(file: Path) -> None:
    """Raises InputError, with what to type, when others may read the file."""
    if sys.platform == "win32":
        readers = readers_of(windows_access_list(file))
        if readers:
            raise InputError(
                f"{file} may be read by {', '.join(readers)}; it is a secret. Type: "
                f'icacls "{file}" /inheritance:r /grant:r "%USERNAME%":F'
            )
    elif stat.S_IMODE(file.stat().st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(
            f"{file} may be read or changed by others; it is a secret. Type: chmod 600 '{file}' (if that changes "
            "nothing, move it to a disk whose file system knows permissions)"
        )


def readers_of(access_list: str) -> list[str]:
    """Wide groups that an access list in Windows' notation (SDDL) lets read."""
    if re.search(r"D:[A-Z]*NO_ACCESS_CONTROL", access_list):
        return [WIDE_GROUPS["WD"]]
    entries = (entry.split(";") for entry in re.findall(r"\(([^()]*)\)", access_list))
    found = [entry[5] for entry in entries if len(entry) >= 6 and entry[0] in ("A", "XA") and _reads(entry[2])]
    return [WIDE_GROUPS[group] for group in found if group in WIDE_GROUPS]


def _reads(rights: str) -> bool:
    """ "FA", "0x1200a9" or several of two letters, such as "CCDC" (CC: read)."""
    if rights.lower().startswith("0x"):
        return bool(int(rights, 16) & (READ_BIT | GENERIC_READ_BITS))
    names = re.findall("..", rights)
    return "CC" in names or any(name in names for name in READING_RIGHTS)


def windows_access_list(file: Path) -> str:
    """The file's access list as Windows writes it: "D:PAI(A;;FA;;;SY)..."."""
    import ctypes

    kinds = {"SE_FILE_OBJECT": 1, "DACL_SECURITY_INFORMATION": 4, "SDDL_REVISION_1": 1}
    windows: object = ctypes
    library = getattr(windows, "WinDLL")("advapi32", use_last_error=True)  # noqa: B009 - on Windows only
    descriptor, text = ctypes.c_void_p(), ctypes.c_wchar_p()
    failed = library.GetNamedSecurityInfoW(
        str(file), kinds["SE_FILE_OBJECT"], kinds["DACL_SECURITY_INFORMATION"], None, None, None, None,
        ctypes.byref(descriptor),
    )  # fmt: skip
    if failed:
        raise InputError(f"the access list of {file} cannot be read (error {failed})")
    converted = library.ConvertSecurityDescriptorToStringSecurityDescriptorW(
        descriptor, kinds["SDDL_REVISION_1"], kinds["DACL_SECURITY_INFORMATION"], ctypes.byref(text), None
    )
    if not converted:
        raise InputError(f"the access list of {file} cannot be read")
    return text.value or ""
