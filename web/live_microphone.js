// The microphone of a live session's page: what is said goes to the server in chunks of 40 ms, and nowhere else.

import { deliver, feed } from "./deliver.js";
import { socketAddress } from "./live_video.js";

const AGAIN_AFTER_MS = 1000;
/** Of speech that waits for the network; more is left out, as it would be heard too late. */
const MOST_WAITING_SECONDS = 1;
const BYTES_PER_SAMPLE = 2;

/**
 * @typedef {"off" | "asking" | "on" | "refused" | "missing" | "busy" | "insecure" | "lost" | "slow" | "gone"} Mic
 * @typedef {{ onState: (state: Mic, values?: Record<string, string>) => void, onLevel: (peak: number) => void,
 *     onServer: (said: any) => void }} Hooks
 */

export class Microphone {
    /**
     * @param {string} address of the session's route for voices
     * @param {Hooks} hooks
     */
    constructor(address, hooks) {
        this.address = address;
        this.hooks = hooks;
        this.isOn = false;
        /** Seconds that were left out since it was told last. */
        this.leftOut = 0;
        /** @type {MediaStream | null} */
        this.stream = null;
        /** @type {AudioContext | null} */
        this.context = null;
        /** Nobody else holds them, and what nobody holds is heard no longer. @type {AudioNode[]} */
        this.nodes = [];
        /** @type {WebSocket | null} */
        this.socket = null;
    }

    /** @param {boolean} gain whether the browser evens out how loud one speaks */
    async start(gain) {
        if (this.isOn) return;
        if (!navigator.mediaDevices || typeof AudioWorkletNode === "undefined") {
            this.hooks.onState("insecure");
            return;
        }
        this.isOn = true;
        this.hooks.onState("asking");
        try {
            await this.open(gain);
        } catch (error) {
            this.stop();
            this.tellFailure(error);
        }
    }

    /** @param {boolean} gain */
    async open(gain) {
        const stream = await navigator.mediaDevices.getUserMedia({
            audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: gain, channelCount: 1 },
        });
        const context = new AudioContext();
        // It was stopped while the user was asked.
        if (!this.isOn) {
            stream.getTracks().forEach((track) => track.stop());
            void context.close();
            return;
        }
        [this.stream, this.context] = [stream, context];
        stream.getAudioTracks()[0].addEventListener("ended", () => {
            this.stop();
            this.hooks.onState("gone");
        });
        await context.audioWorklet.addModule(new URL("./live_worklet.js", import.meta.url));
        if (!this.isOn) return;
        const chunks = new AudioWorkletNode(context, "liveavatar-chunks", {
            numberOfOutputs: 0,
            channelCount: 1,
            channelCountMode: "explicit",
        });
        chunks.port.addEventListener("message", ({ data }) => this.onChunk(data));
        chunks.port.start();
        const source = context.createMediaStreamSource(stream);
        feed(source, chunks);
        this.nodes = [source, chunks];
        await context.resume();
        this.openSocket();
    }

    openSocket() {
        if (!this.isOn || this.socket || !this.context) return;
        const rate = this.context.sampleRate;
        const socket = new WebSocket(socketAddress(this.address));
        socket.addEventListener("open", () => {
            deliver(socket, JSON.stringify({ rate, kind: "microphone" }));
            if (this.isOn) this.hooks.onState("on");
        });
        socket.addEventListener("message", ({ data }) => {
            if (typeof data === "string") this.hooks.onServer(JSON.parse(data));
        });
        socket.addEventListener("close", () => {
            if (this.socket !== socket) return;
            this.socket = null;
            if (!this.isOn) return;
            this.hooks.onState("lost");
            setTimeout(() => this.openSocket(), AGAIN_AFTER_MS);
        });
        this.socket = socket;
    }

    /** @param {{ chunk: ArrayBuffer, peak: number }} data */
    onChunk({ chunk, peak }) {
        const { socket, context } = this;
        if (!this.isOn || !context) return;
        this.hooks.onLevel(peak);
        if (socket?.readyState !== WebSocket.OPEN) return;
        const second = context.sampleRate * BYTES_PER_SAMPLE;
        if (socket.bufferedAmount < MOST_WAITING_SECONDS * second) {
            deliver(socket, chunk);
            if (!this.leftOut) return;
            this.hooks.onState("slow", { seconds: this.leftOut.toFixed(1) });
            this.leftOut = 0;
        } else this.leftOut += chunk.byteLength / second;
    }

    /** @param {unknown} error */
    tellFailure(error) {
        const name = error instanceof DOMException ? error.name : "";
        if (name === "NotAllowedError" || name === "SecurityError") this.hooks.onState("refused");
        else if (name === "NotFoundError" || name === "OverconstrainedError") this.hooks.onState("missing");
        else this.hooks.onState("busy", { reason: error instanceof Error ? error.message : String(error) });
    }

    /** Lets go of the microphone and of the server. */
    stop() {
        this.isOn = false;
        this.stream?.getTracks().forEach((track) => track.stop());
        void this.context?.close();
        const { socket } = this;
        [this.stream, this.context, this.socket] = [null, null, null];
        this.nodes = [];
        socket?.close();
        this.hooks.onLevel(0);
        this.hooks.onState("off");
    }
}
