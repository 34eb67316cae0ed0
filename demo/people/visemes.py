"""What a mouth does while a phoneme is spoken."""

from .pose import Mouth

SHUT = Mouth()

VOWELS: dict[str, Mouth] = {
    "i": Mouth(0.20, 0.95),
    "I": Mouth(0.28, 0.65),
    "e": Mouth(0.42, 0.65),
    "E": Mouth(0.50, 0.50),
    "a": Mouth(0.85, 0.25),
    "&": Mouth(0.75, 0.45),
    "A": Mouth(0.95, 0.0),
    "V": Mouth(0.62, 0.05),
    "0": Mouth(0.70, -0.35),
    "O": Mouth(0.62, -0.60),
    "o": Mouth(0.46, -0.80),
    "U": Mouth(0.28, -0.75),
    "u": Mouth(0.20, -1.0),
    "y": Mouth(0.20, -0.85),
    "Y": Mouth(0.40, -0.70),
    "W": Mouth(0.52, -0.50),
    "@": Mouth(0.34, 0.05),
    "3": Mouth(0.40, -0.20),
}
"""By the sign of espeak-ng's notation that a vowel begins with; a diphthong ends with its second one."""

CONSONANTS: dict[str, Mouth] = {
    **dict.fromkeys("mbp", Mouth(0.0, 0.0, press=1.0)),
    **dict.fromkeys("fv", Mouth(0.10, 0.1, teeth=0.75, press=0.35)),
    **dict.fromkeys("szc", Mouth(0.16, 0.50, teeth=1.0)),
    **dict.fromkeys("SZC", Mouth(0.20, -0.55, teeth=0.95)),
    **dict.fromkeys("TD", Mouth(0.22, 0.15, teeth=0.45, tongue=0.7)),
    **dict.fromkeys("lL", Mouth(0.34, 0.1, tongue=1.0)),
    **dict.fromkeys("tdn", Mouth(0.22, 0.15, teeth=0.35, tongue=0.7)),
    **dict.fromkeys("rR*", Mouth(0.26, -0.35, tongue=0.3)),
    "w": Mouth(0.16, -1.0),
    "j": Mouth(0.22, 0.75),
    **dict.fromkeys("kgNxhHqQGX?", Mouth(0.30, 0.0)),
}
"""By the first sign. Together, t and S or d and Z are what they end with."""

SILENCES = "_|'-,=%"


def viseme(phoneme: str) -> tuple[Mouth, Mouth]:
    """The mouth at the beginning and at the end of a phoneme in espeak-ng's notation."""
    if not phoneme or phoneme[0] in SILENCES:
        return SHUT, SHUT
    if phoneme[0] in "td" and phoneme[1:2] in ("S", "Z", "s", "z"):
        return CONSONANTS["t"], CONSONANTS[phoneme[1]]
    if phoneme[0] in VOWELS:
        last = next((sign for sign in reversed(phoneme) if sign in VOWELS), phoneme[0])
        return VOWELS[phoneme[0]], VOWELS[last]
    mouth = CONSONANTS.get(phoneme[0], CONSONANTS["k"])
    return mouth, mouth


def group_of(phoneme: str) -> str | None:
    """One of five groups of vowels that a mouth tells apart, for tables of confusion; None for what is none of them."""
    return _GROUPS.get(phoneme[:1])


_GROUPS = {
    sign: group for group, signs in {"i": "iI", "e": "eE", "a": "aA&", "o": "oO", "u": "uU"}.items() for sign in signs
}
