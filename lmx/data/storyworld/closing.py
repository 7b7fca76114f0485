"""How a story ends: what is still open is settled, and what was learned is said."""

from __future__ import annotations

from lmx.data.storyworld.teller import Teller
from lmx.data.storyworld.world import World

_LESSONS = {
    "care": "to look after {his} things|that lost things can be found|to [look twice|keep calm]",
    "help": "to [ask for|give] help|that [helping|kindness] is worth more than gold|to say thank you",
    "repair": "that broken things can be fixed|not to [give up|cry] too soon|how to use {mend}",
    "share": "that sharing is <fine>|to [share {his} {toy}|think of others]|that two have more fun than one",
    "friendship": "that a friend is worth more than <a odd> <trifle>|to be [kind|good] to {friend}|that "
    "friends are <fine>",
    "storm": "that every storm ends|that [thunder|rain] is <fine>|to [watch|trust] the sky",
    "courage": "that fear gets smaller|to be [brave|bold]|that the {fear} is <fine>",
    "effort": "to [go on|try again]|that cake is best when shared|where to find {treat}",
    "patience": "to wait|that [small|little] things grow|to [care|be patient]",
    "gift": "that giving is <fine>|to keep a [secret|surprise]|how to make a {craft}",
    "truth": "to tell the truth|that the truth is <fine>|not to [hide|lie]",
    "kindness": "to be [kind|gentle] to every {patient}|that love heals|that [love|care] is <fine>",
}


def close(t: Teller, w: World) -> None:
    """Settle what is still open, then say what was learned or how the day ended."""
    t.paragraph()
    if w.food:
        t.tell("{hero} [3:was hungry and ate|ate|finished] the {bite} <spot>.")
    if w.promised:
        t.tell(("{hero} was" if w.company == "toy" else "They were") + " [home|back] before {meal}.")
    if w.toy_with == "friend":
        t.tell("{hero} lent {friend} the {toy} until <day>.")
    if w.wet:
        t.tell("{Elder} hung up the wet {wear} and made <food>, <food> and <sip> <drink>.")
    else:
        t.tell(
            ("[At home|That night]" if w.away else "[Later|For dinner]")
            + ", they [ate|had|shared] <food>, <food> and <food>."
        )
    _end(t, w)


def _end(t: Teller, w: World) -> None:
    endings = {
        "learned": "5:{hero} [had learned|never forgot]",
        "dreamed": "7:{hero} dreamed of",
    }
    if w.toy_with == "hero":
        endings["toy"] = "6:{hero} put the {toy} next to"
    if w.keepsake:
        endings["keepsake"] = "4:{hero} fell asleep with the {keep} and"
    ending = t.decide(**endings)
    if ending == "dreamed":
        t.tell("<count> <mood> <creature>s, <a mood> <creature> and <a odd> <trifle>.")
    elif ending == "toy":
        t.tell("<a odd> <trifle> and fell asleep with <a odd> <trifle> in {his} {hand}.")
    elif ending == "keepsake":
        t.tell("dreamed of <a mood> <creature> and <count> <odd> <trifle>s.")
    else:
        t.tell(f"[{_LESSONS[w.lesson]}].")
