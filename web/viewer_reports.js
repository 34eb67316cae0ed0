// Tells the server which second of a live video is on the screen when, by the server's clock: by this it knows how
// late the picture is.

import { deliver } from "./deliver.js";

const REPORT_EVERY_MS = 250;
/** The clock is compared often at first. */
const [PING_EVERY_MS, FIRST_PINGS, FIRST_PINGS_MS] = [5000, 5, 200];
const KEPT_PONGS = 12;

export class ViewerReports {
    /** @param {import("./live_video.js").LiveVideo} live */
    constructor(live) {
        this.live = live;
        /** Of the last answers: how long they took, and the server's clock less ours. @type {[number, number][]} */
        this.pongs = [];
        this.pings = 0;
        this.reported = 0;
        this.closed = false;
        this.follow(live.video);
        this.ping();
    }

    close() {
        this.closed = true;
        clearTimeout(this.timer);
    }

    ping() {
        if (this.closed) return;
        const { socket } = this.live;
        if (socket) deliver(socket, JSON.stringify({ ping: performance.now() }));
        if (socket?.readyState === WebSocket.OPEN) this.pings += 1;
        const pause = this.pings < FIRST_PINGS ? FIRST_PINGS_MS : PING_EVERY_MS;
        this.timer = setTimeout(() => this.ping(), pause);
    }

    /** @param {{ pong?: number, at?: number }} said */
    onPong({ pong, at }) {
        if (pong === undefined || at === undefined) return;
        const took = performance.now() - pong;
        this.pongs.push([took, at - pong - took / 2]);
        if (this.pongs.length > KEPT_PONGS) this.pongs.shift();
    }

    /** Milliseconds that the server's clock is before ours, by the answer that was fastest; null: not known yet. */
    get offset() {
        if (!this.pongs.length) return null;
        return this.pongs.reduce((best, one) => (one[0] < best[0] ? one : best))[1];
    }

    /** @param {HTMLVideoElement} video */
    follow(video) {
        if (typeof video.requestVideoFrameCallback !== "function") return;
        video.requestVideoFrameCallback((_, frame) => {
            if (this.closed) return;
            this.report(frame.mediaTime, frame.expectedDisplayTime);
            this.follow(video);
        });
    }

    /** @param {number} seconds @param {number} at */
    report(seconds, at) {
        const { socket, start, pieces } = this.live;
        const { offset } = this;
        // One growing file has times of its own.
        if (!socket || !start || !pieces || offset === null || at - this.reported < REPORT_EVERY_MS) return;
        this.reported = at;
        deliver(socket, JSON.stringify({ shown: seconds, at: at + offset, epoch: start.epoch }));
    }
}
