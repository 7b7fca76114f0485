"""How a story begins: who it is about, and how the day starts."""

from __future__ import annotations

from lmx.data.storyworld.teller import Teller
from lmx.data.storyworld.world import World, introduce_friend, introduce_hero, introduce_kin


def introduce(t: Teller) -> None:
    """Say who the story is about, how the hero looks and lives, what the hero likes and carries."""
    t.tell(
        """6:Once upon a time, there was|5:There once was|4:Long ago lived|3:Far away lived|5:Once there
        was|4:There lived|
        3:In <a house> [town|village|valley|street] lived|2:This is the story of"""
    )
    t.tell("<a trait> <kind@kind> [2:named|called] <name:kind@hero>.")
    introduce_hero(t)
    t.tell(
        """{He} [3:wore|always wore] <a odd@wear_look> <wear@wear> and lived with {his} <trait> <kin@kin>
        <home:kind>.|
        {He} lived with {his} <trait> <kin@kin> <home:kind> and [3:wore|always wore] <a odd@wear_look>
        <wear@wear>."""
    )
    introduce_kin(t)
    t.tell(
        """6:{He} [loved|liked] to <hobby>[2:.|, too.]|3:Every [morning|evening|Sunday|winter|summer], {he}
        would <hobby>.|
        2:{Elder} was <a neighbor> and [loved|liked] <food>.|4:They [loved|liked|often had] <food>, <food>
        and <food>."""
    )
    t.tell(
        "In {his} [3:pocket|{wear}] {he} [3:kept|2:had|carried] <a odd> <trinket@keep>, <a odd> <trinket> "
        "and <count> <odd> <trinket>s."
    )


def begin_day(t: Teller, w: World) -> str:
    """Say what day it is and what the hero sets out to do; return the name of what happens."""
    t.paragraph()
    t.tell("One")
    w.weather = t.decide(
        sunny="5:sunny|4:bright|4:warm|3:golden|3:hot",
        windy="4:windy|3:breezy|2:stormy",
        cloudy="4:cloudy|3:gray|2:foggy",
        cold="3:cold|3:chilly|2:frosty",
    )
    t.tell("[5:morning|4:day|4:afternoon|8:<day>],")
    beginning = t.decide(
        outing="20:{hero} <ran> to the",
        baking="4:{hero} wanted to [bake|make]",
        garden="4:{hero} found",
        gift="4:{hero} had a [secret|plan|surprise]:",
        truth="4:{hero} was [playing|running|dancing|jumping] near",
        rescue="4:{hero} heard",
    )
    if beginning == "outing":
        _set_out(t, w)
    return beginning


def _set_out(t: Teller, w: World) -> None:
    """Go to a place, with somebody or something; the elder may pack food or ask for a promise."""
    w.away = True
    t.tell("<place@place>")
    w.company = t.decide(toy="7:with", friend="5:together with", pet="5:and took")
    if w.company == "toy":
        w.toy_with = "hero"
        t.tell("<a odd> <toy@toy>.")
    elif w.company == "friend":
        t.tell("<friend:hero@friend>, {his} <trait> [3:friend|cousin|neighbor].")
        introduce_friend(t)
    else:
        t.tell("{his} <mood> <pet@pet> <pet_name@pet_name> along.")
    parting = t.decide(
        packed="6:{Elder} packed", promised='3:"Be back before', plain="6:On the way, {he} [saw|met|passed]"
    )
    if parting == "packed":
        w.food = True
        t.tell("<a fruit@fruit>, <a bite@bite> and <sip> <drink@drink> in <a odd> <bag@bag>.")
    elif parting == "promised":
        w.promised = True
        t.tell('<meal@meal>!" {elder} <said> <warmly>.')
    else:
        t.tell("<sight>, <sight> and <sight>.")
