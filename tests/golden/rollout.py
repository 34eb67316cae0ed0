"""Repeats a golden rollout with the runtime's own block loop."""

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from liveavatar_runtime.dit.kv_cache import Sink
from liveavatar_runtime.dit.model import BlockPlace, CausalWanS2V, Row
from liveavatar_runtime.executors.local import LocalExecutor
from liveavatar_runtime.sampling.conditions import Conditions
from liveavatar_runtime.sampling.evaluator import Evaluator, PlacedModel
from liveavatar_runtime.sampling.noise_schedule import flow_matching_schedule
from liveavatar_runtime.sampling.plan import ClipPlan, SinkPolicy
from liveavatar_runtime.sampling.run import Evaluation, SamplingRequest

TOLERANCE = {"atol": 2e-5, "rtol": 0}
BASE = "dit_rollout.safetensors"
INPUTS = "dit_rollout_inputs.safetensors"


@dataclass(frozen=True)
class StoredFeatures:
    """Voice features that are aligned already, [actors, layers, audio_dim, frames]."""

    features: Tensor

    def frames(self, first: int, count: int) -> Tensor:
        return self.features[..., first : first + count]


@dataclass
class Trace:
    """Velocities and latents of every (clip, block of the clip, step)."""

    clip_latents: dict[int, list[Tensor]] = field(default_factory=dict)
    velocities: dict[str, Tensor] = field(default_factory=dict)
    latents: dict[str, Tensor] = field(default_factory=dict)


def number_in(text: str, name: str) -> float:
    """The value of `name=...` in a description of the manifest."""
    match = re.search(rf"\b{name}=(\d+(\.\d+)?)", text)
    assert match, f"{name} is not in {text!r}"
    return float(match[1])


def plan_of(golden: Any, file: str, sink_policy: SinkPolicy = "reference") -> ClipPlan:
    about, constants = golden.about(file), golden.manifest["rollout_constants"]
    infer_frames = constants["infer_frames"]
    block_tokens = constants["num_frames_per_block"] * constants["frame_seq_len"]
    return ClipPlan(
        num_clip=about["num_clips"],
        infer_frames=infer_frames,
        fps=Fraction(25),
        width=8 * constants["latent_w"],
        height=8 * constants["latent_h"],
        keep_aspect=False,
        seed=constants["base_seed"],
        steps=about["steps"],
        shift=number_in(constants["scheduler"], "shift"),
        sink_policy=sink_policy,
        relative_distance=tuple(golden.tensors(file)["relative_dist"].flatten().tolist()),
        window_blocks=constants["kv_ring_tokens"] // block_tokens,
    )


@dataclass(frozen=True)
class StoredPose:
    """Pose latents [1, 16, 3, h, w] of one block."""

    stored: Tensor

    def latents(self, block: int) -> Tensor:
        return self.stored[block]


def conditions_of(golden: Any, features: Tensor | None = None, actor_masks: Tensor | None = None) -> Conditions:
    inputs = golden.tensors(INPUTS)
    return Conditions(
        text=inputs["context"],
        reference=inputs["ref_latents"][0],
        motion=inputs["motion_latents"][0],
        audio=StoredFeatures(inputs["audio"] if features is None else features),
        actor_masks=actor_masks,
    )


def run(model: CausalWanS2V, plan: ClipPlan, conditions: Conditions) -> Trace:
    """Sample all blocks, keeping every evaluation's velocity and the latents after its step."""
    trace, schedule = Trace(), flow_matching_schedule(plan.steps, plan.shift)

    def after_step(evaluation: Evaluation) -> None:
        name = f"c{plan.clip_of(evaluation.block)}b{evaluation.block % plan.blocks_per_clip}s{evaluation.step}"
        trace.velocities[name] = evaluation.velocity
        trace.latents[name] = schedule.advance(evaluation.latents, evaluation.velocity, evaluation.step)

    for block in LocalExecutor(model, torch.device("cpu"), torch.float32).run(
        SamplingRequest(conditions, plan, after_step=after_step)
    ):
        trace.clip_latents.setdefault(block.clip, []).append(block.latents)
    return trace


def single_velocity(golden: Any, model: CausalWanS2V, pose: Tensor | None) -> Tensor:
    """The one forward of dit_single, with the time step and distance its description names."""
    stored = golden.tensors("dit_single.safetensors")
    meaning = golden.about("dit_single.safetensors")["meaning"]
    distance, timestep = int(number_in(meaning, "relative_dist")), number_in(meaning, "t")
    plan = replace(plan_of(golden, BASE), steps=1)
    stored_pose = None if pose is None else StoredPose(pose)
    conditions, cpu = replace(conditions_of(golden), pose=stored_pose), torch.device("cpu")
    evaluator = Evaluator(PlacedModel(model, cpu), SamplingRequest(conditions, plan), torch.float32)
    video = model.video_context(conditions.text, [timestep], model.layers, torch.float32, cpu)
    frames = stored["x"].shape[1]
    audio = conditions.audio.frames(0, 4 * frames)
    voice = model.embed_audio(audio, torch.float32, cpu)
    context = model.block_context(BlockPlace(0, frames, plan.grid), voice, model.layers)
    hidden = evaluator.embed([stored["x"]], [0])
    sink = Sink()
    model.run_sink_layers(evaluator.embed_sink(conditions.reference), video, plan.grid, evaluator.cache, sink)
    row = Row(context, 0, sink, distance)
    hidden = model.run_layers(hidden, video, [row], evaluator.cache)
    return model.velocity(hidden, video, [row])[0]
