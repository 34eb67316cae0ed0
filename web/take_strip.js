// The clips of a finished video below Online VAE Decode's player. A click on one opens a menu that writes Clip
// Scheduler's `takes`: the clip alone again or all from it on, or an earlier take. The user then queues as always.
//
// What `takes` was is remembered with Clip Scheduler, so that a number is not used twice and an earlier take is found
// again; nothing else is saved, and without this module the widget does the same.

import { ClipStrip, startOf } from "./clip_strip.js";
import { app } from "./comfy.js";
import { toNumber } from "./fractions.js";
import { sourceOf } from "./graph_values.js";
import { CLIP_SCHEDULER } from "./live_values.js";
import { translated } from "./messages.js";
import { openMenu } from "./popup_menu.js";
import { backTo, changedClips, nextNumber, numbersOf, parseTakes, printTakes, withTake } from "./takes.js";
import { formatHms } from "./time.js";
import { addressOf } from "./video_player.js";
import { wrongLine } from "./wrong_clips.js";

/**
 * @typedef {import("./comfy_types").GraphNode} GraphNode
 * @typedef {import("./comfy_types").Widget} Widget
 * @typedef {import("./clip_strip.js").Clips} Clips
 * @typedef {import("./popup_menu.js").Entry} Entry
 * @typedef {import("./takes.js").Take} Take
 * @typedef {import("./texts.js").Texts} Texts
 * @typedef {import("./video_player.js").VideoFile} VideoFile
 * @typedef {{ node: GraphNode, widget: Widget }} Target where takes are written
 */

const WIDGET = "takes";
const LATENTS = "LIVEAVATAR_LATENTS";
const PLAN = "LIVEAVATAR_PLAN";
/** Of Clip Scheduler: what `takes` was, the newest last. */
const HISTORY = "LiveAvatar takes";
const MOST_REMEMBERED = 100;
/** More nodes than hand on a stream or a plan. */
const MOST_STEPS = 100;

/**
 * The Clip Scheduler that a decoder's video is planned by, through the sampler and all that hands on what it gets; null
 * where there is none, or more than one.
 * @param {GraphNode} decoder
 * @returns {GraphNode | null}
 */
function schedulerOf(decoder) {
    /** @type {GraphNode | undefined} */
    let node = decoder;
    for (let step = 0; node && step < MOST_STEPS; step += 1) {
        if ((node.comfyClass ?? node.type) === CLIP_SCHEDULER) return node;
        /** @type {GraphNode} */
        const at = node;
        const input = [PLAN, LATENTS].flatMap((type) => at.inputs?.find((one) => one.type === type) ?? [])[0];
        node = input && sourceOf(at, input.name)?.node;
    }
    return null;
}

/** @param {GraphNode} scheduler @returns {Take[][]} */
function historyOf(scheduler) {
    const texts = scheduler.properties?.[HISTORY];
    return Array.isArray(texts) ? texts.flatMap((text) => [parseTakes(String(text)) ?? []]) : [];
}

/** @param {GraphNode} scheduler @param {Take[][]} history */
function remember(scheduler, history) {
    const texts = history.map(printTakes);
    // The newest of equal ones.
    const once = texts.filter((text, place) => texts.lastIndexOf(text) === place);
    scheduler.properties ??= {};
    scheduler.properties[HISTORY] = once.slice(-MOST_REMEMBERED);
}

export class TakeStrip {
    /**
     * @param {GraphNode} node Online VAE Decode
     * @param {Texts} texts
     */
    constructor(node, texts) {
        this.node = node;
        this.texts = texts;
        /** @type {Clips | null} */
        this.clips = null;
        /** @type {(seconds: number) => void} */
        this.onPlay = () => undefined;
        this.strip = new ClipStrip({
            title: (clip) => [this.titleOf(clip), translated(this.wrong()[clip + 1] ?? "")].filter(Boolean).join(": "),
            mark: (clip) => this.markOf(clip),
            choose: (clip, event) => this.openMenu(clip, event),
        });
        this.said = document.createElement("div");
        Object.assign(this.said.style, {
            font: "11px/16px sans-serif",
            color: "var(--input-text, #ddd)",
            overflowWrap: "anywhere",
            userSelect: "text",
        });
        this.said.className = "liveavatar-takes-said";
        this.element = document.createElement("div");
        this.element.style.flex = "none";
        this.wrongLine = wrongLine(texts, () => this.makeWrongAgain());
        this.element.append(this.strip.element, this.wrongLine.element, this.said);
    }

    /** @param {VideoFile | null} file */
    show(file) {
        this.clips = file?.clips ?? null;
        this.said.textContent = "";
        if (file?.clips?.count) this.strip.show(addressOf(file), file.clips);
        else this.strip.clear();
        this.wrongLine.show(this.wrongClips());
    }

    /** Reasons of the clips that look wrong, by their numbers from 1. */
    wrong() {
        return this.clips?.wrong ?? {};
    }

    /** Clips that look wrong, counted from 0. */
    wrongClips() {
        return Object.keys(this.wrong()).map((number) => Number(number) - 1);
    }

    /** @param {number} clip */
    titleOf(clip) {
        return this.texts("clipTitle", { clip: clip + 1, time: this.timeOf(clip) });
    }

    /** Another take of each clip that looks wrong, alone. */
    makeWrongAgain() {
        const target = this.target();
        const takes = typeof target === "string" ? null : parseTakes(String(target.widget.value ?? ""));
        if (typeof target === "string" || !takes) {
            this.say(typeof target === "string" ? target : this.texts("takesUnread", { text: String(target.widget.value) }));
            return;
        }
        const history = [...historyOf(target.node), this.shown(), takes];
        const again = this.wrongClips().map((clip) => ({ clip, number: nextNumber(clip, history), alone: true }));
        this.write(target, history, again.reduce(withTake, takes));
    }

    /** @param {number} clip */
    timeOf(clip) {
        return this.clips ? formatHms(startOf(this.clips, clip)) : "";
    }

    /** Takes of the video that is shown. */
    shown() {
        return parseTakes(this.clips?.takes ?? "") ?? [];
    }

    /** Where takes are written; a text that says why not. @returns {Target | string} */
    target() {
        const node = schedulerOf(this.node);
        if (!node) return this.texts("takesNowhere");
        const input = node.inputs?.find((one) => one.name === WIDGET);
        if ((input?.link ?? null) !== null) return this.texts("takesLinked");
        const widget = node.widgets?.find((one) => one.name === WIDGET);
        return widget ? { node, widget } : this.texts("takesNowhere");
    }

    /** Takes of the next run, as far as they are known. */
    wanted() {
        const target = this.target();
        const takes = typeof target === "string" ? null : parseTakes(String(target.widget.value ?? ""));
        return takes ?? this.shown();
    }

    /** @param {number} clip @returns {import("./clip_strip.js").Mark} */
    markOf(clip) {
        const wanted = this.wanted();
        const here = wanted.filter((take) => take.clip === clip);
        const text = here
            .map(({ number, alone }) => this.texts(alone ? "takeMark" : "takeMarkOnwards", { number }))
            .join(", ");
        const isNew = this.clips !== null && changedClips(this.shown(), wanted, clip + 1).has(clip);
        return { text, isNew, isWrong: clip + 1 in this.wrong() };
    }

    /** @param {number} clip @param {MouseEvent} event */
    openMenu(clip, event) {
        const target = this.target();
        /** @type {Entry} */
        const play = {
            name: "play",
            text: this.texts("clipPlay"),
            act: () => this.clips && this.onPlay(toNumber(startOf(this.clips, clip))),
        };
        const title = this.titleOf(clip);
        if (typeof target === "string") {
            this.say(target);
            openMenu({ title, groups: [[play]] }, event);
            return;
        }
        const takes = parseTakes(String(target.widget.value ?? ""));
        if (!takes) {
            this.say(this.texts("takesUnread", { text: String(target.widget.value) }));
            openMenu({ title, groups: [[play]] }, event);
            return;
        }
        const history = [...historyOf(target.node), this.shown(), takes];
        const number = nextNumber(clip, history);
        const again = [false, true].map((alone) => ({
            name: alone ? "again-alone" : "again-on",
            text: this.texts(alone ? "takeAlone" : "takeOnwards"),
            act: () => this.write(target, history, withTake(takes, { clip, number, alone })),
        }));
        const earlier = [false, true].map((alone) => this.earlierTakes({ clip, alone }, target, takes, history));
        openMenu({ title, groups: [again, ...earlier, [play]] }, event);
    }

    /**
     * @param {{ clip: number, alone: boolean }} place
     * @param {Target} target
     * @param {Take[]} takes
     * @param {Take[][]} history
     */
    earlierTakes(place, target, takes, history) {
        const now = takes.find((take) => take.clip === place.clip && take.alone === place.alone)?.number ?? 0;
        return numbersOf(place, history).map((number) => {
            const back = () => this.write(target, history, backTo(takes, { ...place, number }, history));
            const [name, kind] = place.alone ? ["alone", "takeAlone"] : ["on", "takeOnwards"];
            const text = this.texts(kind + (number ? "Number" : "First"), { number });
            return { name: `${name}-${number}`, text, act: back, isChosen: number === now };
        });
    }

    /**
     * @param {Target} target
     * @param {Take[][]} history
     * @param {Take[]} takes
     */
    write({ node, widget }, history, takes) {
        const text = printTakes(takes);
        remember(node, [...history, takes]);
        widget.value = text;
        widget.callback?.(text, app.canvas, node);
        node.setDirtyCanvas?.(true, true);
        this.strip.draw();
        const { clips } = this;
        if (!clips) return;
        const inFile = (/** @type {number} */ clip) => clip + 1 >= clips.first && clip + 1 < clips.first + clips.count;
        const changed = [...changedClips(this.shown(), takes, clips.of)].filter(inFile).length;
        const isKnown = history.some((one) => printTakes(one) === text);
        const key = !changed ? "takesSame" : isKnown ? "takesBack" : "takesNew";
        const said = text ? this.texts("takesText", { text }) : this.texts("takesEmpty");
        this.say(this.texts(key, { text: said, clips: changed, of: clips.count }));
    }

    /** @param {string} text */
    say(text) {
        this.said.textContent = text;
    }
}
