// Plays a video in a video element while the server makes it (comfy_bridge/live_routes.py).
//
// Pieces come over a WebSocket, as six open downloads would block the whole page, and go into a MediaSource. Where a
// content security policy forbids that (that of ComfyUI with --disable-api-nodes), the element loads the growing video
// itself. Only one of both is open, and none while the page is in the background.

import { api } from "./comfy.js";

const ROUTE = "/liveavatar/live";
/** Chromium's own handling of a pause for lack of data adds seconds, so we pause before it: seconds that are left. */
const PAUSE_BELOW = 0.1;
const PLAY_ABOVE = 0.15;
const LOOK_EVERY_MS = 10;
/** What is played is kept for so long, to be seen again, when the browser has no more room. */
const KEPT_SECONDS = 30;
const AGAIN_AFTER_MS = 1000;
/** Of a video that is on its way when the page is opened, the beginning is left out. */
const BEHIND_SECONDS = 3;

/** Whether this page may play pieces, as far as it was tried. */
let mayPlayPieces = typeof MediaSource !== "undefined";

/**
 * Why a video is not shown: "codec" for one that this browser does not play while it grows, "lost" for one that the
 * server does not know.
 * @typedef {"codec" | "lost"} Reason
 */

/** @param {string} path */
function streamAddress(path) {
    const address = new URL(api.apiURL(path), location.href);
    address.protocol = address.protocol.replace("http", "ws");
    return address;
}

/**
 * Plays, without sound if the browser wants the user to touch the page before it makes any.
 * @param {HTMLVideoElement} video
 */
export async function playIfAllowed(video) {
    try {
        await video.play();
    } catch (error) {
        if (!(error instanceof DOMException) || error.name !== "NotAllowedError" || video.muted) return;
        video.muted = true;
        await video.play().catch(() => undefined);
    }
}

export class LiveVideo {
    /**
     * @param {HTMLVideoElement} video
     * @param {{ id: string, seconds: number, pieces: boolean }} about
     * @param {{ onState: (waiting: boolean) => void, onRefused: (reason: Reason) => void }} hooks
     */
    constructor(video, about, hooks) {
        this.video = video;
        this.about = about;
        /** Whether pieces are played, as far as it is known. */
        this.pieces = about.pieces && mayPlayPieces;
        this.hooks = hooks;
        /** Pieces that the page has got, over all connections. */
        this.seen = 0;
        /** Whether we, not the user, have stopped the video. */
        this.waiting = true;
        this.ended = false;
        this.closed = false;
        this.begun = false;
        /** @type {ArrayBuffer[]} */
        this.queue = [];
        /** @type {WebSocket | null} */
        this.socket = null;
        /** @type {MediaSource | null} */
        this.source = null;
        /** @type {SourceBuffer | null} */
        this.buffer = null;
        this.onVisible = () => this.followVisibility();
        this.onError = () => this.onVideoError();
        document.addEventListener("visibilitychange", this.onVisible);
        video.addEventListener("error", this.onError);
        this.timer = setInterval(() => this.pace(), LOOK_EVERY_MS);
        this.open();
    }

    /** Ends everything; the element keeps what it shows. */
    close() {
        this.closed = true;
        clearInterval(this.timer);
        document.removeEventListener("visibilitychange", this.onVisible);
        this.video.removeEventListener("error", this.onError);
        this.leave();
    }

    /** What comes after the last piece: nothing. */
    end() {
        this.ended = true;
        this.append();
    }

    open() {
        if (document.hidden) return;
        if (this.pieces) this.openSource();
        else this.openWhole();
    }

    openWhole() {
        this.video.src = api.apiURL(`${ROUTE}/${this.about.id}/video`);
    }

    openSource() {
        if (this.source) {
            this.openSocket();
            return;
        }
        const source = new MediaSource();
        this.source = source;
        const address = URL.createObjectURL(source);
        source.addEventListener("sourceopen", () => {
            URL.revokeObjectURL(address);
            if (!this.closed) this.openSocket();
        });
        this.video.src = address;
    }

    openSocket() {
        const socket = new WebSocket(streamAddress(`${ROUTE}/${this.about.id}?seen=${this.seen}`));
        socket.binaryType = "arraybuffer";
        let first = true;
        socket.addEventListener("message", ({ data }) => {
            if (this.socket !== socket) return;
            if (typeof data === "string") this.begin(JSON.parse(data));
            else {
                // The beginning of the video comes first, whatever follows.
                if (!first) this.seen += 1;
                first = false;
                this.queue.push(data);
                this.append();
            }
        });
        socket.addEventListener("close", () => {
            if (this.socket !== socket) return;
            this.socket = null;
            setTimeout(() => this.again(), AGAIN_AFTER_MS);
        });
        this.socket = socket;
    }

    /** Goes on after a connection that broke; the server knows the stream no more when the video is finished. */
    again() {
        if (!this.closed && !this.ended && !this.socket && !document.hidden) this.openSocket();
    }

    /** @param {{ mime: string, first: number }} start */
    begin(start) {
        this.seen = start.first;
        if (this.buffer || !this.source) return;
        if (!start.mime || !MediaSource.isTypeSupported(start.mime)) {
            this.hooks.onRefused("codec");
            return;
        }
        this.source.duration = this.about.seconds;
        this.buffer = this.source.addSourceBuffer(start.mime);
        this.buffer.addEventListener("updateend", () => this.append());
    }

    /** Gives the element the next piece that waits. */
    append() {
        const { buffer, source } = this;
        if (!buffer || buffer.updating || source?.readyState !== "open") return;
        const piece = this.queue[0];
        if (!piece) {
            if (this.ended) source.endOfStream();
            return;
        }
        try {
            buffer.appendBuffer(piece);
            this.queue.shift();
        } catch (error) {
            if (!(error instanceof DOMException) || error.name !== "QuotaExceededError") throw error;
            this.makeRoom(buffer);
        }
    }

    /**
     * Removes what was played; who is far behind loses what is newest, and finds it in the finished file.
     * @param {SourceBuffer} buffer
     */
    makeRoom(buffer) {
        const start = buffer.buffered.length ? buffer.buffered.start(0) : 0;
        const end = this.video.currentTime - KEPT_SECONDS;
        if (end > start) buffer.remove(start, end);
        else this.queue.length = 0;
    }

    /** Pauses before the data are over, and goes on when there are more. */
    pace() {
        const { video } = this;
        const { buffered } = video;
        if (!buffered.length) return;
        const now = video.currentTime;
        if (!this.begun) this.skipToEnd(buffered);
        let ahead = 0;
        for (let range = 0; range < buffered.length; range += 1) {
            const [start, end] = [buffered.start(range), buffered.end(range)];
            if (now >= start - 0.01 && now <= end) ahead = end - now;
            // A part is missing: it was gone from the server's memory before this page was in front again.
            else if (ahead < PAUSE_BELOW && this.waiting && start > now) {
                video.currentTime = start;
                return;
            }
        }
        if (this.waiting) {
            if (ahead > PLAY_ABOVE || (this.ended && ahead > 0)) this.setWaiting(false);
        } else if (!video.paused && ahead < PAUSE_BELOW && !this.ended) this.setWaiting(true);
    }

    /** @param {TimeRanges} buffered */
    skipToEnd(buffered) {
        this.begun = true;
        const start = buffered.start(0);
        const late = buffered.end(buffered.length - 1) - BEHIND_SECONDS;
        if (start > 0.1 || late > start) this.video.currentTime = Math.max(start, late);
    }

    /** @param {boolean} waiting */
    setWaiting(waiting) {
        this.waiting = waiting;
        if (waiting) this.video.pause();
        else void playIfAllowed(this.video);
        this.hooks.onState(waiting);
    }

    onVideoError() {
        if (this.closed) return;
        if (this.pieces && !this.buffer) {
            // A content security policy forbids it of which the server does not know.
            this.pieces = mayPlayPieces = false;
            this.leave();
            this.openWhole();
        } else if (!this.ended) this.hooks.onRefused(this.begun ? "lost" : "codec");
    }

    followVisibility() {
        if (this.closed || this.ended) return;
        if (document.hidden) {
            this.setWaiting(true);
            this.leave();
        } else this.open();
    }

    /** Closes what is open to the server. */
    leave() {
        const { socket } = this;
        this.socket = null;
        socket?.close();
        if (!this.pieces && !this.closed) {
            this.video.removeAttribute("src");
            this.video.load();
            this.begun = false;
        }
    }
}
