// Finds the English text that a message was made from, and puts its values into the translation of that text.
//
// The server tells in English only, values filled in (scripts/message_catalogue.py). A message may be several texts,
// one behind the other, and a value may itself be a text, a list of texts, or end with one. Of all ways to read a
// message the one counts that explains the most letters; what no text explains stays as it is. Knows no page.

const PLACEHOLDER = /\{(\w+)\}/;
/** Texts that stand behind others, such as ", 3 GiB in fp8". */
const CONTINUES = /^[ ,;.+]/;
/** What stands between the parts of a list: in a message, in its translation, and there in a value. */
const LISTS = [
    ["; ", "；", "；"],
    [", ", "，", "、"],
    [": ", "：", "："],
    [" and ", " 和 ", " 和 "],
    [" or ", " 或 ", " 或 "],
];
/** Fewer letters than this say nothing in a message of its own; in a value they do, between words that are known. */
const TELLING = 5;
/** As Python writes a length of time (duration.py). */
const DURATION = /^(?:(\d+) h )?(?:(\d+) min )?(\d+(?:\.\d+)?) s$/;
const LONGEST = 6000;
const MOST_PIECES = 16;
const MOST_DEPTH = 6;
const CANDIDATES = 6;
const SENTENCE_END = /(?<=[.!?]) (?=\S)|\n+/g;
const WIDE_AT_END = /[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]$/;
const CHINESE = /[\u4e00-\u9fff]/;
/** More than a name, or a number with its unit. */
const WORDS = /[A-Za-z]{4,}\s|\s[A-Za-z]{4,}/;
const NARROW = /[A-Za-z0-9]/;

/**
 * @typedef {object} Reading a way to read a message
 * @property {string} text its translation
 * @property {number} letters how many of the message it explains
 */
/**
 * @typedef {object} Template a text of the table
 * @property {string[]} literals what stands before, between and behind its values
 * @property {number} letters of the literals
 * @property {number} length of the literals
 * @property {string} word that is in all of its messages
 * @property {boolean} continues whether it stands behind another text
 * @property {(values: string[]) => string} fill its translation with these values
 */

/** @param {string} text */
const lettersIn = (text) => text.replace(/[^A-Za-z]/g, "").length;

/** @param {string} text */
const otherCase = (text) => {
    const first = text.slice(0, 1);
    return (first === first.toLowerCase() ? first.toUpperCase() : first.toLowerCase()) + text.slice(1);
};

/**
 * The longest word that every message of a text has, in small letters; "" where values may touch all of its words.
 * @param {string} key
 */
function wordIn(key) {
    const words = key.toLowerCase().match(/(?<![a-z}])[a-z]+(?![a-z{])/g) ?? [];
    const names = new Set(key.match(/(?<=\{)\w+(?=\})/g)?.flatMap((name) => name.split(/[^a-z]+/)));
    return words.reduce((best, word) => (word.length > best.length && !names.has(word) ? word : best), "");
}

/**
 * Two parts of a text, with a space between Chinese and other letters and none between Chinese ones.
 * @param {string} one
 * @param {string} other
 */
function joined(one, other) {
    if (CHINESE.test(one.slice(-1)) && NARROW.test(other.slice(0, 1))) return `${one} ${other}`;
    if (NARROW.test(one.slice(-1)) && CHINESE.test(other.slice(0, 1))) return `${one} ${other}`;
    if (/[\u4e00-\u9fff] $/.test(one) && CHINESE.test(other.slice(0, 1))) return one.trimEnd() + other;
    if (CHINESE.test(one.slice(-1)) && /^ [\u4e00-\u9fff]/.test(other)) return one + other.trimStart();
    return one + other;
}

/**
 * @param {string} key
 * @param {string} translation
 * @returns {Template}
 */
function templateOf(key, translation) {
    const parts = key.split(PLACEHOLDER);
    const literals = parts.filter((_, index) => index % 2 === 0);
    const names = parts.filter((_, index) => index % 2 === 1);
    const pieces = translation.split(PLACEHOLDER);
    const places = pieces.map((name, index) => (index % 2 === 1 ? names.indexOf(name) : -1));
    const fill = (/** @type {string[]} */ values) =>
        pieces.map((piece, index) => (index % 2 === 1 ? values[places[index]] : piece)).reduce(joined);
    const said = literals.join("");
    return {
        literals,
        letters: lettersIn(said),
        length: said.length,
        word: wordIn(key),
        continues: CONTINUES.test(key),
        fill,
    };
}

/**
 * The values of a text in a message; null when it is another one. The first letter may be a capital or not.
 * @param {string[]} literals
 * @param {string} message
 * @returns {string[] | null}
 */
function valuesIn(literals, message) {
    const first = literals[0];
    if (!message.startsWith(first) && !(first && message.startsWith(otherCase(first)))) return null;
    if (literals.length === 1) return message.length === first.length ? [] : null;
    const values = [];
    let place = first.length;
    for (const literal of literals.slice(1, -1)) {
        const found = message.indexOf(literal, place);
        if (found < 0) return null;
        values.push(message.slice(place, found));
        place = found + literal.length;
    }
    const last = literals[literals.length - 1];
    const end = message.length - last.length;
    if (end < place || !message.endsWith(last)) return null;
    return [...values, message.slice(place, end)];
}

/** Translates messages by a table of texts. */
export class Translator {
    /** @param {Record<string, string>} table English text with {placeholders} -> translation */
    constructor(table) {
        const templates = Object.entries(table).map(([key, translation]) => templateOf(key, translation));
        /** @type {Map<string, Template[]>} by a word that their messages have */
        this.templates = new Map();
        for (const template of templates) {
            if (template.literals.length === 1 || template.continues) continue;
            const others = this.templates.get(template.word) ?? [];
            this.templates.set(template.word, [...others, template]);
        }
        this.tails = templates.filter((template) => template.continues);
        this.terms = new Map(Object.entries(table).filter(([key]) => !PLACEHOLDER.test(key)));
        /** How hours, minutes and seconds are written. */
        this.times = ["{n} h", "{n} min", "{n} s"].map((key) => templateOf(key, table[key] ?? key));
        /** @type {Map<string, Reading>} */
        this.known = new Map();
    }

    /**
     * The message in the table's language, as far as its texts are in the table.
     * @param {string} message
     */
    translate(message) {
        if (typeof message !== "string" || message.length > LONGEST) return message;
        const { text, letters } = this.read(message, 0);
        return letters ? text : message;
    }

    /**
     * @param {string} text
     * @param {number} depth 0 for a message, more for values in it
     * @returns {Reading}
     */
    read(text, depth) {
        const time = DURATION.exec(text);
        if (time) return this.readTime(time.slice(1));
        if (depth > MOST_DEPTH || !/[A-Za-z]{2}/.test(text)) return { text, letters: 0 };
        const name = `${Math.min(depth, 1)}${text}`;
        const known = this.known.get(name);
        if (known) return known;
        if (this.known.size > 2000) this.known.clear();
        const best = this.better(
            this.readWhole(text, depth),
            () => this.readAside(text, depth),
            () => this.readPieces(text, depth),
            () => this.readList(text, depth),
        );
        this.known.set(name, best);
        return best;
    }

    /**
     * @param {(string | undefined)[]} numbers hours, minutes and seconds, as far as they are told
     * @returns {Reading}
     */
    readTime(numbers) {
        const parts = this.times.flatMap((time, index) => (numbers[index] ? [time.fill([numbers[index]])] : []));
        return { text: parts.join(" "), letters: 1 };
    }

    /**
     * The reading that explains the most; of equal ones the last, whose values are shorter.
     * @param {Reading} first
     * @param {(() => Reading)[]} others
     */
    better(first, ...others) {
        return others.reduce((best, other) => {
            const reading = other();
            return reading.letters > 0 && reading.letters >= best.letters ? reading : best;
        }, first);
    }

    /**
     * As one text, with or without a full stop, or as something with a text behind it.
     * @param {string} text
     * @param {number} depth
     * @returns {Reading}
     */
    readWhole(text, depth) {
        const term = this.terms.get(text) ?? this.terms.get(otherCase(text));
        if (term !== undefined) return { text: term, letters: lettersIn(text) };
        let best = { text, letters: 0 };
        if (!/\s/.test(text)) return best;
        for (const template of this.candidates(text, depth)) {
            const reading = this.filled(template, text, depth);
            if (reading.letters > best.letters) best = reading;
        }
        const bare = () => {
            const reading = this.read(text.slice(0, -1), depth);
            return { text: `${reading.text}。`, letters: reading.letters };
        };
        return this.better(best, ...(/[^.]\.$/.test(text) ? [bare] : []), () => this.readTail(text, depth));
    }

    /**
     * Templates that a text can be made from, those with the most letters first.
     * @param {string} text
     * @param {number} depth
     */
    candidates(text, depth) {
        const words = new Set(["", ...(text.toLowerCase().match(/[a-z]+/g) ?? [])]);
        return [...words]
            .flatMap((word) => this.templates.get(word) ?? [])
            .filter((template) => (depth || template.letters >= TELLING) && valuesIn(template.literals, text))
            .sort((one, other) => other.letters - one.letters || other.length - one.length)
            .slice(0, CANDIDATES);
    }

    /**
     * @param {Template} template
     * @param {string} text
     * @param {number} depth
     * @returns {Reading}
     */
    filled(template, text, depth) {
        const values = valuesIn(template.literals, text) ?? [];
        for (let index = 0; index + 1 < values.length; index++) {
            const between = template.literals[index + 1];
            if (!lettersIn(between)) this.divide(values, index, between, depth);
        }
        const readings = values.map((value) => this.read(value, depth + 1));
        const isTold = template.letters >= TELLING;
        const unread = values.filter((_, index) => !readings[index].letters);
        if (!isTold && unread.some((value) => WORDS.test(value))) return { text, letters: 0 };
        const letters = readings.reduce((sum, reading) => sum + reading.letters, template.letters);
        return { text: template.fill(readings.map((reading) => reading.text)), letters };
    }

    /**
     * Where two values meet at a mark that they may have inside too, the place that explains the most counts.
     * @param {string[]} values
     * @param {number} index
     * @param {string} mark
     * @param {number} depth
     */
    divide(values, index, mark, depth) {
        const both = values[index] + mark + values[index + 1];
        let most = -1;
        for (let place = both.indexOf(mark), tries = 0; place >= 0 && tries < MOST_PIECES; tries++) {
            const halves = [both.slice(0, place), both.slice(place + mark.length)];
            const letters = halves.reduce((sum, half) => sum + this.read(half, depth + 1).letters, 0);
            if (letters > most) {
                most = letters;
                [values[index], values[index + 1]] = halves;
            }
            place = both.indexOf(mark, place + 1);
        }
    }

    /**
     * @param {string} text
     * @param {number} depth
     * @returns {Reading}
     */
    readTail(text, depth) {
        let best = { text, letters: 0 };
        const lower = text.toLowerCase();
        for (const template of this.tails) {
            if (!lower.includes(template.word)) continue;
            const start = template.literals[0];
            for (let place = text.indexOf(start); place >= 0; place = text.indexOf(start, place + 1)) {
                if (!valuesIn(template.literals, text.slice(place))) continue;
                const tail = this.filled(template, text.slice(place), depth);
                const head = this.read(text.slice(0, place), depth + 1);
                // A message must have more than its end from here.
                if (!depth && !head.letters) continue;
                const letters = head.letters + tail.letters;
                if (letters > best.letters) best = { text: head.text + tail.text, letters };
            }
        }
        return best;
    }

    /**
     * As sentences or lines, some of which may be one text together.
     * @param {string} text
     * @param {number} depth
     * @returns {Reading}
     */
    readPieces(text, depth) {
        const breaks = [...text.matchAll(SENTENCE_END)].map((found) => [found.index, found.index + found[0].length]);
        if (!breaks.length) return { text, letters: 0 };
        if (breaks.length >= MOST_PIECES) return this.readInTwo(text, breaks[MOST_PIECES - 2], depth);
        const starts = [0, ...breaks.map(([, end]) => end)];
        const ends = [...breaks.map(([start]) => start), text.length];
        /** @type {Reading[]} the best of what is left from each piece on */
        const rest = Array(starts.length + 1);
        rest[starts.length] = { text: "", letters: 0 };
        for (let first = starts.length - 1; first >= 0; first--) {
            for (let last = first; last < starts.length; last++) {
                if (first === 0 && last === starts.length - 1) continue;
                const one = this.readWhole(text.slice(starts[first], ends[last]), depth);
                const letters = one.letters + rest[last + 1].letters;
                if (rest[first] && letters <= rest[first].letters) continue;
                const gap = last + 1 < starts.length ? text.slice(ends[last], starts[last + 1]) : "";
                const between = gap === " " && WIDE_AT_END.test(one.text) ? "" : gap;
                rest[first] = { text: one.text + between + rest[last + 1].text, letters };
            }
        }
        return rest[0];
    }

    /**
     * @param {string} text
     * @param {number[]} where
     * @param {number} depth
     * @returns {Reading}
     */
    readInTwo(text, [end, start], depth) {
        const [one, other] = [this.read(text.slice(0, end), depth), this.read(text.slice(start), depth)];
        return { text: one.text + text.slice(end, start) + other.text, letters: one.letters + other.letters };
    }

    /**
     * As something with an aside in brackets.
     * @param {string} text
     * @param {number} depth
     * @returns {Reading}
     */
    readAside(text, depth) {
        const [, head, aside] = /^([^]+?) \(([^]+)\)$/.exec(text) ?? [];
        if (!aside) return { text, letters: 0 };
        const [one, other] = [this.read(head, depth + 1), this.read(aside, depth + 1)];
        if (!depth && !one.letters) return { text, letters: 0 };
        // A text with brackets of its own counts more.
        return { text: `${one.text}（${other.text}）`, letters: one.letters + other.letters - 0.5 };
    }

    /**
     * As a list; in a message of its own every part of it must be a text.
     * @param {string} text
     * @param {number} depth
     * @returns {Reading}
     */
    readList(text, depth) {
        let best = { text, letters: 0 };
        for (const [mark, inMessage, inValue] of LISTS) {
            const parts = text.split(mark);
            if (parts.length === 1 || parts.length > 40) continue;
            const readings = parts.map((part) => this.read(part, depth + (depth ? 1 : 0)));
            if (!depth && readings.some((reading) => !reading.letters)) continue;
            // A text that has a colon counts more than what stands on its two sides.
            const letters = readings.reduce((sum, one) => sum + one.letters, mark === ": " ? -0.5 : 0);
            if (letters <= best.letters) continue;
            best = { text: readings.map((one) => one.text).join(depth ? inValue : inMessage), letters };
        }
        return best;
    }
}
