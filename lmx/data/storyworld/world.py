"""What is true in a story at a given moment, and who is in it."""

from __future__ import annotations

from dataclasses import dataclass

from lmx.data.storyworld.lexicon import BEASTS, FEMALE
from lmx.data.storyworld.teller import Teller

_SHE = {"he": "she", "him": "her", "his": "her", "He": "She", "His": "Her"}
_HE = {"he": "he", "him": "him", "his": "his", "He": "He", "His": "His"}
_FEMALE_KIN = frozenset({"mother", "grandma", "aunt", "sister"})
_CALLED = {"mother": "Mom", "father": "Dad", "sister": "Sis", "brother": "Bro"}


@dataclass(slots=True)
class World:
    """The state that later sentences depend on.

    Words (names, colors, things) are in the teller's slots; here is what becomes of them.
    """

    weather: str = "sunny"
    company: str = "none"  # who or what comes along: toy, friend, pet
    toy_with: str = "nobody"  # hero, friend; nobody while it is lost or where there is none
    food: bool = False  # packed and not eaten yet
    keepsake: bool = True  # still in the hero's pocket
    away: bool = False  # from home
    promised: bool = False  # to be back in time
    wet: bool = False
    lesson: str = ""


def introduce_hero(t: Teller) -> None:
    """Fix the hero's pronouns, once slots `kind` and `hero` are told."""
    t.know(
        **(_SHE if t.slots["hero"] in FEMALE else _HE), hand="paw" if t.slots["kind"] in BEASTS else "hand"
    )


def introduce_kin(t: Teller) -> None:
    """Fix what the elder of the family is called, once slot `kin` is told."""
    kin = t.slots["kin"]
    t.know(
        elder=f"{t.slots['his']} {kin}",
        Elder=f"{t.slots['His']} {kin}",
        call=_CALLED.get(kin, kin.capitalize()),
        elder_he="she" if kin in _FEMALE_KIN else "he",
    )


def introduce_friend(t: Teller) -> None:
    """Fix the friend's pronouns, once slot `friend` is told."""
    words = _SHE if t.slots["friend"] in FEMALE else _HE
    t.know(friend_he=words["he"], friend_him=words["him"], friend_his=words["his"])


def somebody(t: Teller) -> None:
    """Tell for whom something is done; slot `guest`, and `Guest` at the beginning of a sentence."""
    who = t.decide(kin="4:{elder}.", neighbor="3:the", friend="4:{his} friend")
    if who == "kin":
        name = t.slots["elder"]
    elif who == "neighbor":
        t.tell("<neighbor@neighbor>.")
        name = f"the {t.slots['neighbor']}"
    else:
        t.tell("<friend:hero@friend>.")
        introduce_friend(t)
        name = t.slots["friend"]
    t.know(guest=name, Guest=name[0].upper() + name[1:])


def reward(t: Teller, w: World) -> None:
    """Thank slot `helper` out of the basket, where there is food, or with what is in the pocket."""
    if w.food:
        w.food = False
        t.tell(
            """{hero} [gave|offered] {helper} the {fruit} and <smiled>.|
            {hero} [opened|held out] the {bag}, and they shared the {bite}."""
        )
    elif t.decide(words="3:<thanks>", keepsake="2:{hero} was <glad> and gave {helper}") == "words":
        t.tell("{he} <said> <warmly>.")
    else:
        w.keepsake = False
        t.tell("the {keep}[.| as a present.| and a hug.]")
