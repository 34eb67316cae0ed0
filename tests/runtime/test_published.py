"""What others published, beside the plan's answers: the page says what the command does."""

from pathlib import Path

from benchmarks.published import text


def test_the_page_has_what_the_command_prints():
    page = (Path(__file__).parents[2] / "docs" / "PUBLISHED.md").read_text(encoding="utf-8")
    assert page[page.index("\n## ") + 1 :] == text() + "\n"
