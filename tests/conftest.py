"""One real ComfyUI with this checkout and the tests' own nodes as its packs, for all tests that need one."""

import os
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from comfy_server import ComfyServer, make_base

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "tests" / "artifacts"
ODD_NODES = ROOT / "tests" / "server" / "odd_nodes"
SLOW_FOLDERS = ("server", "browser", "comfy_parity")
SLOW_OF_RUNTIME = [
    "aligned",
    "attention_backends",
    "audio_encoder",
    "big_models",
    "block_run",
    "call_depth",
    "card",
    "cause_of_nan",
    "compile",
    "decoder_rank",
    "demo_bundle",
    "demo_talking",
    "demo_training",
    "docker",
    "faults",
    "finishing",
    "files_in_use",
    "join",
    "killed",
    "latent_stream",
    "live_writer",
    "lost_output",
    "measured",
    "media_codecs",
    "media_video",
    "online_video",
    "out_of_memory",
    "packages",
    "pipeline",
    "pipelines",
    "plan_check",
    "portable",
    "scripts",
    "segment_frames",
    "several_machines",
    "spool_budget",
    "spool_damage",
    "staged_cache",
    "torchrun",
    "vae_preview",
    "vae_streaming",
    "weights_key",
    "wire",
    "worker_failures",
    "workers",
]
"""Files of `tests/runtime` that start processes, encode videos or compute for long."""
LONGEST = [
    "worker_failures",
    "workers",
    "faults",
    "torchrun_workers",
    "decoder_rank",
    "torchrun",
    "workers_package",
    "compile",
    "call_depth",
    "headless",
    "several_machines",
    "killed",
    "card",
    "executors",
    "spool",
]
"""Files that a run begins with: one of them at its end would keep a single core busy while the others have nothing."""
LONG = {
    "runtime/test_card.py": (
        "test_every_part_runs_and_finds_the_processor_right",
        "test_every_way_to_run_a_model_is_checked",
        "test_what_is_measured_is_on_the_page",
        "test_a_processor_gives_no_calibration",
    ),
    "runtime/test_compile.py": ("share_their_graphs[False]", "other_sizes_and_lengths_share_their_graphs"),
    "runtime/test_call_depth.py": ("[adopted-8-compiled]",),
    "server/test_executors.py": ("a_setting_that_changes_latents_samples_anew",),
    "server/test_headless.py": ("a_lost_server_s_job_goes_on_elsewhere",),
    "comfy_parity/test_big_models_in_comfyui.py": ("weights_stay_in_the_file[None]", "weights_stay_in_the_file[torch"),
    "runtime/test_faults.py": ("test_wrong_ways_to_write_a_file", "test_after_a_fault_the_next_run_makes_all_of_it"),
    "runtime/test_worker_failures.py": (
        "[fsdp_killed]",
        "[fsdp_rank_0_killed]",
        "[fsdp_stopped]",
        "[fsdp_hangs]",
        "[fsdp_raises]",
        "[layer_pipeline_hangs]",
        "rank_0_that_never_arrives",
        "[2-1]",
        "[15-1]",
    ),
    "runtime/test_decoder_rank.py": (
        "is_the_same[timestep_pipeline]",
        "is_the_same[fsdp]",
        "its_place[hangs]",
        "its_place[stopped]",
        "other_dtypes_lose_nothing",
    ),
    "runtime/test_live_writer.py": ("[fps2-2048]", "[12-5000]", "test_pushes_to_a_server_that_comes_late"),
    "runtime/test_torchrun.py": (
        "the_end_of_all_ranks_is_seen_first",
        "nobody_is_left_to_tell_of_rank_0",
        "is_told_with_its_traceback",
    ),
    "runtime/test_several_machines.py": ("test_a_rank_that_dies_on_the_other_machine",),
    "server/test_torchrun_workers.py": (
        "test_a_decoding_rank_that_is_killed",
        "is_continued_by_another_comfyui",
        "test_another_vae_decodes_here",
    ),
    "runtime/test_workers.py": (
        "the_same_latents[fsdp-3]",
        "the_same_latents[timestep_pipeline-3]",
        "the_same_latents[layer_pipeline-4]",
    ),
    "comfy_parity/test_loading_memory.py": ("[ComfyUI: bf16, as in file]",),
    "comfy_parity/test_core_compile.py": ("[float32]",),
    "server/test_model_files.py": ("test_memory_does_not_grow_with_model_switches",),
    "server/test_workers_package.py": (
        "test_installed_by_pip_it_uses_the_packs_runtime",
        "test_without_the_package_workers_say_what_to_install",
    ),
    "browser/test_messages.py": ("[classic]",),
    "browser/test_player.py": (
        "test_two_decoders_and_a_list_of_videos",
        "test_the_player_comes_back_after_a_reload",
        "test_a_transparent_video_is_shown_before_squares",
    ),
    "browser/test_live_page.py": ("[with policy]",),
    "browser/test_live_talk.py": ("test_the_avatar_says_what_is_said",),
    "browser/test_live.py": ("widgets_and_links[classic]", "in_chinese[classic]", "edit_leaves_it[nodes2]"),
    "browser/test_long_video.py": (
        "as_it_was_saved[classic-",
        "as_it_was_saved[nodes2-",
        "test_segments_run_and_the_joined_video_plays",
        "test_a_webm_plays_and_restores_its_workflow",
    ),
    "browser/test_search.py": ("[nodes2-zh]",),
    "browser/test_page.py": ("[classic]",),
    "browser/test_short_clip.py": ("test_opens_runs_and_plays[classic]",),
    "browser/test_templates.py": ("its_folder[classic]", "files_there[classic]", "users_language[classic]"),
}
"""By their files, parts of the names of tests that the run of everything leaves out, to end within 20 minutes: further
cases of what the others prove, and proofs of memory and packaging that take minutes. `pytest -m long` runs them."""
FAST = "not slow"
"""The choice of `scripts/test.sh --fast`."""


class PlainRoot:
    """Lets pytest see the checkout's root as a folder: its `__init__.py` is for ComfyUI, which is not there."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Collector | None:
        return pytest.Dir.from_parent(parent, path=path) if path == ROOT else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(PlainRoot())
    # Of pytest-xdist: the order of files is ours, not that of their numbers of tests.
    config.option.loadscopereorder = False


def is_slow(path: Path) -> bool:
    """Whether all tests of a file or a folder have the mark `slow`."""
    folder, *_ = path.relative_to(ROOT / "tests").parts or ("",)
    return folder in SLOW_FOLDERS or (folder == "runtime" and path.stem.removeprefix("test_") in SLOW_OF_RUNTIME)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_slow(item.path):
            item.add_marker(pytest.mark.slow)
        parts = LONG.get(item.path.relative_to(ROOT / "tests").as_posix(), ())
        if any(part in item.nodeid for part in parts):
            item.add_marker(pytest.mark.long)
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """What would be left out anyway is not imported, which takes longer than many tests."""
    return True if config.option.markexpr == FAST and is_slow(collection_path) else None


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    """A running ComfyUI with a base folder of its own. A node file that cannot be imported is an error here."""
    comfyui = Path(os.environ.get("COMFYUI_PATH", ROOT / ".comfyui" / "ComfyUI"))
    assert (comfyui / "main.py").is_file(), f"no ComfyUI in {comfyui}: run bash scripts/test.sh, or set COMFYUI_PATH"
    with ComfyServer(comfyui, make_base(tmp_path_factory.mktemp("comfyui"), [ODD_NODES])) as running:
        yield running
    ARTIFACTS.mkdir(exist_ok=True)
    process = os.environ.get("PYTEST_XDIST_WORKER", "")
    shutil.copyfile(running.log, ARTIFACTS / f"server{process}.log")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows the end of the server's log, where the traceback of a node is."""
    report = yield
    running = getattr(item, "funcargs", {}).get("server")
    if report.failed and isinstance(running, ComfyServer):
        report.sections.append(("ComfyUI's log", running.log_text()))
    return report
