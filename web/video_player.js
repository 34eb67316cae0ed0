// A node's player: a video while it is made, and finished ones, with what is done with them.

import { api } from "./comfy.js";
import { LiveVideo, playIfAllowed } from "./live_video.js";

/**
 * A finished file; path: where it is on the server, and its clips, if they are known.
 * @typedef {{ filename: string, subfolder: string, type: string, path?: string,
 *     clips?: import("./clip_strip.js").Clips }} VideoFile
 *
 * @typedef {{ id: string, node: string, workflow: string, seconds: number, width: number, height: number,
 *     pieces: boolean, transparent?: boolean, live?: boolean }} Stream
 * @typedef {import("./texts.js").Texts} Texts
 */

const ROUTE = "/liveavatar/live";
const MUTED = "LiveAvatar.muted";
const LOOPED = "LiveAvatar.loop";
/** Behind a video; squares behind a transparent one, so that one sees what is cut out. */
const [BLACK, SQUARES] = ["#000", "repeating-conic-gradient(#666 0% 25%, #999 0% 50%) 50% / 16px 16px"];

/** @param {VideoFile} file */
export function addressOf({ filename, subfolder, type }) {
    return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`);
}

/**
 * @param {VideoFile | undefined} one
 * @param {VideoFile | undefined} other
 */
function isSame(one, other) {
    return one !== undefined && other !== undefined && addressOf(one) === addressOf(other);
}

/**
 * @param {string} kind
 * @param {Partial<CSSStyleDeclaration>} style
 */
function element(kind, style) {
    const made = document.createElement(kind);
    Object.assign(made.style, style);
    return made;
}

export class VideoPlayer {
    /**
     * @param {Texts} texts
     * @param {(file: VideoFile | null) => void} onFile is told which finished file is shown
     */
    constructor(texts, onFile) {
        this.texts = texts;
        this.onFile = onFile;
        /** Is called when a video that is being made plays. */
        this.onPlaying = () => {};
        /** @type {LiveVideo | null} */
        this.live = null;
        /** @type {VideoFile[]} */
        this.files = [];
        this.chosen = 0;
        /** How often a file was loaded: who comes late is not shown. */
        this.loads = 0;
        this.element = element("div", {
            display: "flex",
            flexDirection: "column",
            gap: "4px",
            boxSizing: "border-box",
            width: "100%",
            height: "100%",
            minHeight: "200px",
            overflow: "hidden",
        });
        this.element.className = "liveavatar-player";
        this.screen = element("div", { flex: "1 1 0", minHeight: "0", position: "relative", background: BLACK });
        this.video = this.newVideo();
        this.screen.append(this.video);
        this.status = element("div", {
            font: "11px/16px sans-serif",
            color: "var(--input-text, #ddd)",
            overflowWrap: "anywhere",
            userSelect: "text",
            flex: "none",
        });
        this.status.className = "liveavatar-player-status";
        this.bar = element("div", { display: "flex", flexWrap: "wrap", gap: "4px", flex: "none" });
        this.element.append(this.screen, this.status, this.bar);
        // The canvas would take the wheel and the drag that move the video's own controls.
        for (const kind of ["pointerdown", "wheel"])
            this.element.addEventListener(kind, (event) => event.stopPropagation());
        this.drawBar();
    }

    newVideo() {
        const video = document.createElement("video");
        Object.assign(video, { controls: true, playsInline: true, preload: "auto" });
        Object.assign(video.style, { position: "absolute", inset: "0", width: "100%", height: "100%" });
        video.muted = localStorage.getItem(MUTED) === "true";
        video.addEventListener("volumechange", () => this.drawBar());
        return video;
    }

    /**
     * Shows a video while it is made.
     * @param {Stream} stream
     */
    watch(stream) {
        if (this.live?.about.id === stream.id) return;
        this.stop();
        this.files = [];
        this.onFile(null);
        this.loads += 1;
        this.replaceVideo(this.newVideo());
        this.video.loop = false;
        this.screen.style.background = stream.transparent ? SQUARES : BLACK;
        this.say("playerWaiting");
        // It plays on while the finished file is loaded, whose name stands there then.
        const tell = (/** @type {string} */ key) => {
            if (!this.files.length) this.say(key);
        };
        const address = api.apiURL(`${ROUTE}/${stream.id}`);
        const playing = stream.live ? "playerOnAir" : "playerLive";
        this.live = new LiveVideo(this.video, { ...stream, address }, {
            onState: (waiting) => {
                if (!waiting) this.onPlaying();
                tell(waiting ? "playerNextBlock" : playing);
            },
            onRefused: (reason) => {
                this.live?.close();
                tell(reason === "codec" ? "playerCodec" : "playerLost");
            },
            onNews: (news) => {
                if (stream.live && news !== "open") tell(news === "ended" ? "playerEnded" : "playerBroken");
            },
        });
        this.drawBar();
    }

    /**
     * The end of a video that was watched, with its finished file if there is one.
     * @param {VideoFile | null} file
     */
    finish(file) {
        if (!file) {
            const wasLive = this.live?.about.live;
            this.stop();
            this.say(wasLive ? "playerEnded" : "");
            this.drawBar();
            return;
        }
        const { video, live } = this;
        const goesOn = live !== null && (live.waiting || !video.paused);
        live?.end();
        this.show([file], { at: video.currentTime, plays: goesOn });
    }

    /**
     * Shows finished files, the first of them at once.
     * @param {VideoFile[]} files
     * @param {{ at: number, plays: boolean }} [from]
     */
    show(files, from = { at: 0, plays: false }) {
        const wasShown = !this.live && isSame(this.files[this.chosen], files[0]);
        const isFinishing = this.live?.ended && isSame(this.files[0], files[0]);
        this.files = files;
        this.chosen = 0;
        this.onFile(files[0]);
        if (!wasShown && !isFinishing) this.load(from);
        else this.drawBar();
    }

    /**
     * Loads the chosen file beside what is shown, and shows it when its picture is there.
     * @param {{ at: number, plays: boolean }} from
     */
    load({ at, plays }) {
        const file = this.files[this.chosen];
        const number = ++this.loads;
        const video = this.newVideo();
        video.muted = this.video.muted;
        video.loop = localStorage.getItem(LOOPED) === "true";
        const ready = () => {
            if (this.loads !== number) return;
            this.stop();
            this.replaceVideo(video);
            this.screen.style.background = file.clips?.transparent ? SQUARES : BLACK;
            if (plays) void playIfAllowed(video);
        };
        video.addEventListener(
            "loadeddata",
            () => {
                const now = this.live ? this.video.currentTime : at;
                if (now <= 0) ready();
                else {
                    video.addEventListener("seeked", ready, { once: true });
                    video.currentTime = Math.min(now, video.duration);
                }
            },
            { once: true },
        );
        video.addEventListener(
            "error",
            () => {
                if (this.loads !== number) return;
                this.stop();
                this.replaceVideo(video);
                this.say("playerNotPlayed");
            },
            { once: true },
        );
        video.src = addressOf(file);
        this.status.textContent = file.filename;
        this.drawBar();
    }

    /** @param {HTMLVideoElement} video */
    replaceVideo(video) {
        const before = this.video;
        before.pause();
        before.replaceWith(video);
        before.removeAttribute("src");
        before.load();
        this.video = video;
    }

    /** Lets go of the server and of the video. */
    stop() {
        this.live?.close();
        this.live = null;
    }

    /** @param {string} key of a text, "" for none */
    say(key) {
        this.status.textContent = key && this.texts(key);
    }

    drawBar() {
        const file = this.files[this.chosen];
        const buttons = file
            ? [
                  this.button("playerOpen", () => window.open(addressOf(file), "_blank")),
                  this.button("playerSave", () => this.save(file)),
                  ...(file.path ? [this.button("playerCopyPath", () => this.copyPath(file.path ?? ""))] : []),
              ]
            : [];
        const live = this.live?.about;
        if (live?.live) {
            const page = () => window.open(live.address, "_blank");
            buttons.push(this.button("playerPage", page));
        }
        buttons.push(this.button(this.video.muted ? "playerUnmute" : "playerMute", () => this.mute()));
        if (file) {
            const loop = this.button("playerLoop", () => this.loop());
            loop.setAttribute("aria-pressed", String(this.video.loop));
            loop.style.opacity = this.video.loop ? "1" : "0.6";
            buttons.push(loop);
        }
        if (this.files.length > 1) buttons.unshift(this.chooser());
        this.bar.replaceChildren(...buttons);
    }

    /**
     * @param {string} key of its text
     * @param {() => void} act
     */
    button(key, act) {
        const made = element("button", {
            font: "11px/16px sans-serif",
            padding: "1px 8px",
            border: "1px solid var(--border-color, #555)",
            borderRadius: "4px",
            background: "var(--comfy-input-bg, #222)",
            color: "var(--input-text, #ddd)",
            cursor: "pointer",
        });
        made.textContent = this.texts(key);
        made.dataset.action = key;
        made.addEventListener("click", act);
        return made;
    }

    /** Of a node that has made several videos. */
    chooser() {
        const made = /** @type {HTMLSelectElement} */ (
            element("select", {
                font: "11px/16px sans-serif",
                maxWidth: "100%",
                background: "var(--comfy-input-bg, #222)",
                color: "var(--input-text, #ddd)",
            })
        );
        this.files.forEach((file, number) => {
            const option = document.createElement("option");
            option.value = String(number);
            option.textContent = `${number + 1}/${this.files.length} ${file.filename}`;
            made.append(option);
        });
        made.value = String(this.chosen);
        made.addEventListener("change", () => {
            this.chosen = Number(made.value);
            this.onFile(this.files[this.chosen]);
            this.load({ at: 0, plays: true });
        });
        return made;
    }

    /** @param {VideoFile} file */
    save(file) {
        const link = document.createElement("a");
        link.href = addressOf(file);
        link.download = file.filename;
        link.click();
    }

    /** @param {string} path */
    async copyPath(path) {
        try {
            await navigator.clipboard.writeText(path);
            this.status.textContent = this.texts("playerCopied", { path });
        } catch {
            // Only pages of this machine and of https may write there; the text can be selected.
            this.status.textContent = path;
        }
    }

    /** @param {number} seconds */
    playFrom(seconds) {
        this.video.currentTime = seconds;
        void playIfAllowed(this.video);
    }

    mute() {
        this.video.muted = !this.video.muted;
        localStorage.setItem(MUTED, String(this.video.muted));
    }

    loop() {
        this.video.loop = !this.video.loop;
        localStorage.setItem(LOOPED, String(this.video.loop));
        this.drawBar();
    }
}
