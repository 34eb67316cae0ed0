// The text of Clip Scheduler's `takes`, read and written as liveavatar_runtime/sampling/takes.py does; one table of cases
// tests both (tests/runtime/take_cases.json). And what becomes of it when a clip is made again.

/**
 * Take `number` of a clip, counted from 0, alone or of all clips from it on; 0 is the take without this one.
 * @typedef {{ clip: number, number: number, alone: boolean }} Take
 */

const TAKE = /^[ \t\r\f\v]*([0-9]{1,9})[ \t\r\f\v]*(-?)[ \t\r\f\v]*[:=][ \t\r\f\v]*([0-9]{1,9})[ \t\r\f\v]*$/;
const BLANK = /^[ \t\r\f\v]*$/;

/** Of the same clip and kind. @param {Take} one @param {Take} other */
const isSamePlace = (one, other) => one.clip === other.clip && one.alone === other.alone;

/** @param {Take} one @param {Take} other */
const isSame = (one, other) => isSamePlace(one, other) && one.number === other.number;

/** @param {Take[]} takes */
const sorted = (takes) => [...takes].sort((one, other) => one.clip - other.clip || +one.alone - +other.alone);

/**
 * Takes by ascending clip, without those of number 0; null for what Python refuses.
 * @param {string} text
 * @returns {Take[] | null}
 */
export function parseTakes(text) {
    /** @type {Take[]} */
    const found = [];
    for (const part of text.normalize("NFKC").split(/[\n;,]/)) {
        if (BLANK.test(part)) continue;
        const [, clip, on, number] = TAKE.exec(part) ?? [];
        if (!Number(clip)) return null;
        const take = { clip: Number(clip) - 1, number: Number(number), alone: !on };
        if (found.some((other) => isSamePlace(other, take))) return null;
        found.push(take);
    }
    return sorted(found.filter((take) => take.number));
}

/** What `parseTakes` reads. @param {Take[]} takes */
export const printTakes = (takes) =>
    takes.map(({ clip, number, alone }) => `${clip + 1}${alone ? "" : "-"}: ${number}`).join(", ");

/**
 * The takes when a clip gets another one. What is before the clip stays, and so does all else when it is the clip alone;
 * from the clip on, the takes of later clips go with the video that they were made for.
 * @param {Take[]} takes
 * @param {Take} take of number 0 to take one away
 */
export function withTake(takes, take) {
    const kept = takes.filter((other) =>
        take.alone ? !isSamePlace(other, take) : other.clip < take.clip && !isSamePlace(other, take),
    );
    return sorted(take.number ? [...kept, take] : kept);
}

/**
 * The takes when a clip goes back to an earlier take: from the clip on that is the video as it was with it, with the
 * takes of later clips that it had last.
 * @param {Take[]} takes
 * @param {Take} take
 * @param {Take[][]} history all that `takes` was, the newest last
 */
export function backTo(takes, take, history) {
    const plain = withTake(takes, take);
    if (take.alone) return plain;
    const before = (/** @type {Take[]} */ all) => printTakes(all.filter((other) => other.clip < take.clip));
    const numberOf = (/** @type {Take[]} */ all) => all.find((other) => isSamePlace(other, take))?.number ?? 0;
    const fits = history.filter((all) => numberOf(all) === take.number && before(all) === before(plain));
    return fits.at(-1) ?? plain;
}

/**
 * Numbers of the takes of a clip, ascending; 0 is one of them where there are others.
 * @param {{ clip: number, alone: boolean }} place
 * @param {Take[][]} history
 */
export function numbersOf(place, history) {
    const takes = history.flat().filter((take) => isSamePlace(take, { ...place, number: 0 }));
    const numbers = [...new Set(takes.map((take) => take.number))].sort((one, other) => one - other);
    return numbers.length ? [0, ...numbers] : [];
}

/**
 * A number that no take of the clip has had: one of the clip alone and one from it on look the same in it.
 * @param {number} clip
 * @param {Take[][]} history
 */
export const nextNumber = (clip, history) =>
    Math.max(0, ...history.flat().map((take) => (take.clip === clip ? take.number : 0))) + 1;

/**
 * Of a video of so many clips, those that are others with `after` than with `before`.
 * @param {Take[]} before
 * @param {Take[]} after
 * @param {number} clips
 * @returns {Set<number>} counted from 0
 */
export function changedClips(before, after, clips) {
    const differs = [before, after].flatMap((takes, side) =>
        takes.filter((take) => ![after, before][side].some((other) => isSame(other, take))),
    );
    const first = Math.min(clips, ...differs.filter((take) => !take.alone).map((take) => take.clip));
    const single = differs.filter((take) => take.alone && take.clip < clips).map((take) => take.clip);
    return new Set([...single, ...Array.from({ length: clips - first }, (_, place) => first + place)]);
}
