// The page of a live session: its picture and sound, the microphone, and what can be asked of it. The server gives out
// live_page.html for /liveavatar/live/SESSION (comfy_bridge/live/page.py). ComfyUI's page loads this file too, and
// nothing happens there.

import { LiveControls } from "./live_controls.js";
import { Microphone } from "./live_microphone.js";
import { LiveVideo, playIfAllowed } from "./live_video.js";
import { textsIn } from "./text_files.js";

/**
 * @typedef {import("./live_microphone.js").Mic} Mic
 * @typedef {import("./text_files.js").Texts} Texts
 */

/** Of what the microphone's state is told in words. @type {Record<Mic, string>} */
const MIC_TEXTS = {
    off: "liveSpeakHint",
    asking: "liveMicAsking",
    on: "liveSpeaking",
    refused: "liveMicRefused",
    missing: "liveMicMissing",
    busy: "liveMicBusy",
    insecure: "liveMicInsecure",
    lost: "liveMicLost",
    slow: "liveMicSlow",
    gone: "liveMicGone",
};
const SHOW_BEHIND_MS = 500;

/**
 * @template {Element} Kind
 * @param {string} selector
 * @param {new () => Kind} kind
 * @returns {Kind}
 */
function part(selector, kind) {
    const found = document.querySelector(selector);
    if (!(found instanceof kind)) throw new Error(`the page has no ${selector}`);
    return found;
}

class LivePage {
    /** @param {Texts} texts */
    constructor(texts) {
        this.texts = texts;
        this.address = location.pathname.replace(/\/+$/, "");
        this.video = part("video", HTMLVideoElement);
        this.message = part(".message", HTMLElement);
        this.badge = part(".badge", HTMLElement);
        this.touch = part(".touch", HTMLButtonElement);
        this.sound = part("[data-action=sound]", HTMLButtonElement);
        this.speak = part("[data-action=speak]", HTMLButtonElement);
        this.mic = part(".mic", HTMLElement);
        this.gain = part(".gain input", HTMLInputElement);
        this.isOver = false;
        /** @type {LiveVideo | null} */
        this.live = null;
        this.showTexts();
        this.controls = new LiveControls(this.address, texts, {
            onKnown: (known) => this.onKnown(known),
            onOver: () => this.onEnded(),
        });
        this.microphone = new Microphone(`${this.address}/voice`, {
            onState: (state, values) => this.showMic(state, values),
            onLevel: (peak) => this.showLevel(peak),
            onServer: (said) => this.controls.onServer(said),
        });
        this.addListeners();
        this.showMic("off");
        this.watch();
        setInterval(() => this.showSound(), SHOW_BEHIND_MS);
    }

    showTexts() {
        document.title = this.texts("liveTitle");
        for (const element of document.querySelectorAll("[data-text]"))
            element.textContent = this.texts(/** @type {HTMLElement} */ (element).dataset.text ?? "");
        for (const element of document.querySelectorAll("[data-title]"))
            element.setAttribute("title", this.texts(/** @type {HTMLElement} */ (element).dataset.title ?? ""));
        const prompt = part(".prompt textarea", HTMLTextAreaElement);
        prompt.placeholder = this.texts("livePrompt");
        prompt.setAttribute("aria-label", this.texts("livePrompt"));
        part("[data-action=full]", HTMLElement).textContent = this.texts("liveFull");
        this.speak.setAttribute("aria-label", this.texts("liveSpeak"));
    }

    addListeners() {
        this.speak.addEventListener("click", () => {
            // One who speaks has touched the page, so there may be sound.
            this.unmute();
            if (this.microphone.isOn) this.microphone.stop();
            else void this.microphone.start(this.gain.checked);
        });
        this.gain.addEventListener("change", () => {
            if (!this.microphone.isOn) return;
            this.microphone.stop();
            void this.microphone.start(this.gain.checked);
        });
        this.touch.addEventListener("click", () => this.unmute());
        this.sound.addEventListener("click", () => {
            if (this.video.muted) this.unmute();
            else this.video.muted = true;
            this.sound.dataset.chosen = this.video.muted ? "off" : "";
            this.showSound();
        });
        part("[data-action=full]", HTMLElement).addEventListener("click", () => {
            if (document.fullscreenElement) void document.exitFullscreen();
            else void part(".screen", HTMLElement).requestFullscreen?.();
        });
        // A page that is put away by the browser keeps nothing either.
        addEventListener("pagehide", () => {
            this.microphone.stop();
            this.live?.close();
        });
        addEventListener("pageshow", (event) => {
            if (event.persisted) this.watch();
        });
    }

    unmute() {
        this.video.muted = false;
        this.touch.hidden = true;
        if (this.live && !this.live.waiting) void playIfAllowed(this.video);
        this.showSound();
    }

    showSound() {
        this.sound.textContent = this.texts(this.video.muted ? "liveSoundOn" : "liveSoundOff");
        this.touch.hidden = !(this.video.muted && !this.video.paused && !this.wasMuted);
        const edge = this.live?.edge;
        this.controls.showBehind(edge && !this.video.paused ? edge.behind : null);
    }

    /** Whether the user, not the browser, wants no sound. */
    get wasMuted() {
        return this.sound.dataset.chosen === "off";
    }

    watch() {
        const begun = this.live?.begun;
        this.live?.close();
        if (!begun) this.show("waiting", "liveWaiting", true);
        this.live = new LiveVideo(
            this.video,
            { id: "", seconds: 0, pieces: true, live: true, address: this.address },
            {
                inBackground: true,
                onState: (waiting) => this.show(waiting ? "waiting" : "playing", waiting ? "liveStalled" : "livePlaying"),
                onRefused: (reason) => {
                    if (reason === "codec" && this.live?.start) this.show("waiting", "liveCodec", true);
                    else this.again();
                },
                onNews: (news) => {
                    if (news === "broken" && this.live?.begun) this.show("waiting", "liveBroken");
                    if (news === "ended") this.onEnded();
                },
            },
        );
    }

    onEnded() {
        this.isOver = true;
        this.live?.end();
        this.show("waiting", "liveEnded", true);
        this.microphone.stop();
    }

    /** Of one growing file, which the browser loads itself, a connection that breaks is its end. */
    again() {
        if (this.isOver) return;
        if (this.live?.begun) this.show("waiting", "liveBroken");
        setTimeout(() => this.watch(), 2000);
    }

    /** @param {boolean} known whether the server has such a session */
    onKnown(known) {
        if (!known && !this.live?.start && !this.video.buffered.length) this.show("waiting", "liveUnknown", true);
        else if (this.message.dataset.key === "liveUnknown") this.show("waiting", "liveWaiting", true);
    }

    /**
     * @param {string} state
     * @param {string} key of its text
     * @param {boolean} [large] instead of the picture
     */
    show(state, key, large = false) {
        this.badge.dataset.state = state;
        this.badge.textContent = large ? "" : this.texts(key);
        this.badge.hidden = large;
        this.message.textContent = large ? this.texts(key) : "";
        this.message.dataset.key = large ? key : "";
    }

    /** @param {Mic} state @param {Record<string, string>} [values] */
    showMic(state, values) {
        this.speak.setAttribute("aria-pressed", String(this.microphone?.isOn ?? false));
        this.mic.textContent = this.texts(MIC_TEXTS[state], values);
        this.mic.dataset.state = state;
    }

    /** @param {number} peak 0 to 1 */
    showLevel(peak) {
        const level = peak > 0.001 ? Math.max(0, 1 + Math.log10(peak) / 2) : 0;
        part(".voice", HTMLElement).style.setProperty("--level", level.toFixed(3));
    }
}

if (document.getElementById("liveavatar-live")) {
    const locale = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
    document.documentElement.lang = locale;
    void textsIn(locale).then((texts) => new LivePage(texts));
}
