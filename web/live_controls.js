// What a live session's page asks of the session, and what it is told of it.

import { Translator } from "./message_matcher.js";

const STATE_EVERY_MS = 2000;
/** How long an answer stands there. */
const ANSWER_MS = 6000;
/** Until a second touch means it. */
const SURE_MS = 4000;

/**
 * @typedef {import("./text_files.js").Texts} Texts
 * @typedef {{ stage?: string, paused?: boolean, queued?: number, latency?: [number, number] | null, told?: string[],
 *     error?: string }} State as comfy_bridge/live/session.py has it; unknown fields are left out
 */

/** @param {unknown} value @returns {value is number} */
function isNumber(value) {
    return typeof value === "number" && Number.isFinite(value);
}

/** @param {string} selector */
function element(selector) {
    return /** @type {HTMLElement} */ (document.querySelector(selector));
}

export class LiveControls {
    /**
     * @param {string} address of the session
     * @param {Texts} texts
     * @param {{ onKnown: (known: boolean) => void, onOver: () => void }} hooks
     */
    constructor(address, texts, hooks) {
        this.address = address;
        this.texts = texts;
        this.hooks = hooks;
        /** @type {Translator | null} */
        this.translator = null;
        /** @type {State} */
        this.state = {};
        /** @type {number | null} */
        this.behind = null;
        this.addListeners();
        void this.readTable();
        void this.follow();
    }

    /** What the server tells is English; a table translates it. */
    async readTable() {
        if (document.documentElement.lang !== "zh") return;
        const answer = await fetch(new URL("./messages/zh.json", import.meta.url));
        if (answer.ok) this.translator = new Translator(await answer.json());
    }

    /** @param {string} message of the server */
    translated(message) {
        return this.translator?.translate(message) ?? message;
    }

    addListeners() {
        for (const button of /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll("[data-do]")))
            button.addEventListener("click", () => {
                if (button.dataset.do !== "stop" || this.isSure(button)) void this.ask({ do: button.dataset.do ?? "" });
            });
        const form = element(".prompt");
        const prompt = /** @type {HTMLTextAreaElement} */ (element(".prompt textarea"));
        form.addEventListener("submit", (event) => {
            event.preventDefault();
            if (prompt.value.trim()) void this.ask({ prompt: prompt.value.trim() });
        });
        prompt.addEventListener("keydown", (event) => {
            if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
            event.preventDefault();
            /** @type {HTMLFormElement} */ (form).requestSubmit();
        });
    }

    /** @param {HTMLButtonElement} button */
    isSure(button) {
        if (button.dataset.sure) return true;
        button.dataset.sure = "yes";
        button.textContent = this.texts("liveStopSure");
        setTimeout(() => {
            delete button.dataset.sure;
            button.textContent = this.texts("liveStop");
        }, SURE_MS);
        return false;
    }

    /** @param {Record<string, string>} wish */
    async ask(wish) {
        const headers = { "Content-Type": "application/json" };
        try {
            const options = { method: "POST", headers, body: JSON.stringify(wish) };
            const answer = await fetch(`${this.address}/control`, options);
            const text = await answer.text();
            const error = answer.ok ? errorIn(text) : (errorIn(text) ?? text);
            this.answer(error ? this.texts("liveRefused", { reason: this.translated(error) }) : this.texts("liveDone"));
        } catch {
            this.answer(this.texts("liveNoControl"));
        }
        void this.look();
    }

    /** @param {string} text */
    answer(text) {
        element(".answer").textContent = text;
        clearTimeout(this.answerTimer);
        this.answerTimer = setTimeout(() => (element(".answer").textContent = ""), ANSWER_MS);
    }

    async follow() {
        if (!document.hidden) await this.look();
        setTimeout(() => void this.follow(), STATE_EVERY_MS);
    }

    async look() {
        const answer = await fetch(`${this.address}/state`, { cache: "no-store" }).catch(() => null);
        if (!answer) return;
        this.hooks.onKnown(answer.ok);
        if (answer.ok) this.onServer(await answer.json().catch(() => ({})));
    }

    /** @param {State} said */
    onServer(said) {
        if (typeof said !== "object" || said === null) return;
        if (typeof said.error === "string") this.answer(this.texts("liveRefused", { reason: this.translated(said.error) }));
        if (said.stage === "over" && this.state.stage !== "over") this.hooks.onOver();
        this.state = { ...this.state, ...said };
        this.draw();
    }

    /** @param {number | null} seconds */
    showBehind(seconds) {
        this.behind = seconds;
        this.draw();
    }

    draw() {
        const { stage, paused, queued, latency, told } = this.state;
        const facts = [
            stage === "preparing" ? this.texts("livePreparing") : "",
            paused ? this.texts("livePaused") : "",
            isNumber(queued) && queued > 0.05 ? this.texts("liveQueued", { seconds: queued.toFixed(1) }) : "",
            latency && latency.every(isNumber)
                ? this.texts("liveLatency", { median: latency[0].toFixed(2), most: latency[1].toFixed(2) })
                : "",
            this.behind !== null ? this.texts("liveBehind", { seconds: this.behind.toFixed(1) }) : "",
        ];
        list(element(".facts"), facts.filter(Boolean));
        list(element(".told"), Array.isArray(told) ? told.slice(-5).map((line) => this.translated(String(line))) : []);
    }
}

/** @param {string} text @returns {string | null} */
function errorIn(text) {
    try {
        const said = JSON.parse(text);
        return typeof said?.error === "string" ? said.error : null;
    } catch {
        return null;
    }
}

/**
 * @param {HTMLElement} place
 * @param {string[]} lines
 */
function list(place, lines) {
    if (place.textContent === lines.join("") && place.childElementCount === lines.length) return;
    place.replaceChildren(
        ...lines.map((line) => {
            const item = document.createElement("li");
            item.textContent = line;
            return item;
        }),
    );
}
