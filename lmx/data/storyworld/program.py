"""The story program: one way through the story world, taken by whoever tells it."""

from __future__ import annotations

from lmx.data.storyworld import homely
from lmx.data.storyworld.adventures import explore
from lmx.data.storyworld.closing import close
from lmx.data.storyworld.grammar import Grammar
from lmx.data.storyworld.lexicon import FEELINGS, PEOPLE, THINGS
from lmx.data.storyworld.opening import begin_day, introduce
from lmx.data.storyworld.places import PLACES
from lmx.data.storyworld.playthings import play
from lmx.data.storyworld.teller import Teller
from lmx.data.storyworld.world import World

GRAMMAR = Grammar({**PEOPLE, **FEELINGS, **THINGS, **PLACES})

_AT_HOME = {
    "baking": homely.bake,
    "garden": homely.grow,
    "gift": homely.give,
    "truth": homely.confess,
    "rescue": homely.rescue,
}


def tell_story(t: Teller) -> None:
    """Tell one story from beginning to end."""
    w = World()
    introduce(t)
    beginning = begin_day(t, w)
    if beginning != "outing":
        _AT_HOME[beginning](t, w)
    elif w.company == "toy":
        play(t, w)
    else:
        explore(t, w)
    close(t, w)
