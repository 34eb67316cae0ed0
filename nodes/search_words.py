"""Words under which the node search finds each node, in English and Chinese.

The front end searches a node's id, the name it shows in the user's language and these words, whatever the language: a
Chinese guide is followed in an English ComfyUI, and the other way round.
"""

PACK = ("live avatar", "digital human", "数字人")
"""On every node, so that a search shows the pack."""
TALKING = (
    *("talking avatar", "talking head", "lip sync", "speech to video", "audio driven", "portrait animation", "s2v"),
    *("口型", "对口型", "口型同步", "说话", "语音驱动", "音频驱动", "照片说话"),
)
"""What the whole chain does: on the nodes that people begin with."""
LONG_VIDEO = ("long video", "长视频")
GPU_MEMORY = ("vram", "gpu memory", "low vram", "显存", "低显存")
LENGTH = ("video length", "video duration", "clip count", "视频时长", "总时长", "片段数")
SEGMENTS = ("segments", "split video", "分段")
DIRECTING = ("prompt schedule", "prompt travel", "timeline", "change prompt", "提示词调度", "提示词切换", "时间轴")
FINISHING = ("finishing", "post processing", "postprocess", "后期", "后处理")
LIVE = ("live", "real time", "realtime", "streaming avatar", "直播", "实时", "实时数字人")
RESUME = ("resume", "断点续传", "断点续跑")

SEARCH_WORDS: dict[str, tuple[str, ...]] = {
    "LiveAvatar_LoadAvatarModel": (
        *("Load Avatar Model", "加载数字人模型", *PACK, *TALKING, *GPU_MEMORY),
        *("model loader", "multi gpu", "加载模型", "多卡", "多显卡", "并行"),
    ),
    "LiveAvatar_AudioEncode": (
        *("Audio Encode", "数字人语音编码", *PACK, "lip sync", "口型", "对口型", "语音驱动", "音频驱动"),
        *("wav2vec2", "voice", "speech features", "语音", "音频编码", "语音特征"),
    ),
    "LiveAvatar_ClipScheduler": (
        *("Clip Scheduler", "片段规划", *PACK, *LONG_VIDEO, *LENGTH, *SEGMENTS, *GPU_MEMORY),
        *("video size", "resolution", "分辨率", "尺寸"),
    ),
    "LiveAvatar_DiTSampler": (
        *("DiT Sampler", "DiT 采样器", *PACK, *TALKING, *GPU_MEMORY, *RESUME),
        *("kv cache", "KV 缓存", "采样", "pose video", "driving video", "DWPose", "驱动视频", "姿态", "动作驱动"),
    ),
    "LiveAvatar_OnlineVAEDecode": (
        *("Online VAE Decode", "在线 VAE 解码", *PACK, *LONG_VIDEO),
        *("save avatar video", "streaming decode", "在线解码", "边生成边写入", "保存视频"),
    ),
    "LiveAvatar_DurationCalc": ("Duration Calc", "时长计算", *PACK, *LENGTH),
    "LiveAvatar_CollectLatents": ("Collect Latents", "收集 Latent", *PACK, "潜空间", "潜变量"),
    "LiveAvatar_JoinSegments": (
        *("Join Segments", "拼接视频分段", *PACK, *LONG_VIDEO, *SEGMENTS),
        *("concat videos", "merge videos", "拼接", "视频拼接", "合并视频"),
    ),
    "LiveAvatar_HardwareProbe": (
        *("Hardware Probe", "硬件检测", *PACK, *GPU_MEMORY),
        *("check my hardware", "benchmark", "test gpu", "speed test", "检测硬件", "测速", "跑分", "显卡测试"),
    ),
    "LiveAvatar_AvatarScript": (
        *("Avatar Script", "数字人脚本", *PACK, *DIRECTING),
        *("silence", "pause", "director", "storyboard", "静音", "停顿", "导演", "分镜"),
    ),
    "LiveAvatar_ScriptChange": ("Script Change", "脚本变化", *PACK, *DIRECTING),
    "LiveAvatar_Speakers": (
        *("Speakers", "多人说话", *PACK),
        *("two speakers", "several people", "conversation", "dialogue", "podcast", "multi person", "mask"),
        *("双人", "多人", "对话", "播客", "多个说话人", "遮罩"),
    ),
    "LiveAvatar_FinishUpscale": (
        *("Finish Upscale", "后期放大", *PACK, *FINISHING),
        *("upscale", "enlarge", "super resolution", "esrgan", "4k", "放大", "超分", "高清"),
    ),
    "LiveAvatar_FinishColours": (
        *("Finish Colours", "后期校色", *PACK, *FINISHING),
        *("color match", "colour match", "color drift", "校色", "颜色匹配", "色彩匹配", "偏色"),
    ),
    "LiveAvatar_FinishBackground": (
        *("Finish Background", "后期背景", *PACK, *FINISHING),
        *("remove background", "transparent", "alpha", "green screen", "抠像", "抠图", "换背景", "透明", "绿幕"),
    ),
    "LiveAvatar_FinishFrameRate": (
        *("Finish Frame Rate", "后期插帧", *PACK, *FINISHING),
        *("frame interpolation", "rife", "film", "smooth", "fps", "插帧", "补帧", "帧率"),
    ),
    "LiveAvatar_Spools": (
        *("Finished Clips (Spools)", "已完成片段管理", *PACK, *RESUME),
        *("clear cache", "disk space", "缓存", "清理缓存", "磁盘"),
    ),
    "LiveAvatar_PlanCheck": (
        *("Plan Check", "计划检查", *PACK, *GPU_MEMORY),
        *("does it fit", "out of memory", "oom", "how long", "estimate", "够不够", "爆显存", "预估", "估算"),
    ),
    "LiveAvatar_ClipJudge": (
        *("Clip Judge", "片段质检", *PACK, "lip sync", "口型", "对口型"),
        *("quality check", "find bad clips", "identity drift", "质量检查", "质检", "坏片段", "穿帮", "检查视频"),
    ),
    "LiveAvatar_LiveVoice": (
        *("Live Voice", "实时语音", *PACK, *LIVE),
        *("microphone", "tts stream", "voice chat", "麦克风", "语音流", "实时对话"),
    ),
    "LiveAvatar_LiveOut": (
        *("Live Out", "实时输出", *PACK, *LIVE),
        *("hls", "rtmp", "live stream", "obs", "推流", "直播间"),
    ),
}


def search_words(node_id: str) -> list[str]:
    """The search words of one node."""
    return list(SEARCH_WORDS[node_id])
