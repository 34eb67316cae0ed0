// In the browser's thread for sound: collects what the microphone gives into chunks of 40 ms, 16 bit, one channel, and
// hands them to live_microphone.js. ComfyUI's page loads this file too, where there is nothing to register.

const CHUNK_SECONDS = 0.04;

/** @typedef {{ registerProcessor: (name: string, kind: unknown) => void, sampleRate: number,
 *     AudioWorkletProcessor: new () => { port: MessagePort } }} SoundThread */

const thread = /** @type {SoundThread} */ (/** @type {unknown} */ (globalThis));

if (typeof thread.registerProcessor === "function") {
    thread.registerProcessor(
        "liveavatar-chunks",
        class extends thread.AudioWorkletProcessor {
            size = Math.round(thread.sampleRate * CHUNK_SECONDS);
            chunk = new Int16Array(this.size);
            filled = 0;
            peak = 0;

            /** @param {Float32Array[][]} inputs */
            process([channels]) {
                for (const sample of channels[0] ?? []) {
                    const value = Math.max(-1, Math.min(1, sample));
                    this.peak = Math.max(this.peak, Math.abs(value));
                    this.chunk[this.filled++] = Math.round(value * 32767);
                    if (this.filled === this.chunk.length) this.give();
                }
                return true;
            }

            give() {
                const { chunk, peak } = this;
                this.port.postMessage({ chunk: chunk.buffer, peak }, [chunk.buffer]);
                // What was handed over has no length any more.
                this.chunk = new Int16Array(this.size);
                this.filled = this.peak = 0;
            }
        },
    );
}
