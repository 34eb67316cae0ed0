"""The catalogue of what nodes say: complete, and read by the page as it was written."""

import json
import re
from pathlib import Path

import message_catalogue as catalogue
import pytest
from page_translator import CHINESE, PageTranslator, chinese

KEYS = catalogue.texts()


WHOLE, VALUE = "Encoding the picture", "Decoded by ComfyUI: {reason}"
"""Texts to put others behind and into."""
FEW = 5
"""Letters of a text that the page only looks for in values (web/message_matcher.js)."""


def sample(text: str, table: dict[str, str]) -> tuple[str, str]:
    """A message made from a text, with a value of its own for each placeholder, and what a page shows with a table."""
    values = {name: f"q{number}w" for number, name in enumerate(catalogue.PLACEHOLDER.findall(text))}

    def filled(template: str) -> str:
        return catalogue.PLACEHOLDER.sub(lambda found: values[found[1]], template)

    message, shown = filled(text), filled(table[text])
    if text[0] in " ,;.+":
        return WHOLE + message, table[WHOLE] + shown
    if len(re.findall("[A-Za-z]", catalogue.PLACEHOLDER.sub("", text))) < FEW:
        return VALUE.format(reason=message), table[VALUE].format(reason=shown)
    return message, shown


def test_the_catalogue_is_what_the_code_says():
    """If not: python scripts/message_catalogue.py, and translate what is new."""
    assert catalogue.read("en") == KEYS


@pytest.mark.parametrize("language", catalogue.languages())
def test_every_text_is_translated_with_the_same_values(language):
    assert not catalogue.problems(language)


def test_chinese_is_chinese():
    """Apart from names, which both languages write alike."""
    same = {
        key for key, text in catalogue.read("zh").items() if not CHINESE.search(catalogue.PLACEHOLDER.sub("", text))
    }
    words = {word for key in same for word in re.findall(r"[A-Za-z]{3,}", catalogue.PLACEHOLDER.sub("", key))}
    assert words <= {
        *("Animate", "Context", "ControlNet", "Diffusion", "HuMo", "LoRA", "RoPE", "Stable", "UNet", "VACE", "VAE"),
        *("Wan", "Windows", "alpha", "clips", "frames", "fps", "rank", "the"),
    }


def test_the_page_finds_every_text_in_a_message_made_from_it(tmp_path: Path):
    """In a language in which a text is its number and the names of its values, so that all can be read off."""
    table = {
        key: f"<{number} {' '.join(f'{name}={{{name}}}' for name in catalogue.PLACEHOLDER.findall(key))}>"
        for number, key in enumerate(KEYS)
    }
    file = tmp_path / "numbers.json"
    file.write_text(json.dumps(table), encoding="utf-8")
    samples = {key: sample(key, table) for key in KEYS if key not in catalogue.DURATIONS}
    shown = PageTranslator(file).translate([message for message, _ in samples.values()])
    wrong = {key: text for (key, (_, wanted)), text in zip(samples.items(), shown, strict=True) if text != wanted}
    assert not wrong


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        # A list in a value, values with units, and a text at the end of another.
        (
            "After a stop this video goes on after a warm-up: almost, not bit for bit. No state is kept, as one takes "
            "27.16 GiB, 14.01 GiB in fp8 and state_budget is 8.00 GiB; raise it to keep one",
            "中断后，此视频会先预热再续接：几乎一致，但不是逐位一致。没有保留采样状态：一份需要 27.16 GiB，"
            "fp8 需要 14.01 GiB，而续接状态上限为 8.00 GiB；提高上限即可保留",
        ),
        # Lengths of time as the live lines write them, and a text behind a sentence.
        (
            "a.mkv: 2400 frames, 2 min 30 s. Browsers do not play FFV1; VLC, mpv and video editors do.",
            "a.mkv：2400 帧，2 分 30 秒。浏览器不能播放 FFV1，请用 VLC、mpv 或剪辑软件。",
        ),
        # Two sentences with an error of the system, and a name with spaces.
        (
            "/a b/c.mp4 could not be written: No space left on device. What was written of it was removed. Free some "
            "space on the disk, then run again.",
            "无法写入 /a b/c.mp4：磁盘空间不足。已写入的部分已删除。请腾出一些磁盘空间，然后重新运行。",
        ),
        # A line that the pack does not know, between two that it does.
        (
            "Encoding the picture\nAllocation on device 0\nPreparing the decoder",
            "正在编码图片\nAllocation on device 0\n正在准备解码器",
        ),
        (
            "what other packs say is left alone. Every word of it",
            "what other packs say is left alone. Every word of it",
        ),
    ],
)
def test_messages_of_several_texts(message, shown):
    assert chinese().translate([message]) == [shown]
