"""The pack's sockets and what travels over them."""

from comfy_api.latest import io

CATEGORY = "LiveAvatar"


ModelSocket = io.Custom("LIVEAVATAR_MODEL")
"""comfy_bridge.avatar.AvatarModel"""
AudioSocket = io.Custom("LIVEAVATAR_AUDIO")
"""liveavatar_runtime.audio.voice.Voice: AvatarAudio of one speaker, Conversation of several"""
PlanSocket = io.Custom("LIVEAVATAR_PLAN")
"""liveavatar_runtime.sampling.plan_request.PlanRequest; a ClipPlan is taken too"""
LatentsSocket = io.Custom("LIVEAVATAR_LATENTS")
"""comfy_bridge.avatar.AvatarLatents"""
ScriptSocket = io.Custom("LIVEAVATAR_SCRIPT")
"""comfy_bridge.avatar_script.AvatarScript"""
FinishingSocket = io.Custom("LIVEAVATAR_FINISHING")
"""comfy_bridge.finishing.Finishing"""
