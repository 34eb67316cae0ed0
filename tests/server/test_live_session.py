"""Live Voice and Live Out in a real ComfyUI: speech that is posted becomes a video, and the session ends cleanly."""

import json

import pytest
from comfy_client import PromptRefused
from comfy_server import ROOT
from live_session import LiveRun
from prompt_builder import PromptBuilder
from video_facts import probe, read_frame

OUT, VOICE, SAMPLER = "LiveAvatar_LiveOut", "LiveAvatar_LiveVoice", "LiveAvatar_DiTSampler"
SPOKEN = (ROOT / "demo" / "voice.wav").read_bytes()
RED = "A friendly person talks to the camera in front of a red wall."


@pytest.fixture(scope="module")
def live_talk(object_info):
    """live_talk(**inputs of Live Out): the template, of a seed of its own."""
    workflow = json.loads((ROOT / "workflows" / "live_talk.json").read_text(encoding="utf-8"))

    def build(seed: int = 77, **inputs) -> PromptBuilder:
        prompt = PromptBuilder(workflow, object_info)
        prompt.set("LiveAvatar_ClipScheduler", seed=seed)
        prompt.set(OUT, **inputs)
        return prompt

    return build


@pytest.fixture(scope="module")
def spoken(server, live_talk):
    """A session that was spoken to and got another prompt, with its recording."""
    with LiveRun(server, live_talk(record=True)) as live:
        live.until(lambda state: state["seconds"] > 0.5)
        said, answer = live.ask("/voice?barge_in=1", SPOKEN, origin=None, token=live.token)
        assert said == 200 and 5 < answer["queued"] < 8, answer
        heard = live.until(lambda state: state["seconds"] > 2.5)
        assert heard["stage"] == "running" and not heard["paused"]
        status, told = live.control(prompt=RED, motion_strength=1.2)
        assert status == 200, told
        changed = live.state()["seconds"]
        live.until(lambda state: state["seconds"] > changed + 2.0)
        with pytest.raises(PromptRefused, match="a live session is running"):
            server.client.run(live_talk().nodes)
    return live, live.end()


def test_what_was_said_is_in_the_recording_with_its_sound(server, spoken):
    live, result = spoken
    result.raise_for_error()
    (saved,) = result.outputs[live.prompt.id(OUT)]["images"]
    video = probe(server.output / saved["subfolder"] / saved["filename"])
    assert video.fps == 25 and video.frames % 12 == 0 and video.frames >= 100
    assert video.samples == video.frames * 48_000 // 25
    report = json.loads(
        (server.output / saved["subfolder"] / saved["filename"]).with_suffix(".json").read_text("utf-8")
    )
    assert report["fps"] == "25" and report["latency"]["stages"]["steps"]["count"] == video.frames // 12


def test_another_prompt_changes_the_wall(server, spoken):
    live, result = spoken
    (saved,) = result.outputs[live.prompt.id(OUT)]["images"]
    path = server.output / saved["subfolder"] / saved["filename"]
    first, last = (read_frame(path, number)[2:10, 2:10].mean(axis=(0, 1)) for number in (40, probe(path).frames - 1))
    assert first[2] > first[0] + 50 and last[0] > last[2] + 50, "blue, then red"


def test_the_node_tells_how_late_it_was(spoken):
    live, result = spoken
    told = result.notes(live.prompt.id(OUT))
    assert any(line.startswith("Live for ") for line in told), told
    assert any("From the end of a block to its frames" in line for line in told), told


def test_it_goes_on_where_it_stopped_and_cancel_leaves_nothing_running(server, live_talk, spoken):
    with LiveRun(server, live_talk(record=True, filename_prefix="cancelled/talk")) as live:
        live.until(lambda state: state["seconds"] > 2.0)
        server.client.interrupt()
        result = live.end()
        assert result.interrupted and live.state()["stage"] == "over"
        status, answer = live.control(do="pause")
        assert status == 400 and "over" in answer["error"]
    assert any("goes on where its last session stopped" in line for line in result.texts()), result.texts()
    assert not list(server.base.glob("temp/liveavatar-*"))
    (recorded,) = (server.output / "cancelled").glob("*.mp4")
    assert probe(recorded).frames > 0 and json.loads(recorded.with_suffix(".json").read_text("utf-8"))["seconds"] > 0


def test_pages_of_others_and_programs_without_the_token_are_refused(server, live_talk):
    with LiveRun(server, live_talk(seed=78)) as live:
        for path, data in (("/state", None), ("/control", b'{"do": "pause"}'), ("/voice?rate=24000", bytes(200))):
            assert live.ask(path, data, origin="http://evil.example")[0] == 403
            assert live.ask(path, data, origin="null")[0] == 403
            if data is not None:
                assert live.ask(path, data, origin=None)[0] == 403
                assert live.ask(path, data, origin=None, token="guess")[0] == 403
        assert not live.state()["paused"]
        for sent in (b"", b"{", b"[]", b'{"do": "fly"}', b'{"prompt": 3}', b"\xff" * 300_000, b'{"picture": "../x"}'):
            status, answer = live.ask("/control", sent)
            assert status == 400 and len(answer["error"]) > 10, (sent[:20], answer)
        for query in ("", "?rate=x", "?rate=1", "?rate=99999999"):
            status, answer = live.ask(f"/voice{query}", bytes(200))
            assert status == 400 and "rate" in answer["error"], answer
        status, answer = live.ask("/voice", b"RIFF" + bytes(100))
        assert status == 400 and "WAV" in answer["error"]
        status, answer = live.ask("/voice?rate=8000", bytes(2 * 8000 * 200))
        assert status == 400 and "queue is full" in answer["error"], answer
        assert live.ask("/state", address=f"{server.url}/liveavatar/live/nobody")[0] == 404
        assert live.control(do="pause")[0] == 200 and live.state()["paused"]
        assert live.control(do="go_on")[0] == 200 and not live.state()["paused"]


def test_a_file_that_is_still_written_is_heard(server, live_talk):
    prompt = live_talk(seed=79)
    prompt.set(VOICE, source="growing file", file="growing.raw", sample_rate=24000)
    with LiveRun(server, prompt) as live:
        live.until(lambda state: state["seconds"] > 0.5)
        with (server.input / "growing.raw").open("wb") as file:
            file.write(SPOKEN[44 : 44 + 2 * 24000 * 3])
            file.flush()
            live.until(lambda state: state["queued"] > 0.5)
            live.until(lambda state: state["queued"] == 0)


@pytest.mark.parametrize(("file", "told"), [("", "file is empty"), ("../x.wav", "not in ComfyUI's input folder")])
def test_a_file_that_cannot_be_read_is_refused_before_anything_runs(server, live_talk, file, told):
    prompt = live_talk()
    prompt.set(VOICE, source="growing file", file=file)
    with pytest.raises(PromptRefused, match=told):
        server.client.run(prompt.nodes)
