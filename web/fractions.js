// Exact numbers, as Python's fractions.Fraction has them.

/** @typedef {{ readonly n: bigint, readonly d: bigint }} Fraction lowest terms, d above 0 */

const NUMBER = /^([+-]?)(\d*)(?:\.(\d*))?(?:e([+-]?\d{1,3}))?$/i;

/** @param {bigint} a @param {bigint} b @returns {bigint} */
function gcd(a, b) {
    return b ? gcd(b, a % b) : a < 0n ? -a : a;
}

/**
 * @param {bigint | number} n
 * @param {bigint | number} [d]
 * @returns {Fraction}
 */
export function fraction(n, d = 1) {
    const [top, bottom] = [BigInt(n), BigInt(d)];
    const common = gcd(top, bottom) * (bottom < 0n ? -1n : 1n);
    return { n: top / common, d: bottom / common };
}

/** @param {string} text @returns {Fraction | null} */
function decimal(text) {
    const parts = NUMBER.exec(text);
    if (!parts || !(parts[2] || parts[3])) return null;
    const [, sign, whole, behind = "", exponent = "0"] = parts;
    const shift = Number(exponent) - behind.length;
    const digits = BigInt(`${sign === "-" ? "-" : ""}${whole}${behind}`);
    return shift < 0 ? fraction(digits, 10n ** BigInt(-shift)) : fraction(digits * 10n ** BigInt(shift));
}

/**
 * The number that a user typed: 0.1 is 1/10, not its binary neighbour. null for anything else.
 * @param {unknown} value a number, or a text such as "25" and "30000/1001"
 * @returns {Fraction | null}
 */
export function exact(value) {
    if (typeof value !== "number" && typeof value !== "string") return null;
    const [top, bottom, ...more] = String(value).trim().split("/");
    const [n, d] = [decimal(top), decimal(bottom ?? "1")];
    return n && d && d.n && !more.length ? divide(n, d) : null;
}

/** @param {Fraction} a @param {Fraction} b */
export const multiply = (a, b) => fraction(a.n * b.n, a.d * b.d);

/** @param {Fraction} a @param {Fraction} b */
export const divide = (a, b) => fraction(a.n * b.d, a.d * b.n);

/** @param {Fraction} a @param {Fraction} b */
export const add = (a, b) => fraction(a.n * b.d + b.n * a.d, a.d * b.d);

/** @param {Fraction} a @param {Fraction} b */
export const subtract = (a, b) => fraction(a.n * b.d - b.n * a.d, a.d * b.d);

/** Below 0, 0 or above 0, as a is less than, equal to or more than b. @param {Fraction} a @param {Fraction} b */
export function compare(a, b) {
    const [left, right] = [a.n * b.d, b.n * a.d];
    return left < right ? -1 : left > right ? 1 : 0;
}

/** @param {Fraction} a */
export function floor(a) {
    const whole = a.n / a.d;
    return a.n < 0n && whole * a.d !== a.n ? whole - 1n : whole;
}

/** @param {Fraction} a */
export const magnitude = (a) => ({ n: a.n < 0n ? -a.n : a.n, d: a.d });

/** @param {Fraction} a */
export const ceil = (a) => -floor({ n: -a.n, d: a.d });

/** @param {Fraction} a */
export const toNumber = (a) => Number(a.n) / Number(a.d);

/**
 * The closest fraction with no larger denominator; of two equally close ones that with the smaller denominator.
 * @param {Fraction} a
 * @param {bigint} most
 * @returns {Fraction}
 */
export function limitDenominator(a, most) {
    if (a.d <= most) return a;
    let [p0, q0, p1, q1] = [0n, 1n, 1n, 0n];
    let { n, d } = a;
    for (;;) {
        const whole = floor({ n, d });
        const next = q0 + whole * q1;
        if (next > most) break;
        [p0, q0, p1, q1] = [p1, q1, p0 + whole * p1, next];
        [n, d] = [d, n - whole * d];
    }
    const k = (most - q0) / q1;
    const bounds = [fraction(p1, q1), fraction(p0 + k * p1, q0 + k * q1)];
    const [first, second] = bounds.map((bound) => magnitude(subtract(bound, a)));
    return compare(first, second) <= 0 ? bounds[0] : bounds[1];
}

/** "3" and "30000/1001", as Python writes a fraction. @param {Fraction} a */
export const fractionText = (a) => (a.d === 1n ? `${a.n}` : `${a.n}/${a.d}`);
