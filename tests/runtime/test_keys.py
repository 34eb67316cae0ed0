"""Keys of the workers' connection: made, kept secret, refused; and groups by name in a file of the user."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from liveavatar_runtime.errors import InputError
from liveavatar_workers.addresses import parse_address
from liveavatar_workers.client.named import read_group
from liveavatar_workers.keys import KeyPair, main, make_files, read_pair, read_public_keys
from liveavatar_workers.private_files import check_private, readers_of
from liveavatar_workers.rank.interfaces import is_loopback, use_interface

ON_POSIX = pytest.mark.skipif(sys.platform == "win32", reason="file modes are POSIX's")


def test_the_command_makes_both_halves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "studio")]) == 0
    pair = read_pair(tmp_path / "studio.key")
    assert read_public_keys(tmp_path / "studio.pub") == {pair.public}
    told = capsys.readouterr().out
    assert pair.public.hex() in told and pair.secret.hex() not in told and pair.secret.hex() not in repr(pair)
    assert main([str(tmp_path / "studio")]) == 1
    assert "studio.key exists" in capsys.readouterr().err
    assert read_pair(tmp_path / "studio.key") == pair


@ON_POSIX
def test_a_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        secret, _ = make_files(tmp_path / "studio")
    finally:
        os.umask(before)
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    for mode in (0o640, 0o604, 0o620, 0o666):
        secret.chmod(mode)
        with pytest.raises(InputError, match=rf"is a secret. Type: chmod 600 '{secret}'"):
            read_pair(secret)
    secret.chmod(0o400)
    read_pair(secret)


@pytest.mark.parametrize(
    ("access_list", "readers"),
    [
        ("D:PAI(A;;FA;;;SY)(A;;FA;;;BA)(A;;FA;;;S-1-5-21-1-2-3-1001)", []),
        ("D:AI(A;ID;FA;;;SY)(A;ID;0x1200a9;;;BU)", ["Users"]),
        ("D:(A;;FR;;;WD)", ["Everyone"]),
        ("D:(A;;0x1301bf;;;AU)(A;;GR;;;S-1-5-32-545)", ["Authenticated Users", "Users"]),
        ("D:(A;;CCDCLC;;;WD)", ["Everyone"]),
        ("D:(A;;0x100000;;;WD)(D;;FA;;;WD)(A;;WD;;;BU)", []),
        ("D:NO_ACCESS_CONTROL", ["Everyone"]),
    ],
    ids=["own", "inherited", "everyone", "two", "rights by letters", "not to read", "none"],
)
def test_who_reads_a_file_on_windows(access_list: str, readers: list[str]) -> None:
    assert readers_of(access_list) == readers


@pytest.mark.skipif(sys.platform != "win32", reason="the access list is Windows'")
def test_an_own_file_on_windows_is_private_once_it_is_told_so(tmp_path: Path) -> None:
    secret, _ = make_files(tmp_path / "studio")
    subprocess.run(["icacls", str(secret), "/inheritance:r", "/grant:r", f"{os.environ['USERNAME']}:F"], check=True)
    check_private(secret)
    subprocess.run(["icacls", str(secret), "/grant", "Everyone:R"], check=True)
    with pytest.raises(InputError, match="Everyone"):
        check_private(secret)


@pytest.mark.parametrize("content", ["", "# only words\n", "abc\n", "0" * 63, "g" * 64, "0" * 64 + "\n" + "1" * 64])
def test_files_without_a_key_are_refused(tmp_path: Path, content: str) -> None:
    file = tmp_path / "studio.key"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(InputError, match="studio.key has") as told:
        read_pair(file)
    assert "0" * 63 not in str(told.value), "it may be a secret"


def test_missing_keys_are_told_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"is missing; make one with: python -m liveavatar_workers.keys {tmp_path}/c"):
        read_pair(tmp_path / "c.key")
    with pytest.raises(InputError, match="c.pub is missing"):
        read_public_keys(tmp_path / "c.pub")
    (tmp_path / "c.pub").write_text("# nobody\n")
    with pytest.raises(InputError, match="nobody may use the workers"):
        read_public_keys(tmp_path / "c.pub")


def test_several_comfyuis_are_listed_in_one_file(tmp_path: Path) -> None:
    pairs = [KeyPair.new() for _ in range(2)]
    file = tmp_path / "clients.pub"
    file.write_text("".join(f"# {n}\n{pair.public.hex()}\n\n" for n, pair in enumerate(pairs)))
    assert read_public_keys(file) == {pair.public for pair in pairs}


KEY = "ab" * 32
FILE = f"""
[studio]
address = 192.168.1.10:29600
key = {KEY}

[at home]
address = [fe80::1]:7
key = {KEY}

[half]
address = 10.0.0.1:1
"""


def test_groups_are_found_by_name_only(tmp_path: Path) -> None:
    file = tmp_path / "liveavatar-workers.ini"
    with pytest.raises(InputError, match=r"liveavatar-workers.ini has none; .*\n\[NAME\]\naddress = HOST:PORT\nkey = "):
        read_group(file, "studio")
    file.write_text(FILE)
    assert read_group(file, " studio ").address == ("192.168.1.10", 29600)
    assert read_group(file, "at home").address == ("fe80::1", 7)
    assert read_group(file, "studio").key == bytes.fromhex(KEY)
    with pytest.raises(InputError, match="is no name of a group; .* has studio, at home, half"):
        read_group(file, "elsewhere")
    with pytest.raises(InputError, match=r"\[half\]: key is missing"):
        read_group(file, "half")
    with pytest.raises(InputError, match="not taken from a workflow. Choose its name: studio"):
        read_group(file, "192.168.1.10:29600")
    with pytest.raises(
        InputError, match=r"not taken from a workflow.*\n\[NAME\]\naddress = evil.example:443\nkey = PUBLIC"
    ):
        read_group(file, "evil.example:443")


@pytest.mark.parametrize("content", ["no section = 1", "[a]\n[a]\n", "\xff\xfe"])
def test_files_of_groups_that_cannot_be_read_are_told(tmp_path: Path, content: str) -> None:
    file = tmp_path / "liveavatar-workers.ini"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match="cannot be read"):
        read_group(file, "a")


def test_addresses() -> None:
    assert parse_address(" 10.0.0.2:29600") == ("10.0.0.2", 29600)
    assert parse_address("[::1]:1") == ("::1", 1)
    for wrong in ("", "10.0.0.2", "host:", ":1", "host:70000", "host:x"):
        with pytest.raises(InputError, match="host:port"):
            parse_address(wrong)


def test_pytorchs_ports_are_on_the_loopback_card_unless_another_one_is_named() -> None:
    assert is_loopback("localhost") and is_loopback("127.0.0.2") and not is_loopback("10.0.0.1")
    environment = {"MASTER_ADDR": "127.0.0.1"}
    card = use_interface(environment)
    if sys.platform == "linux":
        assert card == "lo" and environment["GLOO_SOCKET_IFNAME"] == environment["NCCL_SOCKET_IFNAME"] == "lo"
    assert use_interface({"MASTER_ADDR": "10.0.0.1", "GLOO_SOCKET_IFNAME": "eth7"}) == "eth7"
    with pytest.raises(InputError, match="ranks meet at 10.0.0.1, .* have no authentication: name the card"):
        use_interface({"MASTER_ADDR": "10.0.0.1"})
