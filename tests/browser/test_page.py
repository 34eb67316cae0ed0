"""The page itself: it opens with the pack installed, and nothing complains."""


def test_page_opens_without_errors(comfy_page):
    comfy_page.clear()
    comfy_page.settle(1.0)
    assert not comfy_page.errors
    assert comfy_page.screenshot("empty").stat().st_size > 10_000
