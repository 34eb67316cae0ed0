// Pictures out of a video file, made in the page: the file is opened beside the player, and closed when nothing is wanted.

/**
 * @typedef {object} Wanted
 * @property {number} key of the picture
 * @property {number} seconds where it is in the video
 */

export class FrameGrabber {
    /**
     * @param {string} address of the video
     * @param {() => Wanted | null} next what is wanted now
     * @param {(key: number, video: HTMLVideoElement) => void} give is called while the video shows that picture
     */
    constructor(address, next, give) {
        this.address = address;
        this.next = next;
        this.give = give;
        /** @type {HTMLVideoElement | null} */
        this.video = null;
        /** Whether this browser cannot play the file. */
        this.failed = false;
        this.closed = false;
    }

    /** Goes on until nothing is wanted. */
    wake() {
        if (this.video || this.failed || this.closed || !this.next()) return;
        const video = document.createElement("video");
        Object.assign(video, { muted: true, playsInline: true, preload: "auto" });
        this.video = video;
        video.addEventListener("loadeddata", () => this.seek(video), { once: true });
        video.addEventListener("error", () => {
            this.failed ||= this.video === video;
            this.release(video);
        });
        video.src = this.address;
    }

    /** @param {HTMLVideoElement} video */
    seek(video) {
        if (this.video !== video) return;
        const wanted = this.next();
        if (!wanted) {
            this.release(video);
            return;
        }
        const done = () => {
            if (this.video !== video) return;
            this.give(wanted.key, video);
            this.seek(video);
        };
        const seconds = Math.min(wanted.seconds, video.duration);
        if (video.currentTime === seconds) done();
        else {
            video.addEventListener("seeked", done, { once: true });
            video.currentTime = seconds;
        }
    }

    /** @param {HTMLVideoElement} video */
    release(video) {
        if (this.video !== video) return;
        this.video = null;
        // The connection to the server too.
        video.removeAttribute("src");
        video.load();
    }

    close() {
        this.closed = true;
        if (this.video) this.release(this.video);
    }
}
