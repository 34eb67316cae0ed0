"""What nodes tell, on a Chinese page: a refused prompt, an error while it runs, progress, and notes."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
WORKFLOW = json.loads((ROOT / "workflows" / "short_clip.json").read_text(encoding="utf-8"))
PLAN, SAMPLER, DECODE = "LiveAvatar_ClipScheduler", "LiveAvatar_DiTSampler", "LiveAvatar_OnlineVAEDecode"
SMALL = {"num_clip": 0, "infer_frames": 12, "width": 64, "height": 64, "seed": 77}
REFUSED = re.compile(r"400 \(Bad Request\).*/api/prompt|PromptExecutionError|Prompt execution failed")
"""What the page itself writes of a prompt that is refused."""


def test_a_chinese_page_shows_messages_in_chinese(open_page, renderer):
    page = open_page(locale="zh", node_type=SAMPLER)
    page.load_workflow(WORKFLOW)
    plan, sampler, decode = (page.node_id(kind) for kind in (PLAN, SAMPLER, DECODE))
    page.page.evaluate("(id) => app.graph.getNodeById(id).disconnectInput('infer_frames')", int(plan))
    for name, value in SMALL.items():
        page.set_widget(plan, name, value)
    details = page.page.get_by_role("button", name="查看详情")

    page.set_widget(decode, "filename_prefix", "../outside")
    page.press_run()
    details.click()
    page.page.get_by_role("button", name=re.compile("在线 VAE 解码.*信息")).first.click()
    page.page.get_by_text("超出了输出文件夹").first.wait_for()
    page.screenshot("messages-refused")

    page.set_widget(decode, "filename_prefix", "chinese")
    page.set_widget(plan, "segment_clips", 1)
    page.set_widget(plan, "segment_index", 50)
    page.press_run()
    page.wait_for_event("execution_error", timeout=240)
    details.click()
    page.page.get_by_text("分段序号为 50；语音可填满 10 个片段").first.wait_for()
    page.screenshot("messages-failed")

    page.set_widget(plan, "segment_index", 0)
    page.press_run()
    page.wait_until_done()
    assert "正在编码图片" in {event["text"] for event in page.events("progress_text")}
    page.fit_view()
    page.show_node(sampler)
    page.settle()
    page.screenshot("messages-notes")
    assert any("64x64，10 个片段，120 帧；此分段：第 1 个片段，12 帧" in line for line in page.notes(sampler))
    unexpected = [error for error in page.errors if not REFUSED.search(error)]
    assert not unexpected
