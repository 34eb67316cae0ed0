"""Names of new files: what stands between percent signs, and what no system refuses."""

from datetime import datetime

import pytest

from liveavatar_runtime.errors import InputError
from liveavatar_runtime.media.file_names import MAX_NAME_BYTES, NUMBER_AND_ENDING, check_prefix, expand

NOW = datetime(2026, 3, 7, 9, 5, 2)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("%date:yyyy-MM-dd%/a", "2026-03-07/a"),
        ("%date%/a", "2026-03-07/a"),
        ("%date:yy_M_d_h_m_s%", "26_3_7_9_5_2"),
        ("%date:hhmmss%", "090502"),
        ("a\\b", "a/b"),
        ("50% of all", "50% of all"),
        ("%year%_%width%", "%year%_%width%"),
        ("x%KSampler.seed%", "x12"),
        ("%KSampler.name%", "a_b_c_"),
        ("%KSampler.odd%", "a_b_c_d"),
    ],
)
def test_patterns(prefix, expected):
    widgets = {"KSampler.seed": "12", "KSampler.name": "a/b:c?", "KSampler.odd": "a\nb\u202ec\ud800d"}
    assert expand(prefix, NOW, widgets) == (expected, [])


def test_patterns_that_nobody_knows_stay_and_are_named():
    assert expand("%A.b%_%seed%", NOW, {}) == ("%A.b%_%seed%", ["%A.b%", "%seed%"])


@pytest.mark.parametrize(
    ("prefix", "reads"),
    [
        ("", "must end with a file name"),
        ("folder/", "must end with a file name"),
        ("a:b", "has :; these are not allowed"),
        ('what?/"x"', r"folder name 'what\?' has \?"),
        ("a\tb", "has U\\+0009"),
        ("a\nb", "has U\\+000A"),
        ("a\x1b[2Jb/c", "has U\\+001B"),
        ("a\0b", "has U\\+0000"),
        ("a\x85b", "has U\\+0085"),
        ("a\u202egpj.exe", "has U\\+202E"),
        ("a\u2066b", "has U\\+2066"),
        ("a\u200bb", "has U\\+200B"),
        ("\ufeffa", "has U\\+FEFF"),
        ("a\u2028b", "has U\\+2028"),
        ("a\ud800b", "has U\\+D800"),
        ("CON .txt", "name of a device on Windows"),
        ("com²", "name of a device on Windows"),
        ("CON", "name of a device on Windows"),
        ("videos/com1.x", "name of a device on Windows"),
        ("nul/a", "folder name 'nul' is the name"),
        ("videos./a", "ends with a dot or a space"),
        ("videos /a", "ends with a dot or a space"),
        ("a" * 260, "is 260 bytes long; 243 are allowed"),
        ("é" * 130, "is 260 bytes long"),
        ("b" * 256 + "/a", "is 256 bytes long; 255 are allowed"),
    ],
)
def test_names_that_some_system_refuses(prefix, reads):
    with pytest.raises(InputError, match=reads):
        check_prefix(prefix)


def test_a_pattern_that_nobody_replaces_counts_as_it_stands():
    check_prefix("%what?.is:this\u202e%")
    with pytest.raises(InputError, match="has : \\? U\\+202E"):
        check_prefix("%what?.is:this\u202e%", final=True)
    check_prefix("%width%x%height%", final=True)


@pytest.mark.parametrize(
    "prefix", ["avatar", "a/b.c/d e", "数字人/视频", "Concert", "com", "x" * (MAX_NAME_BYTES - NUMBER_AND_ENDING)]
)
def test_names_that_all_take(prefix):
    check_prefix(prefix)
