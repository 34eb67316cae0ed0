// Plays a video in a video element while the server makes it (comfy_bridge/live_routes.py).
//
// Pieces come over a WebSocket, as six open downloads would block the whole page, and go into a MediaSource. Where a
// content security policy forbids that (that of ComfyUI with --disable-api-nodes), the element loads the growing video
// itself. Only one of both is open, and none while the page is in the background.

import { LiveEdge } from "./live_edge.js";
import { ViewerReports } from "./viewer_reports.js";

/** Chromium's own handling of a pause for lack of data adds seconds, so we pause before it: seconds that are left. */
const PAUSE_BELOW = 0.1;
const PLAY_ABOVE = 0.15;
const LOOK_EVERY_MS = 10;
/** What is played is kept for so long, to be seen again, when the browser has no more room. */
const KEPT_SECONDS = 30;
const AGAIN_AFTER_MS = 1000;
/** Of a video that is on its way when the page is opened, the beginning is left out. */
const BEHIND_SECONDS = 3;
/** Of a video without an end no more is kept: played, and not yet played while the user has stopped it. */
const [LIVE_PLAYED, LIVE_AHEAD] = [15, 30];
/** What waits for the browser to take it; who has more begins again at the newest picture. */
const MOST_WAITING = 16 * 2 ** 20;

/** Whether this page may play pieces, as far as it was tried. */
let mayPlayPieces = typeof MediaSource !== "undefined";

/**
 * Why a video is not shown: "codec" for one that this browser does not play while it grows, "lost" for one that the
 * server does not know.
 * @typedef {"codec" | "lost"} Reason
 *
 * What becomes of a stream's connection. @typedef {"open" | "broken" | "ended"} News
 *
 * seconds: how long the video becomes; live: whether it has no end, and its newest picture is wanted; address: of its
 * route on the server.
 * @typedef {{ id: string, seconds: number, pieces: boolean, live?: boolean, address: string }} About
 *
 * @typedef {{ onState: (waiting: boolean) => void, onRefused: (reason: Reason) => void,
 *     onNews?: (news: News) => void, inBackground?: boolean }} Hooks inBackground: goes on where nobody sees it
 */

/**
 * The same address for a WebSocket.
 * @param {string} address
 */
export function socketAddress(address) {
    const found = new URL(address, location.href);
    found.protocol = found.protocol.replace("http", "ws");
    return found;
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
     * @param {About} about
     * @param {Hooks} hooks
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
        /** What the server said last of the stream. @type {{ mime: string, first: number, epoch: number } | null} */
        this.start = null;
        this.edge = about.live ? new LiveEdge(this) : null;
        this.reports = about.live ? new ViewerReports(this) : null;
        this.onVisible = () => this.followVisibility();
        this.onError = () => this.onVideoError();
        document.addEventListener("visibilitychange", this.onVisible);
        video.addEventListener("error", this.onError);
        this.timer = setInterval(() => (this.edge ?? this).pace(), LOOK_EVERY_MS);
        this.open();
    }

    /** Ends everything; the element keeps what it shows. */
    close() {
        this.closed = true;
        clearInterval(this.timer);
        this.reports?.close();
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
        if (this.isAway()) return;
        if (this.pieces) this.openSource();
        else this.openWhole();
    }

    /** Whether nothing is wanted, as nobody sees it. */
    isAway() {
        return document.hidden && !this.hooks.inBackground;
    }

    openWhole() {
        this.waiting = true;
        this.edge?.beginAgain();
        this.video.src = `${this.about.address}/video`;
    }

    openSource() {
        if (this.source) this.openSocket();
        else this.newSource();
    }

    newSource() {
        const source = new MediaSource();
        this.source = source;
        this.buffer = null;
        this.queue.length = 0;
        this.waiting = true;
        this.edge?.beginAgain();
        const address = URL.createObjectURL(source);
        source.addEventListener("sourceopen", () => {
            URL.revokeObjectURL(address);
            if (this.closed || this.source !== source) return;
            if (this.start) this.addBuffer();
            if (!this.socket) this.openSocket();
        });
        this.video.src = address;
    }

    openSocket() {
        const socket = new WebSocket(socketAddress(`${this.about.address}?seen=${this.seen}`));
        socket.binaryType = "arraybuffer";
        /** Whether the beginning of the video comes next, whatever follows. */
        let beginning = true;
        socket.addEventListener("message", ({ data }) => {
            if (this.socket !== socket) return;
            if (typeof data === "string") beginning = this.onText(JSON.parse(data)) || beginning;
            else {
                if (!beginning) this.seen += 1;
                beginning = false;
                this.queue.push(data);
                this.boundQueue(socket);
                this.append();
            }
        });
        socket.addEventListener("close", () => {
            if (this.socket !== socket) return;
            this.socket = null;
            if (!this.ended && !this.closed) this.hooks.onNews?.("broken");
            setTimeout(() => this.again(), AGAIN_AFTER_MS);
        });
        this.socket = socket;
    }

    /** Goes on after a connection that broke; the server knows the stream no more when the video is finished. */
    again() {
        if (!this.closed && !this.ended && !this.socket && !this.isAway()) this.openSocket();
    }

    /**
     * @param {{ mime?: string, first?: number, epoch?: number, ended?: boolean, pong?: number, at?: number }} said
     * @returns {boolean} whether the stream begins with what follows
     */
    onText(said) {
        if (said.mime !== undefined) {
            this.begin({ mime: said.mime, first: said.first ?? 0, epoch: said.epoch ?? 0 });
            return true;
        }
        if (said.ended) {
            this.end();
            this.hooks.onNews?.("ended");
        } else this.reports?.onPong(said);
        return false;
    }

    /** @param {{ mime: string, first: number, epoch: number }} start */
    begin(start) {
        const isOther = this.start !== null && this.start.epoch !== start.epoch;
        this.start = start;
        this.seen = start.first;
        this.hooks.onNews?.("open");
        if (isOther) this.newSource();
        else if (!this.buffer && this.source?.readyState === "open") this.addBuffer();
    }

    addBuffer() {
        const { source, start } = this;
        if (!source || !start) return;
        if (!start.mime || !MediaSource.isTypeSupported(start.mime)) {
            this.hooks.onRefused("codec");
            return;
        }
        source.duration = this.about.live ? Infinity : this.about.seconds;
        this.buffer = source.addSourceBuffer(start.mime);
        this.buffer.addEventListener("updateend", () => this.append());
        this.append();
    }

    /**
     * What the browser does not take any more is given up: it begins again at the newest picture.
     * @param {WebSocket} socket
     */
    boundQueue(socket) {
        if (!this.about.live || this.queue.reduce((sum, piece) => sum + piece.byteLength, 0) < MOST_WAITING) return;
        this.queue.length = 0;
        this.seen = 0;
        socket.close();
    }

    /** Gives the element the next piece that waits. */
    append() {
        const { buffer, source } = this;
        if (!buffer || buffer.updating || source?.readyState !== "open") return;
        const piece = this.queue[0];
        if (this.about.live && this.forget(buffer)) return;
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
     * Removes what a live video does not need any more, some of it at a time.
     * @param {SourceBuffer} buffer
     * @returns {boolean} whether it does
     */
    forget(buffer) {
        const { buffered } = buffer;
        if (!buffered.length) return false;
        const [start, end] = [buffered.start(0), buffered.end(buffered.length - 1)];
        const keep = Math.max(this.video.currentTime - LIVE_PLAYED, end - LIVE_PLAYED - LIVE_AHEAD);
        if (keep - start < LIVE_PLAYED) return false;
        buffer.remove(start, keep);
        return true;
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
        if (this.closed || this.ended || this.hooks.inBackground) return;
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
