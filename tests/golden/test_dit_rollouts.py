"""Whole evaluations and rollouts against the original: every stored velocity, latent, cache."""

from dataclasses import replace

import pytest
import torch
from rollout import BASE, TOLERANCE, conditions_of, plan_of, run, single_velocity

from liveavatar_runtime.audio.conversation import Conversation, Speaker
from liveavatar_runtime.audio.features import AvatarAudio
from liveavatar_runtime.dit.kv_cache import ResidentCache, Sink
from liveavatar_runtime.dit.model import BlockPlace, CausalWanS2V, Row
from liveavatar_runtime.dit.rope import apply_rope, reference_rope
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.media.areas import areas_by_masks
from liveavatar_runtime.sampling.actor_masks import token_weights
from liveavatar_runtime.sampling.evaluator import Evaluator, PlacedModel
from liveavatar_runtime.sampling.noise_schedule import flow_matching_schedule
from liveavatar_runtime.sampling.plan import ClipPlan
from liveavatar_runtime.sampling.run import SamplingRequest


def check(trace, stored: dict[str, torch.Tensor]) -> None:
    compared = 0
    for name, expected in stored.items():
        kind, _, key = name.partition(".")
        if kind == "noise_pred":
            torch.testing.assert_close(trace.velocities[key], expected, **TOLERANCE)
        elif kind == "latent":
            torch.testing.assert_close(trace.latents[key], expected, **TOLERANCE)
        elif kind == "clip_latents":
            ours = torch.cat(trace.clip_latents[int(key[1:])], dim=1)
            torch.testing.assert_close(ours, expected, **TOLERANCE)
        else:
            continue
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize(
    ("file", "policy"),
    [
        (BASE, "reference"),
        ("dit_rollout_aas.safetensors", "adaptive"),
        ("dit_rollout_3step.safetensors", "reference"),
    ],
)
def test_rollout(golden, golden_dit, file, policy):
    plan, stored = plan_of(golden, file, policy), golden.tensors(file)
    torch.testing.assert_close(
        torch.tensor(flow_matching_schedule(plan.steps, plan.shift).sigmas), stored["sigmas"], atol=1e-7, rtol=0
    )
    check(run(golden_dit, plan, conditions_of(golden)), stored)


def test_two_actors(golden, golden_dit):
    file = "dit_rollout_2actor.safetensors"
    inputs = golden.tensors("dit_rollout_inputs.safetensors")
    second, plan = inputs["audio_actor1"], plan_of(golden, file)
    features = torch.cat([inputs["audio"][..., : second.shape[-1]], second])
    weights = inputs["mask_2actor"][..., 0]
    # The golden ones differ from frame to frame.
    ours = torch.stack([in_picture(frame.float(), plan)[:, 0] for frame in weights.unbind(1)[:3]], dim=1)
    assert torch.equal(ours, weights[:, :3].float())
    check(run(golden_dit, plan, conditions_of(golden, features, ours)), golden.tensors(file))


def in_picture(weights: torch.Tensor, plan: ClipPlan) -> torch.Tensor:
    """Weights [2, rows, columns] by way of what a user gives: masks in the picture's pixels. A token's weight is 1
    where the other one is not."""
    masks = (1 - weights.flip(0)).repeat_interleave(16, 1).repeat_interleave(16, 2)
    areas = areas_by_masks(dict(enumerate(masks, 1)), torch.zeros(plan.height, plan.width, 3)).masks
    silent = AvatarAudio(torch.zeros(1, 1, 10, 1), torch.zeros(1, 3200), 16000)
    return token_weights(Conversation((Speaker(silent),) * 2, areas, silent.waveform, 16000, torch.zeros(1, 1)), plan)


def test_noise_comes_from_the_seed(golden):
    plan, inputs = plan_of(golden, BASE), golden.tensors("dit_rollout_inputs.safetensors")
    for clip in range(plan.num_clip):
        assert torch.equal(plan.clip_noise(clip), inputs[f"noise.c{clip}"])


def test_reference_positions(golden):
    from liveavatar_runtime.dit.rope import REFERENCE_FRAME, reference_frame

    plan, stored = plan_of(golden, BASE), golden.tensors(BASE)
    blocks, steps = plan.blocks_per_clip, plan.steps
    for index, shift in enumerate(stored["ref_frame_shift"].flatten().tolist()):
        block, step = divmod(index, steps)
        start = stored["block_start_frame"][block // blocks, block % blocks, step].item()
        assert reference_frame(start, plan.distance(block, step)) == REFERENCE_FRAME + shift


@pytest.fixture
def base_evaluator(golden, golden_dit) -> Evaluator:
    request = SamplingRequest(conditions_of(golden), plan_of(golden, BASE))
    with torch.inference_mode():
        return started(golden_dit, request)


def started(model: CausalWanS2V, request: SamplingRequest) -> Evaluator:
    """At the first block, with its sink."""
    evaluator = Evaluator(PlacedModel(model, torch.device("cpu")), request, torch.float32)
    evaluator.condition(evaluator.embed_conditions())
    evaluator.fill_sink(evaluator.begin(), evaluator.embed_sink(request.conditions.reference))
    return evaluator


def ring(cache: ResidentCache, tensors: dict[int, torch.Tensor], layer: int, step: int, tokens: int) -> torch.Tensor:
    front = cache.shape.sink_tokens
    return tensors[layer][step : step + 1, front : front + tokens]


def test_kv_caches(golden, base_evaluator):
    stored, cache = golden.tensors("kv_cache.safetensors"), base_evaluator.cache
    assert isinstance(cache, ResidentCache)
    sink = base_evaluator.sink_of(0)
    layers = {int(name[len("layer") :].split(".")[0]) for name in stored if name.startswith("layer")}
    assert layers
    for layer in layers:
        assert stored[f"layer{layer}.cond_end"].item() == cache.shape.sink_tokens
        reference = cache.shape.reference_tokens
        unrotated = stored[f"layer{layer}.cond_k"][:, :reference]
        expected = apply_rope(unrotated, reference_rope(cache.shape.head_dim, base_evaluator.plan.grid, 30))
        # Their temporal channels are turned where they are used.
        turned = slice(cache.shape.temporal_channels)
        expected[..., turned] = unrotated[..., turned]
        torch.testing.assert_close(sink.keys[layer][None, :reference], expected, atol=1e-5, rtol=0)
        assert torch.equal(sink.reference_keys[layer], sink.keys[layer][:reference, :, turned])
        torch.testing.assert_close(sink.values[layer][None], stored[f"layer{layer}.cond_v"], atol=1e-5, rtol=0)
    # Names are after_c{clip}b{block}s{step}.layer{n}.{k|v}; the first step's ring is written once a block.
    moments = {name.split(".")[0] for name in stored if name.startswith("after_")}
    plan = base_evaluator.plan
    with torch.inference_mode():
        for block in range(plan.num_blocks):
            base_evaluator.hear(block, base_evaluator.embed_voice(block))
            latents = base_evaluator.noise(block)
            for step in range(plan.steps):
                rows = base_evaluator.rows([(block, step)])
                hidden = base_evaluator.run_layers(base_evaluator.embed([latents], [block]), rows)
                latents = base_evaluator.advance(latents, base_evaluator.velocities(hidden, rows)[0], step)
            moment = f"after_c{plan.clip_of(block)}b{block % plan.blocks_per_clip}s0"
            for name in (n for n in stored if n.startswith(f"{moment}.")):
                layer, kind = int(name.split(".")[1][len("layer") :]), name.split(".")[2]
                tensors = cache.keys if kind == "k" else cache.values
                ours = ring(cache, tensors, layer, 0, stored[name].shape[1])
                torch.testing.assert_close(ours, stored[name], atol=1e-5, rtol=0)
                moments.discard(moment)
    assert not moments


@pytest.mark.parametrize("with_pose", [True, False])
def test_single_forward(golden, golden_dit, with_pose):
    stored = golden.tensors("dit_single.safetensors")
    ours = single_velocity(golden, golden_dit, stored["cond_states"] if with_pose else None)
    expected = stored["noise_pred.cond" if with_pose else "noise_pred.zero_cond"]
    torch.testing.assert_close(ours, expected, **TOLERANCE)


def test_layer_ranges_give_the_same_result(golden, golden_dit):
    """Two stages with half of the layers each equal one stage with all, bit for bit."""
    plan, conditions = plan_of(golden, BASE), conditions_of(golden)
    device, dtype = torch.device("cpu"), torch.float32
    whole = started(golden_dit, SamplingRequest(conditions, plan))
    half = golden_dit.config.num_layers // 2
    stages = [range(half), range(half, golden_dit.config.num_layers)]
    caches = [ResidentCache(whole.cache.shape, layers, dtype, device) for layers in stages]
    sinks = [Sink() for _ in caches]
    tokens = golden_dit.embed_sink(conditions.reference[None], conditions.motion[None])
    for cache, sink in zip(caches, sinks, strict=True):
        tokens = golden_dit.run_sink_layers(tokens, whole.video, plan.grid, cache, sink)
    audio = conditions.audio.frames(0, 12)
    noise = plan.block_noise(0)[None]
    voice = golden_dit.embed_audio(audio, dtype, device)
    context = golden_dit.block_context(BlockPlace(0, 3, plan.grid), voice, golden_dit.layers)
    row = Row(context, 0, whole.sink_of(0), 17)
    expected = golden_dit.run_layers(golden_dit.embed(noise), whole.video, [row], whole.cache)
    hidden = golden_dit.embed(noise)
    for cache, sink in zip(caches, sinks, strict=True):
        hidden = golden_dit.run_layers(hidden, whole.video, [Row(context, 0, sink, 17)], cache)
    assert torch.equal(hidden, expected)


def test_a_block_does_not_depend_on_how_many_follow(golden, golden_dit):
    plan, conditions = plan_of(golden, BASE, "adaptive"), conditions_of(golden)

    def latents(clips: int) -> list[torch.Tensor]:
        shorter: ClipPlan = replace(plan, num_clip=clips)
        blocks = LocalExecutor(golden_dit, torch.device("cpu"), torch.float32).run(SamplingRequest(conditions, shorter))
        return [block.latents for block in blocks]

    long = latents(plan.num_clip)
    for clips in range(1, plan.num_clip):
        short = latents(clips)
        assert all(torch.equal(a, b) for a, b in zip(short, long, strict=False)) and short
