// Keeps a video without an end close to its newest picture, for LiveVideo: it plays a little faster or slower, so that
// what is left when the next block comes is about as much as the network needs, and jumps where it is far behind.

/** Seconds that are to be left when the next block comes, at first and after long stalls. */
const [LEAST_LEFT, MOST_LEFT] = [0.15, 0.9];
/** After a stall by half of what was lacking (the other half is a still picture shorter than a block), at least so much. */
const [AFTER_STALL, AFTER_QUIET] = [0.05, 0.02];
const QUIET_MS = 60_000;
/** More than that is left: it plays faster. */
const ROOM = 0.1;
const [SLOWEST, FASTEST] = [0.9, 1.1];
/** A still picture of that length is hardly seen: what is to be left is waited for so long, the rest comes by slower play. */
const PAUSE_MS = 300;
const STALL_BELOW = 0.03;
/** Behind the newest picture: who joins, and from where on one jumps (blocks come up to a second at a time). */
const [JOIN, FAR] = [0.5, 2];
/** The least that was left is looked for in twice this time; a block comes at least as often. */
const WINDOW_MS = 800;
const [BROKEN_MS, ENDED_MS] = [3000, 300];

export class LiveEdge {
    /** @param {import("./live_video.js").LiveVideo} live */
    constructor(live) {
        this.live = live;
        this.left = LEAST_LEFT;
        this.changed = performance.now();
        this.begun = false;
        /** When it may play again after a stall; 0: nothing has come yet. */
        this.playFrom = 0;
        /** When a stall began; 0: something else is waited for. */
        this.stalled = 0;
        /** Of the last two windows. @type {[number, number]} */
        this.lows = [Infinity, Infinity];
        this.windowFrom = this.changed;
        /** Where the newest picture was when there last was a newer one, and when that was. */
        this.end = 0;
        this.grew = this.changed;
    }

    /** Other times count from now on. */
    beginAgain() {
        this.begun = false;
        this.playFrom = 0;
        this.forgetLow();
    }

    forgetLow() {
        this.lows = [Infinity, Infinity];
        this.windowFrom = performance.now();
    }

    /** Seconds that are behind the newest picture. */
    get behind() {
        const { buffered, currentTime } = this.live.video;
        return buffered.length ? buffered.end(buffered.length - 1) - currentTime : 0;
    }

    pace() {
        const { live } = this;
        const { video } = live;
        const { buffered } = video;
        this.watchGrowth(buffered.length ? buffered.end(buffered.length - 1) : 0);
        if (!buffered.length) return;
        const newest = buffered.length - 1;
        const [start, end] = [buffered.start(newest), buffered.end(newest)];
        const now = video.currentTime;
        const isInside = now >= start - 0.05 && now <= end;
        if (!this.begun || (!isInside && end > now) || end - now > FAR) {
            this.begun = live.begun = true;
            // What lies between is lost, or too old.
            if (!isInside || end - now > JOIN) video.currentTime = Math.max(start, end - JOIN);
            this.forgetLow();
            return;
        }
        const ahead = end - now;
        if (live.waiting) this.resume(ahead);
        else if (!video.paused && ahead < STALL_BELOW && !live.ended) this.stall();
        else if (!video.paused) this.steer(ahead);
    }

    /**
     * Of one growing file that the browser loads itself nobody says that the connection is broken.
     * @param {number} end
     */
    watchGrowth(end) {
        const { live } = this;
        const now = performance.now();
        if (end !== this.end) [this.end, this.grew] = [end, now];
        else if (!live.pieces && !live.ended && !live.isAway() && now - this.grew > (live.video.ended ? ENDED_MS : BROKEN_MS)) {
            this.grew = now;
            live.hooks.onNews?.("broken");
            live.openWhole();
        }
    }

    /** @param {number} ahead */
    resume(ahead) {
        const now = performance.now();
        if (ahead <= STALL_BELOW) this.playFrom = 0;
        else if (!this.playFrom) this.playFrom = now + (this.stalled ? this.learn(now - this.stalled) : 1000 * this.left);
        if (!this.playFrom || (now < this.playFrom && !this.live.ended)) return;
        this.playFrom = this.stalled = 0;
        this.forgetLow();
        this.live.setWaiting(false);
    }

    /**
     * Leaves more from now on; returns for how long it still waits.
     * @param {number} lacking milliseconds without anything to play
     */
    learn(lacking) {
        // Longer than that, something was broken or stopped: that says nothing about the pace.
        const more = lacking < 1000 * FAR ? lacking / 2000 : 0;
        this.left = Math.min(MOST_LEFT, this.left + Math.max(AFTER_STALL, more));
        return Math.min(1000 * this.left, Math.max(0, PAUSE_MS - lacking));
    }

    stall() {
        this.stalled = this.changed = performance.now();
        this.live.setWaiting(true);
    }

    /** @param {number} ahead */
    steer(ahead) {
        const now = performance.now();
        this.lows[0] = Math.min(this.lows[0], ahead);
        if (now - this.windowFrom > WINDOW_MS) {
            this.lows = [ahead, this.lows[0]];
            this.windowFrom = now;
        }
        if (now - this.changed > QUIET_MS) {
            this.left = Math.max(LEAST_LEFT, this.left - AFTER_QUIET);
            this.changed = now;
        }
        // Before a whole window is over it is not known.
        if (this.lows[1] === Infinity) return;
        const surplus = Math.min(...this.lows) - this.left;
        const isEven = surplus <= ROOM && surplus >= -ROOM / 2;
        const rate = isEven ? 1 : Math.min(FASTEST, Math.max(SLOWEST, 1 + surplus / 4));
        const { video } = this.live;
        if (Math.abs(video.playbackRate - rate) > 0.01) video.playbackRate = rate;
    }
}

